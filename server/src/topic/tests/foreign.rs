//! What other replicas bring.

use proptest::prelude::*;

use super::*;
use crate::topic::Foreign;

impl Bench {
    /// Takes a diff of another replica.
    fn foreign(&mut self, seqno: u64, how: Foreign) -> Verdict {
        let payload = Bytes::from(format!("{seqno:<100}"));
        self.payloads.insert(seqno, payload.clone());
        let publish = v1::Publish {
            shard_id: SHARD.to_bytes(),
            seqno,
            committed_unix_nanos: 5,
            diff: Some(payload),
        };
        let diff = frame::read_publish(publish).unwrap().diff.map(Arc::new);
        let taken = self
            .topic
            .take_foreign(seqno, diff, how, self.now, &self.limits);
        let published = taken.expect("open");
        self.accounted += published.grown;
        if let Some(at) = published.arm {
            self.timer = Some(at);
        }
        self.check_accounts();
        published.verdict
    }

    fn asked(&mut self, seqnos: impl IntoIterator<Item = u64>) -> Vec<Verdict> {
        let taken = seqnos.into_iter().map(|n| self.foreign(n, Foreign::Asked));
        taken.collect()
    }

    fn resume(&mut self, have: u64) -> Vec<Told> {
        let mut who = self.join(Wire::V1, 2, Start::After(have));
        let mut told: Vec<Told> = who.gap.map(|(from, to)| G(from, to)).into_iter().collect();
        told.extend(self.read(&mut who));
        self.topic.unsubscribe(who.index);
        told
    }
}

#[test]
fn a_past_that_nobody_was_told_of_comes_in_silence() {
    let mut bench = Bench::new();
    bench.publish_all([101, 102]);
    let mut v1 = bench.v1();
    let mut v0 = bench.v0();
    assert_eq!((v0.marks(), bench.read(&mut v0)), (1, vec![D(101), D(102)]));
    let verdicts = bench.asked(98..=102);
    let (silent, known) = (Verdict::Backfilled, Verdict::Duplicate);
    assert_eq!(verdicts, [silent, silent, silent, known, known]);
    assert_eq!((v1.marks(), v0.marks()), (0, 0), "nobody is woken");
    assert_eq!((bench.read(&mut v1), bench.read(&mut v0)), (vec![], vec![]));
    assert_eq!(bench.resume(97), (98..=102).map(D).collect::<Vec<_>>());
    let mut newcomer = bench.v0();
    let told = bench.read(&mut newcomer);
    assert_eq!(told, (98..=102).map(D).collect::<Vec<_>>(), "it is recent");
    bench.publish(103);
    assert_eq!(bench.read(&mut v1), [D(103)]);
}

#[test]
fn what_was_told_as_missing_is_late() {
    let mut bench = Bench::new();
    bench.publish_all([1, 2, 5]);
    let mut v1 = bench.v1();
    bench.pass(ms(50));
    assert_eq!(bench.read(&mut v1), [G(3, 4), D(5)]);
    assert_eq!(bench.asked([3, 4]), [Verdict::FilledLate; 2]);
    assert_eq!(bench.read(&mut v1), [G(3, 4)]);
}

#[test]
fn what_was_evicted_here_is_had_again_while_there_is_room() {
    let mut bench = Bench::with(TopicLimits {
        log_entries: 5,
        ..limits()
    });
    bench.publish_all(1..=9);
    assert_eq!(bench.asked(1..=9)[0], Verdict::Backfilled);
    assert_eq!(bench.status().oldest, Some(5), "nothing newer makes room");
    bench.pass(ms(1000));
    bench.age(ms(500));
    assert_eq!(bench.status().entries, 0);
    bench.asked(6..=9);
    assert_eq!(bench.resume(4), [G(5, 5), D(6), D(7), D(8), D(9)]);
}

#[test]
fn a_head_is_taken_up_where_nobody_waits_and_told_where_somebody_does() {
    let take_up = |bench: &Bench, head| bench.topic.take_up(head, bench.now, &bench.limits);
    let mut bench = Bench::new();
    assert!(take_up(&bench, 40));
    assert_eq!(bench.status().head, Some(40));
    assert!(take_up(&bench, 40) && take_up(&bench, 39));
    assert_eq!(bench.resume(37), [G(38, 40)]);
    bench.publish(41);
    assert!(take_up(&bench, 50), "nobody is told of what is missing");
    assert_eq!(bench.resume(40), [D(41), G(42, 50)]);
    assert!(!take_up(&bench, 50 + 1_002), "too far to be believed alone");
    let mut v1 = bench.v1();
    assert_eq!(v1.head, Some(50));
    assert!(!take_up(&bench, 51), "who is there is told");
    bench.publish(51);
    assert_eq!(bench.read(&mut v1), [D(51)]);
    let verdicts = bench.asked([39, 40, 41, 42]);
    let (silent, known) = (Verdict::Backfilled, Verdict::Duplicate);
    assert_eq!(verdicts, [silent, silent, known, silent]);
    assert_eq!(bench.read(&mut v1), [], "it began behind them");
    let told = [G(38, 38), D(39), D(40), D(41), D(42), G(43, 50), D(51)];
    assert_eq!(bench.resume(37), told);

    let bench = Bench::new();
    let waits = bench.v1();
    assert_eq!(waits.head, None);
    assert!(!take_up(&bench, 40), "who waits is told of a gap");
}

/// A lie that another replica took for the shard's beginning, or within the
/// jump, keeps nothing from who subscribes here. (Found by natsful.)
#[test]
fn a_head_that_is_a_lie_silences_nobody() {
    let take_up = |bench: &Bench, head| bench.topic.take_up(head, bench.now, &bench.limits);
    let mut bench = Bench::new();
    assert!(take_up(&bench, 1 << 40));
    let mut v1 = bench.v1();
    assert_eq!(bench.publish(1), Verdict::Doubted);
    assert_eq!(bench.read(&mut v1), [G(1, 1)]);
    bench.asked([40, 41]);
    assert_eq!(bench.publish(2), Verdict::Doubted);
    assert_eq!(bench.read(&mut v1), [G(2, 2)]);

    let mut bench = Bench::new();
    bench.publish(5);
    assert!(take_up(&bench, 905));
    let (mut v0, mut v1) = (bench.v0(), bench.v1());
    bench.read(&mut v0);
    assert_eq!(bench.publish(6), Verdict::FilledLate);
    assert_eq!(bench.read(&mut v0), [D(6)]);
    assert_eq!(bench.read(&mut v1), [G(6, 6)]);
}

/// Nobody here follows the shard: what others have of it is worth more than
/// what this replica's own publishers have said in passing.
#[test]
fn a_longer_run_is_believed_where_nobody_follows() {
    let weigh = |bench: &Bench, low, head, count| {
        let limits = bench.limits.clone();
        bench.topic.weigh(low, head, count, &limits)
    };
    let mut bench = Bench::new();
    assert_eq!(
        weigh(&bench, 1, 5, 0),
        Some(Foreign::Asked),
        "nothing is known"
    );
    bench.publish(10_000);
    assert_eq!(bench.publish(20_000), Verdict::Doubted);
    assert_eq!(
        weigh(&bench, 9_000, 10_500, 1),
        Some(Foreign::Asked),
        "near"
    );
    assert_eq!(weigh(&bench, 50, 50, 0), None, "a head alone");
    assert_eq!(weigh(&bench, 50, 50, 1), None, "no longer than its own");
    assert_eq!(weigh(&bench, 50, 51, 2), Some(Foreign::Believed));
    assert_eq!(bench.foreign(50, Foreign::Believed), Verdict::InOrder);
    assert_eq!(bench.foreign(51, Foreign::Believed), Verdict::InOrder);
    assert_eq!(bench.resume(49), [D(50), D(51)]);
    assert_eq!(bench.publish(20_000), Verdict::Doubted);

    let mut bench = Bench::new();
    bench.publish(10);
    let mut follows = bench.v1();
    assert_eq!(weigh(&bench, 5_000, 5_001, 2), Some(Foreign::Asked));
    assert_eq!(bench.foreign(5_000, Foreign::Believed), Verdict::Doubted);
    assert_eq!(bench.read(&mut follows), [G(5_000, 5_000)], "it is told");
}

#[test]
fn what_is_known_is_told_to_who_asks() {
    let mut bench = Bench::new();
    let known = |bench: &Bench, after, recent: Option<u64>| {
        let known = bench.topic.known(after, recent.map(ms), bench.now)?;
        let seqnos: Vec<u64> = known.diffs.iter().map(|(seqno, _)| *seqno).collect();
        Some((known.head, seqnos))
    };
    assert_eq!(known(&bench, Some(0), Some(1000)), None);
    bench.publish_all([1, 2]);
    bench.pass(ms(500));
    bench.publish_all([3, 4]);
    bench.announce(5);
    assert_eq!(known(&bench, None, None), Some((5, vec![])));
    assert_eq!(known(&bench, Some(1), None), Some((5, vec![2, 3, 4])));
    assert_eq!(known(&bench, None, Some(100)), Some((5, vec![3, 4])));
    assert_eq!(
        known(&bench, Some(0), Some(100)),
        Some((5, vec![1, 2, 3, 4]))
    );
    assert_eq!(known(&bench, Some(9), None), Some((5, vec![])));
}

proptest! {
    /// Whatever comes when: a reader that keeps up is told the same whether a
    /// past was filled in or not, and who resumes is told what is there, in
    /// order, and of the rest that it is missing.
    #[test]
    fn a_past_changes_nothing_for_who_is_there(
        first in 20_u64..40,
        steps in prop::collection::vec((0_u8..4, 1_u64..40, 1_u64..6), 1..40),
        have in 0_u64..40,
        room in 4_usize..60,
    ) {
        let limits = TopicLimits { log_entries: room, ..limits() };
        let (mut with, mut without) = (Bench::with(limits.clone()), Bench::with(limits));
        let mut readers = Vec::new();
        for bench in [&mut with, &mut without] {
            bench.publish(first);
            readers.push((bench.v1(), bench.v0()));
        }
        let mut next = first + 1;
        for (step, at, count) in steps {
            match step {
                0 | 1 => {
                    for seqno in next..next + count {
                        with.publish(seqno);
                        without.publish(seqno);
                    }
                    next += count;
                }
                2 => {
                    let lowest = with.status().oldest;
                    with.asked((at..at + count).filter(|&n| n < first));
                    let oldest = with.status().oldest;
                    let kept = lowest.is_none_or(|lowest| oldest <= Some(lowest));
                    prop_assert!(kept, "nothing was evicted for it");
                }
                _ => {
                    with.pass(ms(at * 10));
                    without.pass(ms(at * 10));
                    with.age(ms(200));
                    without.age(ms(200));
                }
            }
            let (a, b) = readers.split_at_mut(1);
            prop_assert_eq!(with.read(&mut a[0].0), without.read(&mut b[0].0));
            prop_assert_eq!(with.read(&mut a[0].1), without.read(&mut b[0].1));
            let (a, b) = (with.status(), without.status());
            prop_assert_eq!((a.head, a.held), (b.head, b.held));
        }
        // Each seqno above `have` once: as a diff, or in a gap.
        let mut expected = have + 1;
        for told in with.resume(have) {
            let (from, to) = match told { D(n) => (n, n), G(from, to) => (from, to) };
            prop_assert_eq!(from, expected, "nothing is left out, nothing told twice");
            expected = to + 1;
        }
        prop_assert_eq!(expected, next.max(have + 1));
    }
}
