//! What comes after its place was passed.

use super::Verdict::{FilledLate, InOrder};
use super::*;

#[test]
fn v0_is_sent_the_run_again_and_v1_a_gap() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.v0(), bench.v1());
    bench.publish_all([1, 3, 4]);
    bench.pass(ms(50));
    bench.read(&mut a);
    bench.read(&mut b);
    bench.pass(ms(500));
    assert_eq!(bench.publish(2), FilledLate);
    assert_eq!(bench.read(&mut a), [D(2), D(3), D(4)]);
    assert_eq!(bench.read(&mut b), [G(2, 2)]);
    assert_eq!(bench.publish(5), InOrder);
    assert_eq!(bench.read(&mut a), [D(5)]);
    assert_eq!(bench.read(&mut b), [D(5)]);
}

#[test]
fn several_are_made_up_for_at_once_from_the_lowest() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.v0(), bench.v1());
    bench.publish_all([1, 3, 5, 8]);
    bench.pass(ms(50));
    bench.read(&mut a);
    bench.read(&mut b);
    assert_eq!(bench.publish_all([6, 2]), [FilledLate; 2]);
    assert_eq!(bench.read(&mut a), [2, 3, 5, 6, 8].map(D));
    assert_eq!(bench.read(&mut b), [G(2, 2), G(6, 6)]);
}

#[test]
fn a_reader_that_has_not_come_so_far_reads_it_in_its_place() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.v0(), bench.v1());
    bench.publish_all([1, 2, 4]);
    bench.pass(ms(50));
    let (mut told_a, mut told_b) = (Vec::new(), Vec::new());
    assert!(bench.read_some(&mut a, 1, &mut told_a));
    assert!(bench.read_some(&mut b, 1, &mut told_b));
    bench.publish(3);
    assert_eq!(
        (told_a, bench.read(&mut a)),
        (vec![D(1)], vec![D(2), D(3), D(4)])
    );
    assert_eq!(
        (told_b, bench.read(&mut b)),
        (vec![D(1)], vec![D(2), D(3), D(4)])
    );
}

/// A v0 reader that takes a little at a time gets on although more and more
/// surfaces: each is made up for once.
#[test]
fn a_run_that_is_sent_again_in_small_pieces_ends() {
    let mut bench = Bench::new();
    let mut a = bench.v0();
    bench.publish_all([1, 3, 4, 5, 6]);
    bench.pass(ms(50));
    bench.read(&mut a);
    bench.publish(2);
    let mut told = Vec::new();
    let mut reads = 1;
    while bench.read_some(&mut a, 1, &mut told) {
        reads += 1;
    }
    assert_eq!(told, [2, 3, 4, 5, 6].map(D));
    assert_eq!(reads, 5);
}

#[test]
fn what_was_passed_long_ago_is_put_in_its_place_and_no_run_is_sent_again() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.v0(), bench.v1());
    bench.publish_all([1, 5, 6]);
    bench.pass(ms(50));
    bench.read(&mut a);
    bench.read(&mut b);
    bench.pass(ms(9_950));
    assert_eq!(bench.publish(4), FilledLate);
    assert_eq!(bench.read(&mut a), [D(4), D(5), D(6)], "at the limit it is");
    assert_eq!(bench.read(&mut b), [G(4, 4)]);
    bench.pass(ms(1));
    // One after the other, each below the last: 4 has the age of what it
    // comes before.
    assert_eq!(bench.publish_all([3, 2]), [FilledLate; 2]);
    assert_eq!((bench.read(&mut a), bench.read(&mut b)), (vec![], vec![]));
    let mut late = bench.join(Wire::V1, 9, Start::After(1));
    assert_eq!(bench.read(&mut late), [2, 3, 4, 5, 6].map(D));
    assert_eq!(bench.age(ms(10_000)), 6, "it ages with them");
}

#[test]
fn the_first_two_of_a_fresh_shard_may_come_reversed() {
    let mut bench = Bench::new();
    let (mut a, mut b, mut slow) = (bench.v0(), bench.v1(), bench.v0());
    bench.publish(11);
    assert_eq!(
        bench.read(&mut a),
        [D(11)],
        "nothing is known to be missing"
    );
    assert_eq!(bench.read(&mut b), [D(11)]);
    assert_eq!(bench.publish(10), FilledLate);
    assert_eq!(bench.read(&mut a), [D(10), D(11)]);
    assert_eq!(bench.read(&mut b), [G(10, 10)]);
    assert_eq!(bench.read(&mut slow), [D(10), D(11)]);
}

#[test]
fn a_late_one_below_everything_that_is_left_is_delivered_alone() {
    let mut bench = Bench::new();
    let mut a = bench.v0();
    bench.publish_all([1, 3, 4]);
    bench.pass(ms(50));
    bench.read(&mut a);
    bench.pass(ms(10));
    bench.age(ms(0));
    assert_eq!(bench.publish(2), FilledLate);
    assert_eq!(bench.read(&mut a), [D(2)]);
}

#[test]
fn one_s_own_late_diff_is_no_news() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.v0(), bench.v1());
    bench.publish_all([1, 4]);
    bench.pass(ms(50));
    bench.read(&mut a);
    bench.read(&mut b);
    assert_eq!(bench.publish_own(&mut a, 2), FilledLate);
    assert_eq!(bench.publish_own(&mut b, 3), FilledLate);
    assert_eq!(bench.read(&mut a), [D(3), D(4)]);
    assert_eq!(bench.read(&mut b), [G(2, 2)]);
}

/// Notices are numbered on a circle.
#[test]
fn notices_may_wrap_around() {
    use super::super::log::Entry;
    use super::super::order::Order;
    let mut order = Order::new();
    order.set_notices(u32::MAX - 1);
    let limits = TopicLimits {
        reorder_window: ms(0),
        ..limits()
    };
    let at = Instant::now();
    let accept = |order: &mut Order, seqno| {
        let entry = Entry {
            seqno,
            diff: None,
            publisher: 1,
            at,
            notice: 0,
        };
        order.accept(entry, &limits)
    };
    accept(&mut order, 1);
    let before = Cursor::at(2, &order);
    for seqno in [100_000, 100_001, 100_002] {
        assert_eq!(accept(&mut order, seqno), Verdict::Doubted);
    }
    let notices: Vec<u32> = order.doubted().map(|e| e.notice).collect();
    assert_eq!(notices, [u32::MAX, 1, 2], "0 is left out");
    let (mut told, mut cursor) = (Vec::new(), before);
    let mut sink = TestSink {
        wire: Wire::V1,
        payloads: &BTreeMap::new(),
        room: 9,
        told: &mut told,
        missed: 0,
        oversize: 0,
    };
    let reader = super::super::Reader {
        wire: Wire::V1,
        session: 5,
    };
    cursor.read(
        SHARD,
        &order,
        reader,
        &mut Own::default(),
        &limits,
        &mut sink,
    );
    assert_eq!(told, [G(100_000, 100_002)]);
}

/// However many holes there are above what was evicted, none is forgotten.
#[test]
fn any_number_of_holes_can_be_filled_late() {
    let mut bench = Bench::new();
    let mut a = bench.v0();
    bench.publish(0);
    for seqno in (2..400).step_by(2) {
        bench.publish(seqno);
    }
    bench.pass(ms(50));
    bench.read(&mut a);
    for seqno in (1..399).step_by(2) {
        assert_eq!(bench.publish(seqno), Verdict::FilledLate, "{seqno}");
    }
    assert_eq!(bench.read(&mut a), (1..399).map(D).collect::<Vec<_>>());
}
