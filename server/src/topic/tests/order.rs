//! What waits for its predecessor, and for how long.

use super::Verdict::{Duplicate, FilledLate, Gapped, Held, InOrder};
use super::*;

#[test]
fn what_is_in_order_passes_at_once() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.v0(), bench.v1());
    assert_eq!(bench.publish_all(5..8), [InOrder; 3]);
    assert_eq!(bench.read(&mut a), [D(5), D(6), D(7)]);
    assert_eq!(bench.read(&mut b), [D(5), D(6), D(7)]);
    assert_eq!(bench.timer, None);
    assert_eq!(bench.status().head, Some(7));
}

#[test]
fn one_that_comes_early_waits_and_passes_with_its_predecessor() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.v0(), bench.v1());
    assert_eq!(bench.publish_all([1, 3, 4]), [InOrder, Held, Held]);
    assert_eq!(bench.status().held, 2);
    assert_eq!(bench.status().head, Some(1), "what waits is not the head");
    assert_eq!(bench.read(&mut a), [D(1)]);
    bench.pass(ms(49));
    assert_eq!(bench.read(&mut b), [D(1)]);
    assert_eq!(bench.publish(2), InOrder);
    assert_eq!(bench.read(&mut a), [D(2), D(3), D(4)]);
    assert_eq!(bench.read(&mut b), [D(2), D(3), D(4)]);
    bench.pass(ms(100));
    assert_eq!(bench.timer, None, "nothing is left to wait for");
    assert_eq!(bench.publish_all([6, 5]), [Held, InOrder], "it waits again");
}

#[test]
fn after_the_window_it_passes_with_a_gap() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.v0(), bench.v1());
    bench.publish_all([1, 4]);
    bench.read(&mut b);
    bench.pass(ms(20));
    bench.publish(5);
    bench.pass(ms(30));
    assert_eq!(bench.read(&mut b), [G(2, 3), D(4), D(5)]);
    assert_eq!(bench.read(&mut a), [D(1), D(4), D(5)]);
    assert_eq!((a.missed, b.missed), (0, 0), "it was never there");
    assert_eq!(bench.timer, None);
}

#[test]
fn the_timer_tells_which_seqno_was_missing_last() {
    let mut bench = Bench::new();
    bench.publish_all([1, 4, 6]);
    let at = bench.timer.unwrap();
    let early = at - ms(1);
    assert_eq!(
        bench.topic.release_due(early, &bench.limits),
        (None, Some(at))
    );
    assert_eq!(bench.topic.release_due(at, &bench.limits), (Some(5), None));
}

#[test]
fn several_holes_each_become_a_gap() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.v0(), bench.v1());
    bench.publish_all([1, 9, 3, 6, 5]);
    assert_eq!(bench.status().held, 4);
    assert_eq!(bench.publish(2), InOrder);
    assert_eq!(bench.read(&mut b), [D(1), D(2), D(3)]);
    bench.pass(ms(50));
    assert_eq!(bench.read(&mut b), [G(4, 4), D(5), D(6), G(7, 8), D(9)]);
    assert_eq!(bench.read(&mut a), [1, 2, 3, 5, 6, 9].map(D));
}

#[test]
fn a_deadline_is_that_of_the_one_that_waits_longest() {
    let mut bench = Bench::new();
    bench.publish_all([1, 3]);
    bench.pass(ms(40));
    bench.publish_all([2, 6]);
    let mut b = bench.v1();
    bench.pass(ms(40));
    assert_eq!(bench.read(&mut b), [], "6 has waited for 40 ms");
    bench.pass(ms(10));
    assert_eq!(bench.read(&mut b), [G(4, 5), D(6)]);
}

#[test]
fn duplicates_change_nothing() {
    let mut bench = Bench::new();
    let mut b = bench.v1();
    assert_eq!(
        bench.publish_all([2, 2, 4, 4]),
        [InOrder, Duplicate, Held, Duplicate]
    );
    bench.pass(ms(50));
    assert_eq!(
        bench.publish_all([2, 4, 3, 3]),
        [Duplicate, Duplicate, FilledLate, Duplicate]
    );
    let bytes = bench.status().bytes;
    assert_eq!(bench.publish_all([4, 3, 2]), [Duplicate; 3]);
    assert_eq!(bench.status().bytes, bytes);
    assert_eq!(bench.read(&mut b), [D(2), D(3), D(4)]);
}

#[test]
fn one_that_was_evicted_is_a_duplicate() {
    let mut bench = Bench::new();
    bench.publish_all(1..4);
    bench.pass(ms(1));
    assert_eq!(bench.age(ms(0)), 3);
    assert_eq!(bench.publish(2), Duplicate);
    assert_eq!(bench.status().entries, 0);
}

#[test]
fn an_announcement_keeps_the_order_and_is_a_gap_to_v1() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.v0(), bench.v1());
    assert_eq!(bench.publish(1), InOrder);
    assert_eq!(bench.announce(2), InOrder);
    assert_eq!(bench.publish(3), InOrder);
    assert_eq!(bench.announce(5), Held);
    assert_eq!(bench.read(&mut a), [D(1), D(3)]);
    assert_eq!(bench.read(&mut b), [D(1), G(2, 2), D(3)]);
    bench.pass(ms(50));
    assert_eq!(bench.read(&mut b), [G(4, 5)]);
    assert_eq!(bench.announce(4), Duplicate, "told already");
    assert_eq!(bench.status().head, Some(5));
}

#[test]
fn the_diff_of_an_announcement_may_still_come() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.v0(), bench.v1());
    bench.publish(1);
    bench.announce(2);
    bench.publish(3);
    bench.read(&mut a);
    bench.read(&mut b);
    assert_eq!(bench.publish(2), FilledLate);
    assert_eq!(bench.read(&mut a), [D(2), D(3)]);
    assert_eq!(bench.read(&mut b), [G(2, 2)]);
    assert_eq!(bench.announce(2), Duplicate, "the diff stays");
    // One that is held is replaced where it stands.
    assert_eq!(bench.announce(5), Held);
    assert_eq!(bench.publish(5), Held);
    assert_eq!(bench.publish(4), InOrder);
    assert_eq!(bench.read(&mut b), [D(4), D(5)]);
}

#[test]
fn the_diff_of_an_announcement_may_come_after_the_announcement_was_evicted() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.v0(), bench.v1());
    bench.publish(1);
    bench.announce(2);
    bench.pass(ms(1));
    assert_eq!(bench.age(ms(0)), 2);
    assert_eq!(bench.read(&mut b), [G(1, 2)]);
    assert_eq!(
        (b.missed, bench.read(&mut a)),
        (1, vec![]),
        "2 was not there to be missed"
    );
    assert_eq!(bench.publish(2), FilledLate);
    assert_eq!(bench.read(&mut a), [D(2)]);
    assert_eq!(bench.read(&mut b), [G(2, 2)]);
}

#[test]
fn waiting_in_vain_pauses_for_a_second_and_up_to_a_minute() {
    let mut bench = Bench::new();
    bench.publish(1);
    let mut seqno = 1;
    for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
        seqno += 2;
        assert_eq!(bench.publish(seqno), Held);
        bench.pass(ms(50));
        assert_eq!(bench.status().held, 0);
        // No tax while it pauses.
        seqno += 2;
        assert_eq!(bench.publish(seqno), Gapped(seqno - 1));
        bench.pass(Duration::from_secs(pause) - ms(1));
        seqno += 2;
        assert_eq!(bench.publish(seqno), Gapped(seqno - 1));
        assert_eq!(bench.timer, None);
        bench.pass(ms(1));
    }
}

#[test]
fn a_fill_in_time_ends_the_pauses() {
    let mut bench = Bench::new();
    bench.publish_all([1, 3]);
    bench.pass(ms(50));
    bench.publish(5);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.publish_all([7, 6]), [Held, InOrder]);
    // The next vain wait pauses for a second, not for two.
    bench.publish(9);
    bench.pass(ms(50));
    bench.pass(ms(1000));
    assert_eq!(bench.publish(11), Held);
}

#[test]
fn a_late_fill_within_the_window_ends_the_pause() {
    let mut bench = Bench::new();
    bench.publish_all([1, 3]);
    bench.pass(ms(50));
    assert_eq!(bench.publish(5), Gapped(4));
    bench.pass(ms(51));
    assert_eq!(bench.publish(4), FilledLate);
    assert_eq!(bench.publish(7), Gapped(6), "waiting would not have helped");
    bench.pass(ms(50));
    assert_eq!(bench.publish(6), FilledLate);
    assert_eq!(bench.publish(9), Held, "it would have");
}

#[test]
fn without_a_window_nothing_waits() {
    let mut bench = Bench::with(TopicLimits {
        reorder_window: ms(0),
        ..limits()
    });
    assert_eq!(
        bench.publish_all([1, 3, 2]),
        [InOrder, Gapped(2), FilledLate]
    );
    assert_eq!(bench.timer, None);
}

#[test]
fn the_highest_seqno_there_is_overflows_nothing() {
    use persist_pubsub_proto::MAX_SEQNO;
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.v0(), bench.v1());
    assert_eq!(
        bench.publish_all([MAX_SEQNO - 2, MAX_SEQNO]),
        [InOrder, Held]
    );
    bench.pass(ms(50));
    bench.publish_own(&mut a, MAX_SEQNO);
    // The first is far from nothing: told, not delivered.
    let last = [G(MAX_SEQNO - 2, MAX_SEQNO - 1), D(MAX_SEQNO)];
    assert_eq!(bench.read(&mut b), last);
    let mut late = bench.join(Wire::V1, 9, Start::After(MAX_SEQNO));
    assert_eq!(bench.read(&mut late), []);
    assert_eq!(bench.publish(0), Verdict::Doubted);
}

/// Regression: writers who come to a server one after another leave holes at
/// first, and waiting paused, for up to a minute; so when all were there, the
/// first two who overtook each other cost everybody a fetch. Who comes
/// announces what it published elsewhere, and that ends the pause.
#[test]
fn who_announces_has_come_and_is_waited_for() {
    for announced in [9, 11, 14] {
        let mut bench = Bench::new();
        let mut b = bench.v1();
        bench.publish_all([1, 4, 7]);
        bench.pass(ms(50));
        assert_eq!(bench.publish(10), Gapped(9), "waiting pauses");
        bench.announce(announced);
        bench.publish_all(announced.max(10) + 1..20);
        bench.read(&mut b);
        assert_eq!(bench.publish(21), Held, "announced {announced}");
        assert_eq!(bench.publish(20), InOrder);
        assert_eq!(bench.read(&mut b), [D(20), D(21)]);
    }
}

#[test]
fn an_announcement_that_waits_in_vain_pauses_nothing() {
    let mut bench = Bench::new();
    bench.publish(1);
    assert_eq!(bench.announce(5), Held);
    bench.pass(ms(50));
    assert_eq!(bench.publish(7), Held, "not Gapped");
}
