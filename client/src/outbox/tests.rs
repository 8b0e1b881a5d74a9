use std::time::Duration;

use super::*;

const EVERYTHING: Takes = Takes {
    diff_bytes: usize::MAX,
    announcements: true,
};
const LINK: LinkId = LinkId::new(1);
const NEXT: LinkId = LinkId::new(2);
/// Where these sessions are.
const HERE: PlaceId = PlaceId::new(1);
const THERE: PlaceId = PlaceId::new(2);

fn shard(n: u8) -> ShardId {
    ShardId::new([n; 16])
}

fn push(n: u8, seqno: u64, bytes: usize) -> Push {
    Push {
        shard: shard(n),
        seqno,
        committed: 0,
        diff: Some(Bytes::from(vec![7; bytes])),
    }
}

fn outbox(bytes: usize, count: usize, shards: usize) -> (Outbox, Counters) {
    let config = Config::new("h")
        .unwrap()
        .push_buffer(bytes, count)
        .reannounce(Duration::from_secs(60), shards);
    let mut outbox = Outbox::new(&config);
    outbox.enlist(&[HERE]);
    (outbox, Counters::default())
}

/// What a session gets, as (shard, seqno, has a diff). It begins if it has not
/// begun yet.
fn drain_as(
    link: LinkId,
    outbox: &mut Outbox,
    stats: &Counters,
    takes: Takes,
) -> Vec<(ShardId, u64, bool)> {
    let now = Instant::now();
    if outbox.readers.iter().all(|reader| reader.link != link) {
        outbox.attach(link, HERE, Arc::new(Gate::default()), now);
    }
    std::iter::from_fn(|| outbox.pull(link, takes, now, stats))
        .map(|push| (push.shard, push.seqno, push.diff.is_some()))
        .collect()
}

fn drain(outbox: &mut Outbox, stats: &Counters, takes: Takes) -> Vec<(ShardId, u64, bool)> {
    drain_as(LINK, outbox, stats, takes)
}

#[tokio::test]
async fn keeps_the_order_of_pushes() {
    let (mut outbox, stats) = outbox(1 << 20, 100, 100);
    for seqno in 1..=5 {
        outbox.push(push(1, seqno, 10), &stats);
        outbox.push(push(2, seqno, 10), &stats);
    }
    let got = drain(&mut outbox, &stats, EVERYTHING);
    let expected: Vec<_> = (1..=5)
        .flat_map(|seqno| [(shard(1), seqno, true), (shard(2), seqno, true)])
        .collect();
    assert_eq!(got, expected);
    assert_eq!(stats.snapshot().sent, 10);
    assert!(outbox.is_empty());
}

#[tokio::test]
async fn bounded_in_bytes_and_announces_what_it_dropped() {
    let (mut outbox, stats) = outbox(10 * (1000 + OVERHEAD), 1000, 100);
    for seqno in 1..=100 {
        outbox.push(push(1, seqno, 1000), &stats);
    }
    let now = stats.snapshot();
    assert_eq!(now.pushes_dropped, 90);
    assert_eq!(now.buffered_bytes, 10 * (1000 + OVERHEAD) as u64);
    let got = drain(&mut outbox, &stats, EVERYTHING);
    let expected: Vec<_> = std::iter::once((shard(1), 90, false))
        .chain((91..=100).map(|seqno| (shard(1), seqno, true)))
        .collect();
    assert_eq!(got, expected);
    assert_eq!(stats.snapshot().buffered_bytes, 0);
}

#[tokio::test]
async fn bounded_in_count_and_in_announcements() {
    let (mut outbox, stats) = outbox(usize::MAX, 2, 3);
    for n in 1..=10 {
        outbox.push(push(n, 1, 0), &stats);
    }
    let now = stats.snapshot();
    assert_eq!((now.pushes_dropped, now.announcements_dropped), (8, 5));
    assert_eq!(drain(&mut outbox, &stats, EVERYTHING).len(), 3 + 2);
}

#[tokio::test]
async fn a_push_larger_than_the_buffer_is_announced() {
    let (mut outbox, stats) = outbox(100, 10, 10);
    outbox.push(push(1, 5, 1000), &stats);
    assert_eq!(
        drain(&mut outbox, &stats, EVERYTHING),
        [(shard(1), 5, false)]
    );
}

#[tokio::test]
async fn what_the_server_would_not_relay_goes_without_its_diff() {
    let (mut outbox, stats) = outbox(1 << 20, 10, 10);
    let takes = Takes {
        diff_bytes: 10,
        ..EVERYTHING
    };
    outbox.push(push(1, 5, 11), &stats);
    outbox.push(push(1, 6, 10), &stats);
    assert_eq!(
        drain(&mut outbox, &stats, takes),
        [(shard(1), 5, false), (shard(1), 6, true)]
    );
    let v0 = Takes {
        announcements: false,
        ..takes
    };
    outbox.push(push(1, 7, 11), &stats);
    outbox.push(push(1, 8, 10), &stats);
    assert_eq!(drain(&mut outbox, &stats, v0), [(shard(1), 8, true)]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_has_its_recent_shards_announced() {
    let (mut outbox, stats) = outbox(1 << 20, 100, 100);
    outbox.push(push(1, 5, 1), &stats);
    drain(&mut outbox, &stats, EVERYTHING);
    tokio::time::advance(Duration::from_secs(50)).await;
    outbox.push(push(2, 6, 1), &stats);
    outbox.push(push(2, 7, 1), &stats);
    drain(&mut outbox, &stats, EVERYTHING);
    tokio::time::advance(Duration::from_secs(20)).await;

    outbox.release(LINK, true, Instant::now(), &stats);
    outbox.push(push(2, 8, 1), &stats);
    assert_eq!(
        drain(&mut outbox, &stats, EVERYTHING),
        [(shard(2), 7, false), (shard(2), 8, true)],
        "shard 1 was sent longer ago than the window"
    );
    outbox.release(LINK, false, Instant::now(), &stats);
    assert!(outbox.is_empty(), "a session that ended well lost nothing");
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_lately_is_bounded() {
    let (mut outbox, stats) = outbox(1 << 20, 1000, 10);
    for n in 0..200 {
        outbox.push(push(n, 1, 1), &stats);
    }
    drain(&mut outbox, &stats, EVERYTHING);
    outbox.release(LINK, true, Instant::now(), &stats);
    let announced = drain(&mut outbox, &stats, EVERYTHING).len();
    assert!((5..=10).contains(&announced), "{announced}");
}

#[tokio::test]
async fn two_sessions_each_take_every_push_in_order() {
    let (mut outbox, stats) = outbox(1 << 20, 100, 100);
    let now = Instant::now();
    outbox.push(push(1, 1, 10), &stats);
    assert_eq!(outbox.pull(LINK, EVERYTHING, now, &stats), None, "no such");
    outbox.attach(LINK, HERE, Arc::new(Gate::default()), now);
    outbox.attach(NEXT, HERE, Arc::new(Gate::default()), now);
    for seqno in 2..=4 {
        outbox.push(push(1, seqno, 10), &stats);
    }
    let all: Vec<_> = (1..=4).map(|seqno| (shard(1), seqno, true)).collect();
    assert_eq!(drain_as(NEXT, &mut outbox, &stats, EVERYTHING), all);
    assert!(!outbox.is_empty(), "the other has not taken them");
    assert_eq!(stats.snapshot().buffered_bytes, 4 * (10 + OVERHEAD) as u64);
    outbox.push(push(2, 1, 10), &stats);
    let all: Vec<_> = all.into_iter().chain([(shard(2), 1, true)]).collect();
    assert_eq!(drain_as(LINK, &mut outbox, &stats, EVERYTHING), all);
    assert_eq!(drain_as(NEXT, &mut outbox, &stats, EVERYTHING), all[4..]);
    assert!(outbox.is_empty());
    let now = stats.snapshot();
    assert_eq!((now.sent, now.sent_bytes, now.buffered_bytes), (5, 50, 0));
}

/// What went to the old session alone is news to the new one's server.
#[tokio::test(start_paused = true)]
async fn a_session_beside_another_announces_what_that_one_was_told() {
    let (mut outbox, stats) = outbox(1 << 20, 100, 100);
    outbox.push(push(1, 4, 1), &stats);
    drain(&mut outbox, &stats, EVERYTHING);
    tokio::time::advance(Duration::from_secs(61)).await;
    outbox.push(push(2, 6, 1), &stats);
    outbox.push(push(2, 7, 1), &stats);
    drain(&mut outbox, &stats, EVERYTHING);
    assert_eq!(
        drain_as(NEXT, &mut outbox, &stats, EVERYTHING),
        [(shard(2), 7, false)]
    );
    // And has all that follows: what is lost with either is not lost.
    for lost in [LINK, NEXT] {
        outbox.push(push(2, 8, 1), &stats);
        drain(&mut outbox, &stats, EVERYTHING);
        drain_as(NEXT, &mut outbox, &stats, EVERYTHING);
        outbox.release(lost, true, Instant::now(), &stats);
        if lost == LINK {
            assert!(outbox.is_empty(), "the next was told all of it");
            outbox.attach(LINK, HERE, Arc::new(Gate::default()), Instant::now());
        }
    }
}

/// One bound over both, and a session that does not read costs the other
/// nothing.
#[tokio::test]
async fn a_session_that_does_not_read_is_left_behind() {
    let (mut outbox, stats) = outbox(1 << 20, 10, 100);
    let now = Instant::now();
    outbox.attach(LINK, HERE, Arc::new(Gate::default()), now);
    outbox.attach(NEXT, HERE, Arc::new(Gate::default()), now);
    for seqno in 1..=100 {
        outbox.push(push(1, seqno, 1), &stats);
        assert_eq!(
            drain_as(NEXT, &mut outbox, &stats, EVERYTHING),
            [(shard(1), seqno, true)]
        );
    }
    let after = stats.snapshot();
    assert_eq!((after.sent, after.pushes_dropped), (100, 0));
    assert_eq!(after.buffered_bytes, 10 * (1 + OVERHEAD) as u64);
    // It hears that there was something, and the rest.
    let got = drain(&mut outbox, &stats, EVERYTHING);
    let expected: Vec<_> = std::iter::once((shard(1), 90, false))
        .chain((91..=100).map(|seqno| (shard(1), seqno, true)))
        .collect();
    assert_eq!(got, expected);
    // Gone, it holds nothing.
    outbox.push(push(1, 101, 1), &stats);
    drain_as(NEXT, &mut outbox, &stats, EVERYTHING);
    outbox.release(LINK, true, now, &stats);
    assert!(outbox.is_empty());
    assert_eq!(stats.snapshot().buffered_bytes, 0);
}

/// What no session has taken waits for the next, also when the last two end.
#[tokio::test]
async fn what_waits_outlives_its_sessions() {
    let (mut outbox, stats) = outbox(1 << 20, 2, 100);
    let now = Instant::now();
    for link in [LINK, NEXT] {
        outbox.attach(link, HERE, Arc::new(Gate::default()), now);
    }
    for seqno in 1..=3 {
        outbox.push(push(1, seqno, 1), &stats);
    }
    outbox.release(LINK, true, now, &stats);
    outbox.release(NEXT, true, now, &stats);
    outbox.release(NEXT, true, now, &stats);
    let got = drain_as(LinkId::new(3), &mut outbox, &stats, EVERYTHING);
    let expected = [(1, false), (2, true), (3, true)];
    assert_eq!(got, expected.map(|(seqno, diff)| (shard(1), seqno, diff)));
    assert_eq!(stats.snapshot().pushes_dropped, 1);
}

#[tokio::test]
async fn closed_takes_nothing_and_holds_nothing() {
    let (mut outbox, stats) = outbox(1 << 20, 10, 10);
    outbox.push(push(1, 1, 1), &stats);
    outbox.close(&stats);
    outbox.push(push(1, 2, 1), &stats);
    assert!(outbox.is_empty());
    let now = stats.snapshot();
    assert_eq!((now.pushes_dropped, now.buffered_bytes), (2, 0));
}

/// A place without a session misses nothing for good: neither what another
/// was told meanwhile, however long ago, nor what was perhaps lost with its
/// session.
#[tokio::test(start_paused = true)]
async fn a_place_that_comes_back_announces_what_it_missed() {
    let (mut outbox, stats) = outbox(1 << 20, 100, 100);
    outbox.enlist(&[THERE]);
    let begin = |outbox: &mut Outbox, link, place| {
        outbox.attach(link, place, Arc::new(Gate::default()), Instant::now());
    };
    begin(&mut outbox, LINK, HERE);
    begin(&mut outbox, NEXT, THERE);
    outbox.push(push(1, 1, 1), &stats);
    for link in [LINK, NEXT] {
        drain_as(link, &mut outbox, &stats, EVERYTHING);
    }
    outbox.release(NEXT, true, Instant::now(), &stats);
    // Nothing is kept for it while another session lives.
    for seqno in 1..=9 {
        outbox.push(push(2, seqno, 1), &stats);
    }
    assert_eq!(drain(&mut outbox, &stats, EVERYTHING).len(), 9);
    assert_eq!(stats.snapshot().buffered_bytes, 0);
    tokio::time::advance(Duration::from_secs(3_600)).await;
    outbox.push(push(3, 1, 1), &stats);

    let back = LinkId::new(3);
    begin(&mut outbox, back, THERE);
    assert_eq!(
        drain_as(back, &mut outbox, &stats, EVERYTHING),
        [
            (shard(1), 1, false),
            (shard(2), 9, false),
            (shard(3), 1, true)
        ]
    );
    // It owes nothing any more.
    outbox.release(back, false, Instant::now(), &stats);
    drain(&mut outbox, &stats, EVERYTHING);
    let again = LinkId::new(4);
    begin(&mut outbox, again, THERE);
    assert_eq!(drain_as(again, &mut outbox, &stats, EVERYTHING), []);
}

/// A new place beside others announces what they were told lately; the first
/// ones what was dropped before there was any.
#[tokio::test(start_paused = true)]
async fn a_new_place_announces_what_others_were_told_lately() {
    let config = Config::new("h").unwrap().push_buffer(usize::MAX, 1);
    let (mut outbox, stats) = (Outbox::new(&config), Counters::default());
    outbox.push(push(1, 1, 1), &stats);
    outbox.push(push(1, 2, 1), &stats);
    outbox.enlist(&[HERE, THERE]);
    let now = Instant::now();
    for (link, place) in [(LINK, HERE), (NEXT, THERE)] {
        outbox.attach(link, place, Arc::new(Gate::default()), now);
    }
    for link in [LINK, NEXT] {
        assert_eq!(
            drain_as(link, &mut outbox, &stats, EVERYTHING),
            [(shard(1), 1, false), (shard(1), 2, true)]
        );
    }
    let (link, place) = (LinkId::new(3), PlaceId::new(3));
    outbox.enlist(&[place]);
    outbox.attach(link, place, Arc::new(Gate::default()), now);
    assert_eq!(
        drain_as(link, &mut outbox, &stats, EVERYTHING),
        [(shard(1), 2, false)]
    );
    // What the last place was not told is not forgotten with it.
    outbox.push(push(1, 3, 1), &stats);
    for (link, place) in [(LINK, HERE), (NEXT, THERE), (link, place)] {
        outbox.release(link, false, now, &stats);
        outbox.dismiss(place, &stats);
    }
    outbox.push(push(1, 4, 1), &stats);
    outbox.enlist(&[PlaceId::new(4)]);
    let link = LinkId::new(4);
    outbox.attach(link, PlaceId::new(4), Arc::new(Gate::default()), now);
    let told = drain_as(link, &mut outbox, &stats, EVERYTHING);
    assert_eq!(told, [(shard(1), 3, false), (shard(1), 4, true)]);
}

#[tokio::test]
async fn narrower_bounds_hold_at_once() {
    let (mut outbox, stats) = outbox(1 << 20, 100, 100);
    for seqno in 1..=50 {
        outbox.push(push(1, seqno, 1), &stats);
    }
    let settings = Settings::new(Vec::new()).push_buffer(1 << 20, 10);
    outbox.configure(&settings, &stats);
    let now = stats.snapshot();
    assert_eq!((now.pushes_dropped, now.buffered_bytes), (40, 650));
    let told = drain(&mut outbox, &stats, EVERYTHING);
    assert_eq!((told.len(), told[0]), (11, (shard(1), 40, false)));
}

#[tokio::test]
async fn what_a_server_would_not_take_for_now_is_announced_by_whoever_is_there() {
    let (mut outbox, stats) = outbox(1 << 20, 100, 2);
    assert!(
        !outbox.refused(LINK, shard(1), 1, &stats),
        "no such session"
    );
    drain(&mut outbox, &stats, EVERYTHING);
    assert!(outbox.refused(LINK, shard(1), 7, &stats));
    assert!(
        !outbox.refused(LINK, shard(1), 6, &stats),
        "it waits already"
    );
    assert!(!outbox.refused(LINK, shard(2), 3, &stats));
    // No room for a third shard.
    outbox.refused(LINK, shard(3), 1, &stats);
    assert_eq!(stats.snapshot().announcements_dropped, 1);
    assert_eq!(drain(&mut outbox, &stats, EVERYTHING), [], "not yet");
    outbox.announce_refused(LINK, &stats);
    let announced = [(shard(1), 7, false), (shard(2), 3, false)];
    assert_eq!(drain(&mut outbox, &stats, EVERYTHING), announced);

    // The next session, if this one is gone by then.
    assert!(outbox.refused(LINK, shard(1), 9, &stats));
    outbox.release(LINK, false, Instant::now(), &stats);
    outbox.announce_refused(LINK, &stats);
    outbox.announce_refused(LINK, &stats);
    let announced = drain_as(NEXT, &mut outbox, &stats, EVERYTHING);
    assert_eq!(announced, [(shard(1), 9, false)]);
}
