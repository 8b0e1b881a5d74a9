//! What leaves the log, and what its readers learn of that.

use super::Verdict::{Held, InOrder};
use super::*;

fn few(log_entries: usize) -> Bench {
    Bench::with(TopicLimits {
        log_entries,
        ..limits()
    })
}

#[test]
fn beyond_the_count_v1_is_told_the_exact_gap_and_v0_jumps() {
    let mut bench = few(3);
    let (mut a, mut b) = (bench.v0(), bench.v1());
    bench.publish(1);
    bench.read(&mut a);
    bench.read(&mut b);
    bench.publish_all(2..10);
    assert_eq!(bench.status().entries, 3);
    assert_eq!(bench.read(&mut b), [G(2, 6), D(7), D(8), D(9)]);
    assert_eq!(bench.read(&mut a), [D(7), D(8), D(9)]);
    assert_eq!((a.missed, b.missed), (5, 5));
}

#[test]
fn only_what_was_there_is_missed() {
    let mut bench = few(2);
    let mut b = bench.v1();
    bench.publish(1);
    bench.read(&mut b);
    bench.publish_all([2, 5]);
    bench.announce(6);
    bench.pass(ms(50));
    bench.publish_own(&mut b, 7);
    bench.publish_all(8..11);
    assert_eq!(bench.read(&mut b), [G(2, 6), G(8, 8), D(9), D(10)]);
    assert_eq!(
        b.missed, 3,
        "2, 5 and 8; not 3 and 4, the announcement or its own"
    );
}

/// Regression: a frame that is made on first need counted, but nothing went for
/// it until the next publication.
#[test]
fn what_is_encoded_for_a_reader_is_within_the_bytes_too() {
    let mut bench = Bench::with(TopicLimits {
        log_bytes: 6_000,
        ..limits()
    });
    let (mut a, mut b) = (bench.v0(), bench.v1());
    bench.publish(1);
    bench.read(&mut b);
    for seqno in 2..=10 {
        bench.put(seqno, Some(500), STRANGER, None);
    }
    let published = bench.status();
    assert!(published.bytes <= 6_000 && published.entries > 6);
    bench.read(&mut a);
    let read = bench.status();
    assert!(read.bytes <= 6_000 && read.entries < published.entries);
    assert_eq!(bench.read(&mut b).last(), Some(&D(10)), "the newest stay");
}

#[test]
fn beyond_the_bytes_the_lowest_go_and_the_newest_stays() {
    let mut bench = Bench::with(TopicLimits {
        log_bytes: 5_000,
        v0_max_frame_bytes: 20_000,
        ..limits()
    });
    let mut b = bench.v1();
    bench.publish_all(1..5);
    bench.put(5, Some(4_000), STRANGER, None);
    assert!(bench.status().bytes <= 5_000);
    assert_eq!(bench.status().newest, Some(5));
    bench.put(6, Some(10_000), STRANGER, None);
    assert_eq!(
        (bench.status().oldest, bench.status().entries),
        (Some(6), 1)
    );
    assert_eq!(bench.read(&mut b), [G(1, 5), D(6)]);
    assert_eq!(b.missed, 5);
    bench.publish(7);
    assert_eq!(
        (bench.status().oldest, bench.status().entries),
        (Some(7), 1)
    );
}

#[test]
fn by_age_everything_goes_and_the_head_stays() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.v0(), bench.v1());
    bench.publish(1);
    bench.read(&mut a);
    bench.read(&mut b);
    bench.pass(ms(100));
    bench.publish(2);
    bench.pass(ms(100));
    bench.publish(3);
    assert_eq!(bench.age(ms(150)), 1);
    assert_eq!(bench.age(ms(100)), 0, "at the limit it stays");
    bench.pass(ms(1));
    assert_eq!(bench.age(ms(0)), 2);
    assert_eq!(bench.status().head, Some(3));
    assert_eq!(bench.read(&mut b), [G(2, 3)]);
    assert_eq!(bench.read(&mut a), []);
    assert_eq!((a.missed, b.missed), (2, 2));
    assert_eq!(bench.publish(4), InOrder);
    assert_eq!(bench.read(&mut b), [D(4)]);
}

/// Regression: what was held back and had to go was forgotten, and nobody was
/// ever told that the shard had got so far.
#[test]
fn what_is_held_and_has_to_go_is_told_as_a_gap() {
    let mut bench = Bench::new();
    let mut b = bench.v1();
    bench.publish(1);
    bench.read(&mut b);
    b.marks();
    bench.publish_all([3, 4]);
    assert_eq!(b.marks(), 0);
    bench.pass(ms(1));
    assert_eq!(bench.age(ms(0)), 3);
    assert_eq!(b.marks(), 1);
    assert_eq!(bench.read(&mut b), [G(2, 4)]);
    assert_eq!((b.missed, bench.status().head), (2, Some(4)));
    bench.pass(ms(100));
    assert_eq!(bench.timer, None);
    assert_eq!(bench.publish(5), InOrder);
}

#[test]
fn more_held_than_the_log_may_have_are_let_through() {
    let mut bench = few(4);
    let mut b = bench.v1();
    bench.publish(1);
    bench.read(&mut b);
    b.marks();
    assert_eq!(bench.publish_all(3..7), [Held; 4]);
    assert_eq!((b.marks(), bench.status().held), (0, 4));
    assert_eq!(bench.publish(7), Held);
    assert_eq!(b.marks(), 1);
    assert_eq!(bench.read(&mut b), [G(2, 3), D(4), D(5), D(6), D(7)]);
    assert_eq!(bench.status().held, 0);
}

#[test]
fn a_frame_too_large_for_v0_reaches_v1_alone() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.v0(), bench.v1());
    bench.publish(1);
    // One that is too large by itself, and one only with what is around it.
    bench.put(2, Some(5_000), STRANGER, None);
    bench.put(3, Some(4_090), STRANGER, None);
    bench.publish(4);
    assert_eq!(bench.read(&mut a), [D(1), D(4)]);
    assert_eq!((a.oversize, a.missed), (2, 0));
    assert_eq!(bench.read(&mut b), [D(1), D(2), D(3), D(4)]);
    bench.pass(ms(1));
    bench.age(ms(0));
    assert_eq!(bench.status().bytes, 0);
}

#[test]
fn frames_encoded_on_first_need_are_counted_and_given_back() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.v0(), bench.v1());
    bench.publish_all(1..4);
    let before = bench.status().bytes;
    bench.read(&mut b);
    assert_eq!(bench.status().bytes, before, "published as v1 frames");
    bench.read(&mut a);
    assert!(bench.status().bytes > before + 300);
    let after = bench.status().bytes;
    let mut again = bench.v0();
    bench.read(&mut again);
    assert_eq!(bench.status().bytes, after, "encoded once");
    bench.pass(ms(1));
    bench.age(ms(0));
    assert_eq!(bench.status().bytes, 0);
}

#[test]
fn the_retention_hears_of_a_log_once_until_it_is_empty() {
    let bench = Bench::new();
    let publish = |seqno| {
        bench
            .topic
            .publish(seqno, None, STRANGER, None, bench.now, &bench.limits)
            .unwrap()
            .age
    };
    assert_eq!(publish(1), Some(bench.now));
    assert_eq!(publish(2), None);
    let evict = |oldest| bench.topic.evict(oldest, bench.now, &bench.limits);
    let (evicted, _, age, idle) = evict(bench.now);
    assert_eq!((evicted, age, idle), (0, Some(bench.now), false));
    assert_eq!(publish(3), None);
    let (evicted, _, age, idle) = evict(bench.now + ms(1));
    assert_eq!((evicted, age, idle), (3, None, true));
    assert_eq!(publish(4), Some(bench.now));
}
