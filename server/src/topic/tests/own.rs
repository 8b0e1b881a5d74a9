//! What a session publishes itself is never sent to it, and never a gap.

use super::Verdict::{Duplicate, Held};
use super::*;

#[test]
fn own_diffs_are_skipped() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.v0(), bench.v1());
    bench.publish_own(&mut a, 1);
    bench.publish_own(&mut b, 2);
    bench.publish(3);
    bench.publish_own(&mut a, 4);
    bench.publish_own(&mut b, 5);
    assert_eq!(bench.read(&mut a), [D(2), D(3), D(5)]);
    assert_eq!(bench.read(&mut b), [D(1), D(3), D(4)]);
    assert!(b.own.is_empty(), "nothing is kept of what was passed");
}

#[test]
fn own_diffs_are_skipped_when_a_run_is_sent_again() {
    let mut bench = Bench::new();
    let mut a = bench.v0();
    bench.publish_all([1, 3]);
    bench.pass(ms(50));
    bench.publish_own(&mut a, 4);
    bench.publish(5);
    assert_eq!(bench.read(&mut a), [D(1), D(3), D(5)]);
    bench.publish(2);
    assert_eq!(bench.read(&mut a), [D(2), D(3), D(5)]);
}

#[test]
fn in_order_and_read_up_to_there_it_costs_no_mark() {
    let mut bench = Bench::new();
    let mut b = bench.v1();
    bench.publish(1);
    bench.read(&mut b);
    b.marks();
    bench.publish_own(&mut b, 2);
    assert_eq!(b.marks(), 0);
    bench.publish(3);
    assert_eq!((b.marks(), bench.read(&mut b)), (1, vec![D(3)]));
}

#[test]
fn own_that_releases_what_others_published_is_a_mark() {
    let mut bench = Bench::new();
    let mut b = bench.v1();
    bench.publish_all([1, 3]);
    bench.read(&mut b);
    b.marks();
    bench.publish_own(&mut b, 2);
    assert_eq!((b.marks(), bench.read(&mut b)), (1, vec![D(3)]));
}

#[test]
fn own_that_passes_a_hole_is_a_mark_for_the_hole() {
    let mut bench = Bench::with(TopicLimits {
        reorder_window: ms(0),
        ..limits()
    });
    let mut b = bench.v1();
    bench.publish(1);
    bench.read(&mut b);
    b.marks();
    bench.publish_own(&mut b, 4);
    assert_eq!((b.marks(), bench.read(&mut b)), (1, vec![G(2, 3)]));
}

#[test]
fn own_diffs_evicted_before_they_were_passed_are_no_gap() {
    let mut bench = Bench::with(TopicLimits {
        log_entries: 2,
        ..limits()
    });
    let mut b = bench.v1();
    bench.publish(1);
    bench.read(&mut b);
    bench.publish(2);
    bench.publish_own(&mut b, 3);
    bench.publish_own(&mut b, 4);
    bench.publish(5);
    bench.publish_own(&mut b, 6);
    bench.publish_own(&mut b, 7);
    bench.publish_own(&mut b, 8);
    assert_eq!(bench.read(&mut b), [G(2, 2), G(5, 5)]);
    assert_eq!(b.missed, 2);
    assert!(b.own.is_empty());
}

#[test]
fn own_and_held_is_no_gap_either() {
    let mut bench = Bench::with(TopicLimits {
        log_entries: 2,
        ..limits()
    });
    let mut b = bench.v1();
    bench.publish(1);
    bench.read(&mut b);
    assert_eq!(bench.publish_own(&mut b, 3), Held);
    bench.pass(ms(50));
    bench.publish_all([4, 5, 6]);
    assert_eq!(bench.read(&mut b), [G(2, 2), G(4, 4), D(5), D(6)]);
}

#[test]
fn own_announcements_are_no_gap() {
    let mut bench = Bench::new();
    let mut b = bench.v1();
    bench.publish(1);
    bench.read(&mut b);
    bench.put(2, None, b.reader.session, Some(b.index));
    b.own.add(2);
    bench.publish(3);
    assert_eq!(bench.read(&mut b), [D(3)]);
}

/// As when a client publishes on two connections, or again after a reconnect.
#[test]
fn what_another_published_first_is_not_sent_to_who_published_it_too() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.v0(), bench.v1());
    bench.publish_all([1, 2, 4]);
    assert_eq!(bench.publish_own(&mut a, 2), Duplicate);
    assert_eq!(bench.publish_own(&mut b, 2), Duplicate);
    assert_eq!(bench.publish_own(&mut b, 4), Duplicate);
    bench.pass(ms(50));
    assert_eq!(bench.read(&mut a), [D(1), D(4)]);
    assert_eq!(bench.read(&mut b), [D(1), G(3, 3)]);
}

/// A reader that stalls through its own publications, others' in between and
/// the eviction of both is told of the others' alone.
#[test]
fn own_publications_of_a_stalled_reader_are_no_gap() {
    let mut bench = Bench::with(TopicLimits {
        log_entries: 10,
        ..limits()
    });
    let mut b = bench.v1();
    bench.publish(1);
    bench.read(&mut b);
    for n in 1..500 {
        bench.publish(2 * n);
        bench.publish_own(&mut b, 2 * n + 1);
    }
    let evicted = (2..990).step_by(2).map(|n| G(n, n));
    let left = (990..1_000).step_by(2).map(D);
    assert_eq!(bench.read(&mut b), evicted.chain(left).collect::<Vec<_>>());
    assert!(b.own.is_empty());
}
