use std::time::Duration;

use super::*;

const EVERYTHING: Takes = Takes {
    diff_bytes: usize::MAX,
    announcements: true,
};
const LINK: LinkId = LinkId::new(1);

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
    (Outbox::new(&config), Counters::default())
}

/// What a session gets, as (shard, seqno, has a diff).
fn drain(outbox: &mut Outbox, stats: &Counters, takes: Takes) -> Vec<(ShardId, u64, bool)> {
    let now = Instant::now();
    outbox.own(LINK, Arc::new(Gate::default()), false);
    std::iter::from_fn(|| outbox.pull(LINK, takes, now, stats))
        .map(|push| (push.shard, push.seqno, push.diff.is_some()))
        .collect()
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
async fn only_the_owner_pulls() {
    let (mut outbox, stats) = outbox(1 << 20, 10, 10);
    outbox.push(push(1, 1, 1), &stats);
    let now = Instant::now();
    assert_eq!(outbox.pull(LINK, EVERYTHING, now, &stats), None);
    outbox.own(LinkId::new(2), Arc::new(Gate::default()), false);
    assert_eq!(outbox.pull(LINK, EVERYTHING, now, &stats), None);
    assert_eq!(drain(&mut outbox, &stats, EVERYTHING).len(), 1);
}

#[tokio::test]
async fn own_pushes_explain_holes_of_a_v0_session() {
    let (mut outbox, stats) = outbox(1 << 20, 10, 10);
    outbox.push(push(1, 1, 1), &stats);
    outbox.own(LINK, Arc::new(Gate::default()), true);
    outbox.push(push(1, 2, 1), &stats);
    outbox.push(push(1, 3, 1), &stats);
    assert!(outbox.own_covers(shard(1), 2, 3));
    assert!(
        !outbox.own_covers(shard(1), 1, 3),
        "1 was before the session"
    );
    assert!(!outbox.own_covers(shard(1), 2, u64::MAX));
    assert!(!outbox.own_covers(shard(2), 2, 2));
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
