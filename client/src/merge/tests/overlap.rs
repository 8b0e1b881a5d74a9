//! Two sessions and more.

use super::*;

/// The one thing that this module is for.
#[tokio::test]
async fn what_one_session_lacks_the_other_may_bring() {
    let mut bench = Bench::new(3);
    bench.joins(B, 3);
    // A publisher of 4 and 5 has not moved, that of 6 has.
    assert_eq!(bench.gap(B, 4, 5), Outcome::Told);
    assert_eq!(bench.diff(B, 6), Outcome::Waits);
    assert_eq!(bench.told(), "");
    bench.diff(A, 4);
    assert_eq!(bench.told(), "d4");
    bench.diff(A, 5);
    assert_eq!(bench.told(), "d5 d6");
    // What the old server says of 6 is of no interest any more.
    bench.gap(A, 6, 6);
    bench.diff(A, 7);
    assert_eq!(bench.diff(B, 7), Outcome::Duplicate);
    assert_eq!(bench.told(), "d7");
    assert_eq!(bench.run.waits(), (0, 0));
}

#[tokio::test]
async fn what_follows_is_never_delayed() {
    let mut bench = Bench::new(3);
    bench.joins(B, 3);
    for (n, seqno) in (4..20).enumerate() {
        bench.diff([A, B][n % 2], seqno);
        assert_eq!(bench.told(), format!("d{seqno}"));
        bench.gap([B, A][n % 2], seqno, seqno);
        assert_eq!(bench.told(), "");
    }
}

#[tokio::test]
async fn what_no_session_has_is_a_gap_at_once() {
    let mut bench = Bench::new(3);
    bench.joins(B, 3);
    bench.gap(A, 4, 5);
    bench.diff(A, 6);
    assert_eq!(bench.told(), "");
    bench.gap(B, 4, 4);
    assert_eq!(bench.told(), "g4-4", "as much as neither has");
    bench.gap(B, 5, 7);
    assert_eq!(bench.told(), "g5-5 d6");
    bench.gap(A, 7, 8);
    assert_eq!(bench.told(), "g7-7");
}

#[tokio::test(start_paused = true)]
async fn a_session_is_not_waited_for_longer_than_the_grace() {
    let mut bench = Bench::new(3);
    bench.joins(B, 3);
    bench.gap(B, 4, 5);
    bench.pass(GRACE / 2).await;
    bench.diff(B, 6);
    bench.pass(GRACE / 2 - Duration::from_millis(1)).await;
    assert_eq!(bench.told(), "");
    bench.pass(Duration::from_millis(1)).await;
    assert_eq!(bench.told(), "g4-5 d6");
    assert_eq!(bench.run.next_due(GRACE), None);
    // Nor is it for the next hole,
    bench.gap(B, 7, 7);
    assert_eq!(bench.told(), "g7-7");
    // until it says something of the shard.
    bench.diff(A, 4);
    bench.gap(B, 8, 8);
    bench.diff(B, 9);
    assert_eq!(bench.told(), "");
    bench.diff(A, 8);
    assert_eq!(bench.told(), "d8 d9");
}

/// The gap was told; the diffs come all the same, while nothing behind them
/// was told.
#[tokio::test(start_paused = true)]
async fn what_comes_after_the_grace_is_told_if_it_is_in_order() {
    let mut bench = Bench::new(3);
    bench.joins(B, 3);
    bench.gap(B, 4, 6);
    bench.pass(GRACE).await;
    assert_eq!(bench.told(), "g4-6");
    bench.diff(A, 4);
    bench.diff(A, 6);
    assert_eq!(bench.diff(A, 5), Outcome::Duplicate);
    bench.diff(B, 7);
    assert_eq!(bench.told(), "d4 d6 d7");
}

#[tokio::test]
async fn a_session_that_ends_is_not_waited_for() {
    for end in [End::Complete, End::Lost] {
        let mut bench = Bench::new(3);
        bench.joins(B, 3);
        bench.gap(B, 4, 5);
        bench.diff(B, 6);
        bench.left(A, end);
        assert_eq!(bench.told(), "g4-5 d6");
        assert_eq!(bench.diff(A, 7), Outcome::Stale);
        bench.diff(B, 7);
        assert_eq!(bench.told(), "d7");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_session_brought_outlives_it() {
    let mut bench = Bench::new(3);
    bench.joins(B, 3);
    bench.gap(B, 4, 4);
    bench.diff(B, 5);
    bench.left(B, End::Lost);
    assert_eq!(bench.told(), "");
    bench.diff(A, 4);
    assert_eq!(bench.told(), "d4 d5");
    // And of the last one, all that there is.
    bench.joins(C, 5);
    bench.diff(C, 6);
    bench.gap(C, 7, 7);
    bench.diff(C, 8);
    bench.left(C, End::Lost);
    bench.left(A, End::Lost);
    assert_eq!(bench.told(), "d6 g7-7 d8");
}

#[tokio::test]
async fn a_gap_that_another_has_filled_is_none_when_it_surfaces_late() {
    let mut bench = Bench::new(3);
    bench.joins(B, 3);
    bench.diff(A, 4);
    bench.gap(B, 4, 5);
    bench.diff(B, 6);
    bench.diff(A, 5);
    assert_eq!(bench.told(), "d4 d5 d6");
    for late in [4, 5] {
        bench.gap_at(B, late, late, 6);
        assert_eq!(bench.told(), "");
    }
    // One that nobody brought is told as ever.
    bench.gap(A, 6, 7);
    bench.gap(B, 7, 7);
    assert_eq!(bench.told(), "g7-7");
    bench.gap_at(B, 4, 7, 7);
    assert_eq!(bench.told(), "g7-7");
}

#[tokio::test]
async fn a_doubted_seqno_is_passed_on_and_moves_nothing() {
    let mut bench = Bench::new(10);
    bench.joins(B, 10);
    bench.gap_at(B, 5_000, 5_000, 10);
    assert_eq!(bench.told(), "g5000-5000");
    for seqno in 11..=12 {
        bench.diff(A, seqno);
    }
    assert_eq!(bench.told(), "d11 d12");
    // What the new server doubts the old one has told.
    bench.gap_at(B, 12, 12, 10);
    assert_eq!(bench.told(), "");
    bench.diff(B, 13);
    assert_eq!(bench.told(), "d13");
}

/// A server that was answered before it knew: what is below its head another
/// session has to bring.
#[tokio::test]
async fn a_session_that_named_no_seqno_begins_at_its_servers_head() {
    let mut bench = Bench::bare(None);
    let nowhere = Position::default();
    assert_eq!(bench.answered(A, nowhere, Some(5)), None);
    assert_eq!(bench.told(), "r5");
    assert_eq!(bench.answered(B, nowhere, Some(7)), None);
    bench.diff(B, 8);
    assert_eq!(bench.told(), "");
    bench.diff(A, 6);
    bench.diff(A, 7);
    assert_eq!(bench.told(), "d6 d7 d8");
    // One that knows nothing begins anywhere: below its first diff is nothing.
    assert_eq!(bench.answered(C, nowhere, None), None);
    bench.diff(C, 10);
    assert_eq!(bench.told(), "");
    bench.gap(A, 9, 9);
    bench.gap(B, 9, 9);
    assert_eq!(bench.told(), "g9-9 d10");
}

#[tokio::test(start_paused = true)]
async fn from_v1_to_v0() {
    let mut bench = Bench::new(3);
    bench.run.asked_v0(B, Instant::now());
    bench.with(|run, tell| run.unanswerable(B, clock(), tell));
    assert_eq!(bench.told(), "", "the old session brings all that there is");
    bench.diff(B, 6);
    bench.diff(A, 4);
    assert_eq!(bench.told(), "d4");
    bench.gap(A, 5, 5);
    assert_eq!(bench.told(), "g5-5 d6", "v0 has no more to say of 5");
    bench.diff(B, 9);
    bench.pass(GRACE).await;
    assert_eq!(bench.told(), "g7-8 d9");
    bench.left(A, End::Complete);
    bench.diff(B, 11);
    assert_eq!(bench.told(), "g10-10 d11");
    bench.pass(SPREAD).await;
    assert_eq!(bench.told(), "");
}

/// Of a v0 session that has said nothing, its beginning says nothing either.
#[tokio::test(start_paused = true)]
async fn a_v0_session_that_was_silent_does_not_stand_for_the_old_one() {
    let mut bench = Bench::new(3);
    bench.run.asked_v0(B, Instant::now());
    bench.with(|run, tell| run.unanswerable(B, clock(), tell));
    bench.left(A, End::Complete);
    bench.pass(SPREAD).await;
    assert_eq!(bench.told(), "r?");
}

#[tokio::test]
async fn from_v0_to_v1() {
    let mut bench = Bench::bare(Some(3));
    bench.run.asked_v0(A, Instant::now());
    bench.with(|run, tell| run.unanswerable(A, clock(), tell));
    assert_eq!(bench.told(), "r?");
    bench.joins(B, 3);
    bench.gap(B, 4, 4);
    bench.diff(B, 5);
    assert_eq!(bench.told(), "", "v0 may bring it still");
    bench.diff(A, 4);
    assert_eq!(bench.told(), "d4 d5");
    bench.diff(A, 7);
    assert_eq!(bench.told(), "");
    bench.diff(B, 6);
    assert_eq!(bench.told(), "d6 d7");
}

/// Several homes: while one lives, nobody notices the loss of another.
#[tokio::test(start_paused = true)]
async fn three_sessions_are_one() {
    let mut bench = Bench::new(0);
    bench.joins(B, 0);
    bench.joins(C, 0);
    bench.gap(C, 1, 2);
    bench.diff(C, 3);
    bench.gap(B, 1, 1);
    bench.diff(B, 2);
    bench.diff(A, 1);
    assert_eq!(bench.told(), "d1 d2 d3");
    bench.left(B, End::Lost);
    bench.gap(A, 2, 4);
    bench.diff(A, 5);
    assert_eq!(bench.told(), "");
    bench.diff(C, 4);
    assert_eq!(bench.told(), "d4 d5");
    // It comes back, having forgotten all.
    assert_eq!(bench.subscribes(B, None), None);
    bench.left(A, End::Lost);
    bench.pass(SPREAD).await;
    assert_eq!(bench.told(), "");
    bench.diff(B, 6);
    bench.left(C, End::Lost);
    bench.diff(B, 7);
    bench.pass(SPREAD).await;
    assert_eq!(bench.told(), "d6 d7");
}
