//! A seqno too far from the others: one client may be wrong, or all others.

use super::Verdict::{Adopted, Doubted, DoubtedAgain, InOrder};
use super::*;

/// Further than the bench believes at once.
const FAR: u64 = 1_000_000;

#[test]
fn a_jump_is_told_at_once_and_moves_nothing() {
    for far in [FAR, persist_pubsub_proto::MAX_SEQNO] {
        let mut bench = Bench::new();
        let (mut a, mut b) = (bench.v0(), bench.v1());
        bench.publish_all(1..4);
        bench.read(&mut a);
        bench.read(&mut b);
        assert_eq!(bench.publish(far), Doubted);
        assert_eq!(bench.status().head, Some(3));
        assert_eq!(bench.read(&mut a), [D(far)]);
        assert_eq!(bench.read(&mut b), [G(far, far)]);
        assert_eq!(bench.publish(4), InOrder, "the shard goes on");
        assert_eq!(bench.read(&mut a), [D(4)]);
        assert_eq!(bench.read(&mut b), [D(4)]);
        assert_eq!(bench.publish(far), DoubtedAgain);
        assert_eq!((bench.read(&mut a), bench.read(&mut b)), (vec![], vec![]));
    }
}

/// Both in one moment, as where a client tells all at once what it knows.
/// (Found by the simulation, seed 100048.)
#[test]
fn a_lie_in_the_moment_in_which_the_true_run_begins_does_not_stand() {
    let mut bench = Bench::new();
    bench.announce(FAR);
    assert_eq!(bench.publish_all(1..4), [Doubted; 3]);
    bench.pass(ms(1_000));
    assert_eq!(bench.publish(4), Adopted);
}

#[test]
fn what_is_just_near_enough_is_believed() {
    let mut bench = Bench::new();
    bench.publish(1);
    assert_eq!(bench.publish(1_002), Verdict::Held);
    assert_eq!(bench.publish(1_003), Doubted);
}

#[test]
fn a_run_far_above_is_adopted_when_the_old_one_stands_still() {
    let mut bench = Bench::new();
    let (mut a, mut b, mut slow) = (bench.v0(), bench.v1(), bench.v1());
    bench.publish_all(1..4);
    bench.read(&mut a);
    bench.read(&mut b);
    bench.pass(ms(10));
    assert_eq!(bench.publish_all([FAR, FAR + 1, FAR + 2]), [Doubted; 3]);
    bench.pass(ms(999));
    assert_eq!(bench.publish(FAR + 3), Doubted, "not for long enough");
    bench.pass(ms(1));
    assert_eq!(bench.publish(FAR + 5), Adopted);
    assert_eq!(bench.status().head, Some(FAR + 5));
    let run = [FAR, FAR + 1, FAR + 2, FAR + 3, FAR + 5].map(D);
    assert_eq!(bench.read(&mut a), run);
    assert_eq!(
        bench.read(&mut b),
        [
            // Behind so large a hole, a diff is told as part of it.
            vec![G(4, FAR)],
            run[1..4].to_vec(),
            vec![G(FAR + 4, FAR + 4), run[4]]
        ]
        .concat()
    );
    assert_eq!(bench.read(&mut slow).first(), Some(&G(1, FAR)));
    assert_eq!(slow.missed, 3);
    assert_eq!(bench.publish(FAR + 4), Verdict::FilledLate);
    assert_eq!(bench.publish(FAR + 6), InOrder);
    assert_eq!(bench.read(&mut a), [FAR + 4, FAR + 5, FAR + 6].map(D));
    // The old run is now the one that is doubted.
    assert_eq!(bench.publish(4), Doubted);
}

/// Found with replicas, whose publications come in bursts: the old run moved
/// once more when the new one had begun, and the new one was doubted for ever.
#[test]
fn a_run_is_adopted_when_the_old_one_has_moved_once_more() {
    let mut bench = Bench::new();
    bench.publish_all(1..4);
    bench.pass(ms(10));
    assert_eq!(bench.publish(FAR), Doubted);
    bench.pass(ms(10));
    assert_eq!(bench.publish(4), InOrder);
    bench.pass(ms(10));
    assert_eq!(bench.publish_all(FAR + 1..FAR + 4), [Doubted; 3]);
    bench.pass(ms(999));
    assert_eq!(bench.publish(FAR + 4), Doubted, "not for long enough");
    bench.pass(ms(1));
    assert_eq!(bench.publish(FAR + 5), Adopted);
}

#[test]
fn a_run_far_below_is_adopted_too() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.v0(), bench.v1());
    // A liar was the first.
    assert_eq!(bench.publish(FAR), InOrder);
    bench.read(&mut a);
    bench.read(&mut b);
    bench.pass(ms(10));
    assert_eq!(bench.publish_all([41, 42]), [Doubted; 2]);
    assert_eq!(bench.read(&mut a), [D(41), D(42)]);
    assert_eq!(bench.read(&mut b), [G(41, 42)]);
    bench.pass(ms(1_000));
    assert_eq!(bench.publish(43), Adopted);
    assert_eq!(bench.read(&mut a), [D(41), D(42), D(43)]);
    // The lie was told to v1, not delivered: the truth below it can be.
    assert_eq!(bench.read(&mut b), [D(41), D(42), D(43)]);
    assert_eq!(bench.publish(44), InOrder);
    assert_eq!(bench.read(&mut b), [D(44)]);
    let mut fresh = bench.join(Wire::V1, 9, Start::After(42));
    assert_eq!(
        (fresh.head, bench.read(&mut fresh)),
        (Some(44), vec![D(43), D(44)])
    );
    assert_eq!(
        bench.publish(40),
        Verdict::FilledLate,
        "its past may still come"
    );
}

#[test]
fn a_persistent_liar_takes_no_shard_over_that_moves() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.v0(), bench.v1());
    bench.publish(1);
    bench.read(&mut a);
    bench.read(&mut b);
    for n in 0..50 {
        assert_eq!(bench.publish(FAR + n), Doubted);
        bench.pass(ms(100));
        assert_eq!(bench.publish(2 + n), InOrder);
        assert_eq!(bench.read(&mut a), [D(FAR + n), D(2 + n)]);
        assert_eq!(bench.read(&mut b), [G(FAR + n, FAR + n), D(2 + n)]);
    }
    assert!(bench.status().entries <= 51);
}

#[test]
fn a_liar_that_goes_first_and_on_silences_nobody() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.v0(), bench.v1());
    for n in 0..50 {
        bench.publish(FAR + n);
        bench.pass(ms(100));
        assert_eq!(bench.publish(1 + n), Doubted);
        assert!(bench.read(&mut a).contains(&D(1 + n)));
        assert!(bench.read(&mut b).contains(&G(1 + n, 1 + n)));
    }
}

/// Regression: with the sink full in between, the same doubted diffs came
/// again at every reading, and nothing else ever.
#[test]
fn many_doubted_are_told_once_each_however_small_the_sink() {
    let mut bench = Bench::new();
    let mut a = bench.v0();
    bench.publish_all(1..4);
    bench.read(&mut a);
    bench.publish_all([FAR + 2, FAR, FAR + 1]);
    bench.publish(4);
    let mut told = Vec::new();
    let mut reads = 0;
    while bench.read_some(&mut a, 1, &mut told) {
        reads += 1;
        assert!(reads < 10, "{told:?}");
    }
    assert_eq!(told, [FAR + 2, FAR, FAR + 1, 4].map(D));
}

/// Regression: frames of doubted diffs that were encoded on first need were
/// counted as the log's for ever, so that a liar could take its room away.
#[test]
fn doubted_diffs_leave_no_bytes_behind() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.v0(), bench.v1());
    bench.publish(1);
    for n in 0..40 {
        bench.publish(FAR + n);
        bench.read(&mut a);
        bench.read(&mut b);
    }
    bench.publish(2);
    bench.read(&mut a);
    bench.pass(ms(1));
    bench.age(ms(0));
    assert_eq!(bench.status().bytes, 0);
    bench.publish_all([3, 4]);
    assert_eq!(bench.status().bytes, bench.accounted.unsigned_abs());
}

#[test]
fn adoption_accounts_for_frames_encoded_before() {
    let mut bench = Bench::new();
    let mut a = bench.v0();
    bench.publish(1);
    bench.pass(ms(1));
    bench.publish_all([FAR, FAR + 1]);
    bench.read(&mut a);
    bench.pass(ms(1_100));
    assert_eq!(bench.publish(FAR + 2), Adopted);
    bench.read(&mut a);
    bench.pass(ms(1));
    bench.age(ms(0));
    assert_eq!((bench.status().bytes, bench.accounted), (0, 0));
}

#[test]
fn doubted_diffs_are_bounded_in_number_and_bytes() {
    let mut bench = Bench::with(TopicLimits {
        log_bytes: 10_000,
        ..limits()
    });
    bench.publish(1);
    let one = bench.status().bytes;
    for n in 0..100 {
        bench.publish(FAR + n);
    }
    assert!(bench.status().bytes <= 20 * one, "16 are kept");
    for n in 100..120 {
        bench.put(FAR + n, Some(6_000), STRANGER, None);
    }
    assert!(bench.status().bytes <= 10_000 + one);
    let mut a = bench.v0();
    bench.put(FAR + 120, Some(20_000), STRANGER, None);
    bench.limits.v0_max_frame_bytes = 30_000;
    assert_eq!(
        bench.read(&mut a),
        [D(FAR + 120), D(1)],
        "one stays, whatever its size"
    );
}

#[test]
fn doubted_diffs_age() {
    let mut bench = Bench::new();
    bench.publish(1);
    bench.pass(ms(100));
    bench.publish(FAR);
    bench.age(ms(50));
    assert!(bench.status().bytes > 0);
    bench.pass(ms(100));
    let (.., age, idle) = bench
        .topic
        .evict(bench.now - ms(50), bench.now, &bench.limits);
    assert_eq!((bench.status().bytes, age, idle), (0, None, true));
}

#[test]
fn one_s_own_doubted_diff_is_not_echoed() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (bench.v0(), bench.v1());
    bench.publish(1);
    bench.publish_own(&mut a, FAR);
    bench.publish_own(&mut b, FAR + 1);
    assert_eq!(bench.read(&mut a), [D(FAR + 1), D(1)]);
    assert_eq!(bench.read(&mut b), [G(FAR, FAR), D(1)]);
}
