//! Sessions with several homes, which come and go at any time.

use super::*;
use crate::merge::source::OVERLAP;

/// A home that was started again knows nothing, and says nothing of a shard
/// that is still. Who publishes has come back to it as we have: it is enough
/// for the other one to be lost.
#[tokio::test(start_paused = true)]
async fn a_home_that_was_beside_another_for_long_is_enough() {
    let mut bench = Bench::new(3);
    assert_eq!(bench.subscribes(B, None), None);
    bench.pass(OVERLAP).await;
    bench.left(A, End::Lost);
    bench.pass(SPREAD).await;
    assert_eq!(bench.told(), "");
    bench.diff(B, 4);
    assert_eq!(bench.told(), "d4");
}

/// For a moment alone, it is not: nobody knows what went to the other.
#[tokio::test(start_paused = true)]
async fn a_home_that_was_beside_another_for_a_moment_is_not() {
    let mut bench = Bench::new(3);
    assert_eq!(bench.subscribes(B, None), None);
    bench.pass(OVERLAP - Duration::from_millis(1)).await;
    bench.left(A, End::Lost);
    bench.pass(SPREAD).await;
    assert_eq!(bench.told(), "r?");
    // A v0 session, never.
    let mut bench = Bench::new(3);
    bench.run.asked_v0(B, Instant::now());
    bench.with(|run, tell| run.unanswerable(B, clock(), tell));
    bench.pass(OVERLAP * 9).await;
    bench.left(A, End::Lost);
    bench.pass(SPREAD).await;
    assert_eq!(bench.told(), "r?");
}

/// One after the other, while one always tells: nothing is missed, and nothing
/// told that was told.
#[tokio::test(start_paused = true)]
async fn homes_that_are_started_again_by_turns_are_one_run() {
    let mut bench = Bench::new(0);
    bench.joins(B, 0);
    let mut seqno = 0;
    for n in 3..40 {
        // Which lives on, and which comes back with what it is announced.
        let (dies, lives) = (LinkId::new(n - 2), LinkId::new(n - 1));
        bench.left(dies, End::Lost);
        for _ in 0..5 {
            seqno += 1;
            assert_eq!(bench.diff(lives, seqno), Outcome::Told);
            assert_eq!(bench.told(), format!("d{seqno}"));
        }
        // It has forgotten, and is announced what it missed.
        let (back, asked) = (LinkId::new(n), bench.run.position());
        for _ in 0..3 {
            seqno += 1;
            bench.diff(lives, seqno);
        }
        assert_eq!(bench.answered(back, asked, None), None);
        assert_eq!(bench.gap(back, seqno - 2, seqno), Outcome::Told);
        assert_eq!(
            bench.told(),
            format!("d{} d{} d{seqno}", seqno - 2, seqno - 1)
        );
        seqno += 1;
        assert_eq!(bench.diff(back, seqno), Outcome::Told);
        assert_eq!(bench.diff(lives, seqno), Outcome::Duplicate);
        assert_eq!(bench.told(), format!("d{seqno}"));
    }
    bench.pass(SPREAD).await;
    assert_eq!(bench.told(), "");
    assert_eq!(bench.run.waits(), (0, 0));
}

#[tokio::test]
async fn a_home_lags_until_it_has_come_to_where_the_other_is() {
    let mut bench = Bench::new(3);
    assert!(!bench.run.lags(B, &[A]), "it does not bring the shard");
    bench.joins(B, 3);
    assert!(!bench.run.lags(A, &[B]));
    bench.diff(A, 4);
    assert!(bench.run.lags(A, &[B]) && !bench.run.lags(B, &[A]));
    bench.gap(B, 4, 4);
    assert!(!bench.run.lags(A, &[B]));
    bench.diff(A, 5);
    // It is enough that one has.
    bench.joins(C, 5);
    assert!(bench.run.lags(A, &[B]) && !bench.run.lags(A, &[B, C]));
    assert!(bench.run.lags(A, &[]));
}
