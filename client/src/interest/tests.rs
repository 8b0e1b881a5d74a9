use bytes::Bytes;

use super::*;
use crate::event::Event;

const A: LinkId = LinkId::new(1);
const B: LinkId = LinkId::new(2);
const BOUNDS: Bounds = Bounds {
    batch: 1000,
    subscriptions: usize::MAX,
};

fn shard(n: u8) -> ShardId {
    ShardId::new([n; 16])
}

fn interest() -> Interest {
    Interest::new(&Config::new("h").unwrap())
}

impl Interest {
    /// A session is lost.
    pub(super) fn leaves(&mut self, link: LinkId) {
        let (now, mut after) = (Instant::now(), None);
        loop {
            after = self.detach(link, End::Lost, after, now, &mut Told::default());
            if after.is_none() {
                return;
            }
        }
    }
}

fn attached(wire: Wire, bounds: Bounds) -> Interest {
    let mut interest = interest();
    interest.attach(A, wire, bounds, Arc::default());
    interest
}

/// The session's frames, as far as there are any.
fn frames(interest: &mut Interest, link: LinkId) -> Vec<Frame> {
    std::iter::from_fn(|| interest.next_frame(link, Instant::now())).collect()
}

/// Answers what the frames ask for; the events that come of it.
fn answer(
    interest: &mut Interest,
    link: LinkId,
    frames: &[Frame],
    highest: Option<u64>,
) -> Vec<Event> {
    let mut out = Told::default();
    for frame in frames {
        if let Frame::Subscribe { request, shards } = frame {
            let heads: Vec<_> = shards
                .iter()
                .map(|&(shard, _)| Head { shard, highest })
                .collect();
            interest.subscribed(link, *request, &heads, Instant::now(), &mut out);
        }
    }
    events(&out)
}

fn events(told: &Told) -> Vec<Event> {
    told.events.iter().map(|q| q.event().clone()).collect()
}

fn diff(interest: &mut Interest, link: LinkId, n: u8, seqno: u64) -> (Outcome, Vec<Event>) {
    let mut out = Told::default();
    let diff = Diff {
        shard: shard(n),
        seqno,
        committed: 0,
        diff: Bytes::new(),
    };
    let outcome = interest.diff(link, diff, Instant::now(), &mut out);
    (outcome, events(&out))
}

fn gap(interest: &mut Interest, n: u8, from: u64, to: u64) -> Outcome {
    let gap = Gap {
        shard: shard(n),
        from,
        to,
        highest: to,
    };
    interest.gap(A, &gap, Instant::now(), &mut Told::default())
}

#[test]
fn two_tokens_are_one_subscription() {
    let mut interest = attached(Wire::V1, BOUNDS);
    interest.subscribe(shard(1), None);
    interest.subscribe(shard(1), Some(7));
    let asked = frames(&mut interest, A);
    assert_eq!(
        asked,
        [Frame::Subscribe {
            request: 1,
            shards: vec![(shard(1), None)]
        }]
    );
    interest.release(shard(1));
    assert_eq!(frames(&mut interest, A), []);
    interest.release(shard(1));
    assert_eq!(
        frames(&mut interest, A),
        [Frame::Unsubscribe {
            request: 2,
            shards: vec![shard(1)]
        }]
    );
}

#[test]
fn a_new_incarnation_hears_nothing_of_the_earlier() {
    let mut interest = attached(Wire::V1, BOUNDS);
    interest.subscribe(shard(1), Some(1));
    let asked = frames(&mut interest, A);
    assert_eq!(answer(&mut interest, A, &asked, Some(1)), []);
    assert_eq!(diff(&mut interest, A, 1, 2).0, Outcome::Told);

    interest.release(shard(1));
    interest.subscribe(shard(1), None);
    assert_eq!(diff(&mut interest, A, 1, 3).0, Outcome::Stale);
    let again = frames(&mut interest, A);
    assert_eq!(
        again,
        [
            Frame::Unsubscribe {
                request: 2,
                shards: vec![shard(1)]
            },
            Frame::Subscribe {
                request: 3,
                shards: vec![(shard(1), None)]
            }
        ]
    );
    assert_eq!(diff(&mut interest, A, 1, 3).0, Outcome::Stale);
    assert_eq!(gap(&mut interest, 1, 3, 3), Outcome::Stale);
    // The answer to the earlier request does not pass for the later's.
    assert_eq!(answer(&mut interest, A, &asked, Some(3)), []);
    assert_eq!(diff(&mut interest, A, 1, 3).0, Outcome::Stale);

    let resync = Event::Resync {
        shard: shard(1),
        highest: Some(3),
    };
    assert_eq!(answer(&mut interest, A, &again, Some(3)), [resync]);
    assert_eq!(diff(&mut interest, A, 1, 4).0, Outcome::Told);
}

#[test]
fn what_was_never_asked_for_is_not_given_back() {
    let mut interest = attached(Wire::V1, BOUNDS);
    interest.subscribe(shard(1), None);
    interest.release(shard(1));
    assert_eq!(frames(&mut interest, A), []);
}

#[test]
fn resumes_from_what_the_host_was_told() {
    let mut interest = attached(Wire::V1, BOUNDS);
    for n in 1..=4 {
        interest.subscribe(shard(n), Some(10));
    }
    let asked = frames(&mut interest, A);
    assert_eq!(answer(&mut interest, A, &asked, Some(10)), []);
    diff(&mut interest, A, 1, 11);
    gap(&mut interest, 2, 11, 15);
    gap(&mut interest, 3, 4, 5);
    interest.leaves(A);
    interest.attach(B, Wire::V1, BOUNDS, Arc::default());
    assert_eq!(
        frames(&mut interest, B),
        [Frame::Subscribe {
            request: 1,
            shards: vec![
                (shard(1), Some(11)),
                (shard(2), Some(15)),
                (shard(3), Some(10)),
                (shard(4), Some(10))
            ]
        }]
    );
}

#[test]
fn says_resync_exactly_when_the_server_cannot_say_what_was_missed() {
    for (have, highest, resync) in [
        (Some(10), Some(10), false),
        (Some(10), Some(12), false),
        (Some(10), None, true),
        (Some(10), Some(9), true),
        (None, None, true),
        (None, Some(5), true),
    ] {
        let mut interest = attached(Wire::V1, BOUNDS);
        interest.subscribe(shard(1), have);
        let asked = frames(&mut interest, A);
        let told = answer(&mut interest, A, &asked, highest);
        let expected = Event::Resync {
            shard: shard(1),
            highest,
        };
        let expected = if resync { vec![expected] } else { vec![] };
        assert_eq!(told, expected, "{have:?} {highest:?}");
    }
}

#[test]
fn a_server_that_knows_less_is_asked_again_from_its_head() {
    let mut interest = attached(Wire::V1, BOUNDS);
    interest.subscribe(shard(1), Some(1_000));
    let asked = frames(&mut interest, A);
    answer(&mut interest, A, &asked, Some(5));
    assert_eq!(diff(&mut interest, A, 1, 6).0, Outcome::Stale);
    let again = frames(&mut interest, A);
    assert_eq!(
        again,
        [
            Frame::Unsubscribe {
                request: 2,
                shards: vec![shard(1)]
            },
            Frame::Subscribe {
                request: 3,
                shards: vec![(shard(1), Some(5))]
            }
        ]
    );
    assert_eq!(answer(&mut interest, A, &again, Some(5)), []);
    assert_eq!(diff(&mut interest, A, 1, 6).0, Outcome::Told);
}

/// Beside another session it is asked from there, and the host stays where
/// that one has brought it.
#[test]
fn a_new_server_that_knows_less_is_asked_again_from_its_head() {
    let mut interest = attached(Wire::V1, BOUNDS);
    interest.subscribe(shard(1), Some(7));
    let asked = frames(&mut interest, A);
    answer(&mut interest, A, &asked, Some(7));
    interest.attach(B, Wire::V1, BOUNDS, Arc::default());
    let asked = frames(&mut interest, B);
    assert_eq!(answer(&mut interest, B, &asked, Some(5)), []);
    let again = frames(&mut interest, B);
    assert_eq!(
        again[1],
        Frame::Subscribe {
            request: 3,
            shards: vec![(shard(1), Some(5))]
        }
    );
    assert_eq!(answer(&mut interest, B, &again, Some(5)), []);
    assert_eq!(diff(&mut interest, B, 1, 6).0, Outcome::Duplicate);
    assert_eq!(diff(&mut interest, A, 1, 8).0, Outcome::Told);
}

#[test]
fn two_sessions_bring_each_diff_once() {
    let mut interest = attached(Wire::V1, BOUNDS);
    interest.subscribe(shard(1), Some(1));
    let asked = frames(&mut interest, A);
    answer(&mut interest, A, &asked, Some(1));
    interest.attach(B, Wire::V1, BOUNDS, Arc::default());
    assert!(interest.next_due().is_none());
    let asked = frames(&mut interest, B);
    assert_eq!(diff(&mut interest, A, 1, 2).0, Outcome::Told);
    // The answer is about what was asked for, not about what came meanwhile.
    assert_eq!(answer(&mut interest, B, &asked, Some(1)), []);
    assert!(interest.next_due().is_none());
    assert_eq!(diff(&mut interest, B, 1, 2).0, Outcome::Duplicate);
    assert_eq!(diff(&mut interest, B, 1, 3).0, Outcome::Told);
    assert_eq!(diff(&mut interest, A, 1, 3).0, Outcome::Duplicate);
    assert_eq!(diff(&mut interest, A, 1, 4).0, Outcome::Told);
}

#[test]
fn requests_keep_to_the_servers_bounds() {
    let bounds = Bounds {
        batch: 2,
        subscriptions: 5,
    };
    let mut interest = attached(Wire::V1, bounds);
    for n in 1..=9 {
        interest.subscribe(shard(n), Some(0));
    }
    let asked = frames(&mut interest, A);
    let sizes: Vec<_> = asked
        .iter()
        .map(|frame| match frame {
            Frame::Subscribe { shards, .. } => shards.len(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sizes, [2, 2, 1]);
    assert_eq!(interest.refused(), 4);
    answer(&mut interest, A, &asked, Some(0));
    assert!(interest.next_due().is_none());
    interest.release(shard(1));
    assert_eq!(frames(&mut interest, A).len(), 2, "one leaves, one joins");
    assert_eq!(interest.refused(), 3);
}

#[test]
fn a_refused_request_comes_back_in_smaller_ones() {
    let mut interest = attached(Wire::V1, BOUNDS);
    for n in 1..=4 {
        interest.subscribe(shard(n), None);
    }
    assert_eq!(frames(&mut interest, A).len(), 1);
    assert_eq!(interest.refuse(A, 99), 0);
    assert_eq!(interest.refuse(A, 1), 4);
    assert_eq!(interest.refused(), 4);
    assert_eq!(frames(&mut interest, A), [], "not before the retry");
    interest.release(shard(4));
    interest.retry_refused(A);
    let again = frames(&mut interest, A);
    assert_eq!(again.len(), 2, "{again:?}");
    assert_eq!(answer(&mut interest, A, &again, None).len(), 3);
}

#[test]
fn v0_says_resync_and_notices_holes() {
    let mut interest = attached(Wire::V0, Bounds { batch: 1, ..BOUNDS });
    interest.subscribe(shard(1), None);
    interest.subscribe(shard(2), Some(3));
    assert_eq!(frames(&mut interest, A).len(), 2);
    let mut out = Told::default();
    interest.take_unanswerable(A, Instant::now(), &mut out);
    assert_eq!(out.events.len(), 2);
    interest.take_unanswerable(A, Instant::now(), &mut out);
    assert_eq!(out.events.len(), 2, "once each");

    let hole = |n, from, to, highest| Event::Gap {
        shard: shard(n),
        from,
        to,
        highest,
    };
    assert_eq!(diff(&mut interest, A, 1, 9).1[0], hole(1, 0, 8, 9));
    assert_eq!(diff(&mut interest, A, 1, 10).1.len(), 1);
    assert_eq!(diff(&mut interest, A, 1, 13).1[0], hole(1, 11, 12, 13));
    assert_eq!(diff(&mut interest, A, 1, 12).0, Outcome::Duplicate);
    assert_eq!(diff(&mut interest, A, 2, 4).1.len(), 1);
}

/// A gap may be one client's mistake, passed on by the server: what is true
/// and lies below it is told all the same, and a reconnect asks from there.
#[test]
fn a_gap_that_claims_too_much_silences_nothing() {
    let mut interest = attached(Wire::V1, BOUNDS);
    interest.subscribe(shard(1), Some(10));
    let asked = frames(&mut interest, A);
    answer(&mut interest, A, &asked, Some(10));
    // Doubted by the server: above the highest that it believes.
    let far = 1 << 40;
    let doubted = Gap {
        shard: shard(1),
        from: far,
        to: far,
        highest: 10,
    };
    let told = interest.gap(A, &doubted, Instant::now(), &mut Told::default());
    assert_eq!(told, Outcome::Told);
    assert_eq!(diff(&mut interest, A, 1, 11).0, Outcome::Told);
    // Believed for a while, and then not any more.
    assert_eq!(gap(&mut interest, 1, 12, far), Outcome::Told);
    assert_eq!(diff(&mut interest, A, 1, 12).0, Outcome::Told);
    assert_eq!(diff(&mut interest, A, 1, 12).0, Outcome::Duplicate);
    assert_eq!(diff(&mut interest, A, 1, 11).0, Outcome::Duplicate);
}

/// A resync for each shard, in the order of their moments and not before; the
/// same for the same seed.
#[tokio::test(start_paused = true)]
async fn what_is_owed_is_told_at_its_moment() {
    let mut rounds = Vec::new();
    for _ in 0..2 {
        fastrand::seed(3);
        let begin = Instant::now();
        let mut interest = attached(Wire::V1, BOUNDS);
        for n in 0..100 {
            interest.subscribe(shard(n), Some(1));
        }
        let asked = frames(&mut interest, A);
        answer(&mut interest, A, &asked, Some(1));
        interest.leaves(A);
        interest.attach(B, Wire::V1, BOUNDS, Arc::default());
        let asked = frames(&mut interest, B);
        assert_eq!(answer(&mut interest, B, &asked, None), []);
        // One is let go of, one is heard of.
        interest.release(shard(7));
        diff(&mut interest, B, 8, 2);
        let mut told = Vec::new();
        while let Some(due) = interest.next_due() {
            let mut out = Told::default();
            interest.work(due - std::time::Duration::from_nanos(1), &mut out);
            assert_eq!(events(&out), [], "too early");
            interest.work(due, &mut out);
            for event in events(&out) {
                let Event::Resync { shard, .. } = event else {
                    panic!("{event:?}");
                };
                told.push((due - begin, shard));
            }
        }
        assert_eq!(told.len(), 98);
        let last = told.last().unwrap().0;
        assert!(last <= std::time::Duration::from_secs(2), "{last:?}");
        rounds.push(told);
    }
    assert_eq!(rounds[0], rounds[1]);
}

/// What waits is bounded over all shards, and given back.
#[test]
fn what_waits_is_bounded_over_all_shards() {
    let config = Config::new("h").unwrap().merge_buffer(usize::MAX, 10);
    let mut interest = Interest::new(&config);
    for link in [A, B] {
        interest.attach(link, Wire::V1, BOUNDS, Arc::default());
    }
    for n in 0..12 {
        interest.subscribe(shard(n), Some(0));
    }
    for link in [A, B] {
        let asked = frames(&mut interest, link);
        answer(&mut interest, link, &asked, Some(0));
    }
    for n in 0..10 {
        assert_eq!(gap(&mut interest, n, 1, 1), Outcome::Told);
    }
    assert_eq!(interest.waits.1, 10);
    // One too many: this one does not wait.
    gap(&mut interest, 10, 1, 1);
    assert_eq!(interest.waits.1, 10);
    assert_eq!(diff(&mut interest, B, 10, 1).0, Outcome::Told);
    assert_eq!(diff(&mut interest, B, 10, 2).0, Outcome::Told);
    // Room again, by a shard that is let go of, and one that is filled.
    interest.release(shard(0));
    diff(&mut interest, B, 1, 1);
    assert_eq!(interest.waits.1, 8);
    gap(&mut interest, 11, 1, 1);
    assert_eq!(interest.waits, (9 * 64, 9));
    for link in [A, B] {
        interest.leaves(link);
    }
    assert_eq!(interest.waits, (0, 0));
    assert_eq!(interest.next_due(), None);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_answered_is_overdue() {
    let second = std::time::Duration::from_secs(1);
    let mut interest = attached(Wire::V1, Bounds { batch: 2, ..BOUNDS });
    interest.attach(B, Wire::V0, BOUNDS, Arc::default());
    for n in 0..3 {
        interest.subscribe(shard(n), Some(1));
    }
    let begin = Instant::now();
    let asked = frames(&mut interest, A);
    frames(&mut interest, B);
    let timeout = 10 * second;
    assert_eq!(interest.next_due(), Some(begin + timeout));
    assert!(!interest.find_overdue(begin + timeout - second));
    interest.reads(A, false, begin + second);
    assert!(!interest.find_overdue(begin + 9 * timeout));
    assert_eq!(interest.next_due(), None);
    interest.reads(A, true, begin + 2 * second);
    assert!(!interest.find_overdue(begin + timeout));
    assert!(!interest.is_settled(A));
    // Answered in part, and let go of.
    let Frame::Subscribe { request, .. } = asked[0] else {
        panic!("{asked:?}");
    };
    let head = Head {
        shard: shard(0),
        highest: Some(1),
    };
    let later = begin + 5 * second;
    interest.subscribed(A, request, &[head], later, &mut Told::default());
    assert_eq!(interest.next_due(), Some(begin + second + timeout));
    answer(&mut interest, A, &asked[1..], Some(1));
    assert_eq!(interest.next_due(), Some(later + timeout));
    interest.release(shard(1));
    assert_eq!(interest.next_due(), None);
    // What nobody has looked at after the frame that v0 has no answer for.
    assert!(interest.is_settled(A) && !interest.is_settled(B));
    interest.take_all_unanswerable(begin, &mut Told::default());
    assert!(interest.is_settled(B));
    // Found once, and so until it ends.
    interest.subscribe(shard(9), None);
    frames(&mut interest, A);
    assert!(interest.find_overdue(begin + 2 * timeout));
    assert!(!interest.find_overdue(begin + 2 * timeout));
    assert_eq!(interest.next_due(), None);
    assert!(interest.is_overdue(A) && !interest.is_settled(A));
    assert!(!interest.is_overdue(B));
    interest.leaves(A);
    assert!(!interest.is_overdue(A));
}

/// Whoever looks is told of what is due sooner than it knows, and of nothing
/// else.
#[tokio::test(start_paused = true)]
async fn what_is_due_sooner_is_said_once() {
    let mut interest = attached(Wire::V1, BOUNDS);
    assert!(!interest.is_sooner());
    interest.subscribe(shard(1), Some(1));
    let asked = frames(&mut interest, A);
    assert!(interest.is_sooner());
    assert!(!interest.is_sooner());
    answer(&mut interest, A, &asked, Some(1));
    // Later is soon enough.
    assert!(!interest.is_sooner());
    assert_eq!(interest.alarm(), None);
    interest.subscribe(shard(2), None);
    frames(&mut interest, A);
    assert!(interest.is_sooner());
}
