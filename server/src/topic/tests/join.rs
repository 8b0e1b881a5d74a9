//! Where a subscription begins.

use super::Verdict::InOrder;
use super::*;

/// Seqnos 5 to 9 in the log, 1 to 4 evicted.
fn five_to_nine() -> Bench {
    let mut bench = Bench::with(TopicLimits {
        log_entries: 5,
        ..limits()
    });
    bench.publish_all(1..10);
    assert_eq!(bench.status().oldest, Some(5));
    bench
}

fn after(bench: &Bench, have: u64) -> Subscription {
    bench.join(Wire::V1, 2, Start::After(have))
}

#[test]
fn inside_the_log_everything_later_comes() {
    let mut bench = five_to_nine();
    for have in 4..9 {
        let mut b = after(&bench, have);
        assert_eq!((b.head, b.gap, b.marks()), (Some(9), None, 1));
        assert_eq!(
            bench.read(&mut b),
            (have + 1..10).map(D).collect::<Vec<_>>()
        );
    }
}

#[test]
fn below_the_log_the_gap_is_named() {
    let mut bench = five_to_nine();
    for have in 0..4 {
        let mut b = after(&bench, have);
        assert_eq!((b.head, b.gap), (Some(9), Some((have + 1, 4))));
        assert_eq!(bench.read(&mut b), [5, 6, 7, 8, 9].map(D));
    }
}

#[test]
fn at_the_head_nothing_comes_but_what_is_new() {
    let mut bench = five_to_nine();
    let mut b = after(&bench, 9);
    assert_eq!((b.head, b.gap, b.marks()), (Some(9), None, 0));
    assert_eq!(bench.read(&mut b), []);
    bench.publish(10);
    assert_eq!((b.marks(), bench.read(&mut b)), (1, vec![D(10)]));
}

#[test]
fn above_the_head_what_the_client_has_does_not_come() {
    let mut bench = five_to_nine();
    let mut b = after(&bench, 11);
    assert_eq!((b.head, b.gap), (Some(9), None));
    bench.publish_all([10, 11]);
    assert_eq!(bench.read(&mut b), []);
    bench.publish(12);
    assert_eq!(bench.read(&mut b), [D(12)]);
}

#[test]
fn far_above_the_head_nobody_can_be() {
    let mut bench = five_to_nine();
    for have in [9 + 1_001, persist_pubsub_proto::MAX_SEQNO, u64::MAX] {
        let mut b = after(&bench, have);
        let next = bench.status().head.unwrap() + 1;
        assert_eq!(bench.publish(next), InOrder);
        assert_eq!(bench.read(&mut b), [D(next)]);
    }
}

#[test]
fn on_an_unknown_shard_the_first_one_tells_what_is_missing() {
    let mut bench = Bench::new();
    let (mut b, mut now) = (after(&bench, 3), bench.v1());
    assert_eq!((b.head, b.gap, now.head), (None, None, None));
    bench.publish(6);
    assert_eq!(bench.read(&mut b), [G(4, 5), D(6)]);
    assert_eq!((bench.read(&mut now), b.missed), (vec![D(6)], 0));
}

#[test]
fn on_an_emptied_log_the_gap_is_everything() {
    let mut bench = five_to_nine();
    bench.pass(ms(1));
    bench.age(ms(0));
    let mut b = after(&bench, 6);
    assert_eq!((b.head, b.gap), (Some(9), Some((7, 9))));
    assert_eq!(bench.read(&mut b), []);
    bench.publish(10);
    assert_eq!(bench.read(&mut b), [D(10)]);
}

#[test]
fn a_hole_in_the_log_is_told_to_who_joins_below_it() {
    let mut bench = Bench::new();
    bench.publish_all([1, 4]);
    bench.pass(ms(50));
    let mut b = after(&bench, 1);
    assert_eq!(b.gap, None);
    assert_eq!(bench.read(&mut b), [G(2, 3), D(4)]);
}

#[test]
fn what_is_held_when_somebody_joins_comes_in_its_time() {
    let mut bench = Bench::new();
    bench.publish_all([1, 3]);
    let (mut a, mut now) = (after(&bench, 1), bench.v1());
    assert_eq!((a.head, bench.read(&mut a)), (Some(1), vec![]));
    bench.publish(2);
    assert_eq!(bench.read(&mut a), [D(2), D(3)]);
    assert_eq!(bench.read(&mut now), [D(2), D(3)]);
}

#[test]
fn now_is_what_comes_from_now_on() {
    let mut bench = five_to_nine();
    let mut b = bench.v1();
    assert_eq!((b.head, b.gap, b.marks()), (Some(9), None, 0));
    bench.publish(10);
    assert_eq!(bench.read(&mut b), [D(10)]);
}

#[test]
fn a_v0_reader_is_sent_the_replay_window() {
    let mut bench = Bench::new();
    let mut early = bench.v0();
    assert_eq!(bench.read(&mut early), []);
    for seqno in 1..8 {
        bench.publish(seqno);
        bench.pass(ms(4_000));
    }
    // 5 came 12 s ago, 6 came 8 s ago.
    let mut a = bench.v0();
    assert_eq!((a.marks(), bench.read(&mut a)), (1, vec![D(6), D(7)]));
    bench.pass(ms(6_001));
    let mut none = bench.v0();
    assert_eq!((none.marks(), bench.read(&mut none)), (0, vec![]));
    // Subscribing again begins again.
    bench.publish(8);
    bench.read(&mut a);
    bench.pass(ms(1_000));
    bench.publish(9);
    a.cursor = bench.topic.replay(a.index, bench.now, &bench.limits);
    assert_eq!((a.marks(), bench.read(&mut a)), (1, vec![D(8), D(9)]));
}

#[test]
fn the_replay_holds_the_whole_window_though_some_came_late() {
    let mut bench = Bench::new();
    bench.publish_all([1, 3]);
    bench.pass(ms(9_000));
    bench.publish_all([2, 4]);
    bench.pass(ms(2_000));
    bench.publish(6);
    // 2 came in the window, 3 before it, and 6 is held.
    let mut a = bench.v0();
    let told = bench.read(&mut a);
    assert!(told.ends_with(&[D(4)]) && !told.contains(&D(6)), "{told:?}");
    bench.publish(5);
    assert_eq!(bench.read(&mut a), [D(5), D(6)]);
}

#[test]
fn a_late_one_that_came_before_somebody_joined_is_nothing_to_make_up_for() {
    let mut bench = Bench::new();
    bench.publish_all([1, 3]);
    bench.pass(ms(50));
    bench.publish(2);
    bench.publish(1_000_000);
    let (mut b, mut c) = (bench.v1(), after(&bench, 3));
    assert_eq!((bench.read(&mut b), bench.read(&mut c)), (vec![], vec![]));
}
