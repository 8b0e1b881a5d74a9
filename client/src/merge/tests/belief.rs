//! Absurd seqnos, and servers that believed them.

use super::*;

const LIE: u64 = 5_000_000;

/// The server took a lie for the shard's run, and gives it up.
#[tokio::test]
async fn what_a_server_takes_back_is_not_held_against_what_comes() {
    let mut bench = Bench::new(3);
    bench.gap(A, 4, LIE);
    assert_eq!(bench.told(), "g4-5000000");
    bench.diff(A, 5);
    bench.gap(A, 6, 7);
    bench.diff(A, 8);
    assert_eq!(bench.told(), "d5 g6-7 d8");
    // By a gap first.
    let mut bench = Bench::new(3);
    bench.gap(A, 4, LIE);
    bench.gap(A, 6, 7);
    bench.diff(A, 8);
    assert_eq!(bench.told(), "g4-5000000 g6-7 d8");
}

/// It says so by doubting it.
#[tokio::test]
async fn a_lie_that_is_doubted_now_is_taken_back() {
    let mut bench = Bench::new(3);
    bench.gap(A, 4, LIE);
    bench.gap_at(A, LIE, LIE, 5);
    bench.gap(A, 6, 7);
    assert_eq!(bench.told(), "g4-5000000 g5000000-5000000 g6-7");
}

/// A server that was started again knows nothing of it.
#[tokio::test(start_paused = true)]
async fn a_lie_is_not_carried_to_the_next_server() {
    let mut bench = Bench::new(3);
    bench.gap(A, 4, LIE);
    bench.left(A, End::Lost);
    assert_eq!(bench.subscribes(B, None), None);
    bench.diff(B, 5);
    bench.gap(B, 6, 7);
    assert_eq!(bench.told(), "g4-5000000 d5 g6-7");
}

/// A session without a position hears of what surfaces late below the server's
/// first, which is a lie, and then of that. (Found by the simulation, seed
/// 405397.)
#[tokio::test]
async fn a_leap_to_a_servers_first_is_not_the_hosts_own() {
    let mut bench = Bench::bare(None);
    bench.subscribes(A, None);
    bench.gap_at(A, 3, 3, LIE);
    bench.gap_at(A, LIE, LIE, LIE);
    bench.gap_at(A, LIE, LIE, 5);
    bench.diff(A, 6);
    assert!(bench.told().ends_with(" d6"));
}

/// What it brings up to the head that it named is no retreat from that.
/// (Found by the simulation, seed 200747.)
#[tokio::test]
async fn a_session_that_has_yet_to_come_to_its_head_takes_nothing_back() {
    let mut bench = Bench::new(5);
    bench.joins(B, 10);
    bench.pushes(8);
    bench.gap_at(A, 6, 6, 10);
    bench.diff(A, 7);
    bench.gap_at(A, 9, 9, 10);
    bench.diff(A, 10);
    bench.gap_at(B, 6, 6, 10);
    bench.diff(B, 7);
    assert_eq!(bench.told(), "g6-6 d7");
    bench.gap_at(B, 8, 9, 10);
    bench.diff(B, 10);
    assert_eq!(bench.told(), "g9-9 d10");
    assert_eq!(bench.run.position(), position(10, 10));
}

/// What surfaces late takes nothing back.
#[tokio::test]
async fn a_late_gap_is_not_a_retreat() {
    let mut bench = Bench::new(3);
    bench.gap(A, 4, 5);
    bench.diff(A, 9);
    bench.gap_at(A, 4, 4, 9);
    assert_eq!(bench.told(), "g4-5 d9 g4-4");
    assert_eq!(bench.run.position(), position(9, 9));
}

/// Two servers that had believed the same lie, of which one has come to its
/// senses.
#[tokio::test]
async fn a_server_that_still_believes_does_not_keep_the_other_from_being_heard() {
    let mut bench = Bench::new(3);
    bench.joins(B, 3);
    bench.gap(A, 4, LIE);
    bench.gap(B, 4, LIE);
    bench.diff(B, 5);
    bench.left(A, End::Complete);
    bench.gap(B, 6, 7);
    assert_eq!(bench.told(), "g4-5000000 d5 g6-7");
}

/// The one that goes was the only one that believed it.
#[tokio::test]
async fn a_lie_goes_with_the_server_that_told_it() {
    let mut bench = Bench::new(3);
    bench.gap(A, 4, LIE);
    assert_eq!(bench.subscribes(B, Some(3)), Some(3));
    assert_eq!(bench.answered(B, position(3, 3), Some(3)), None);
    bench.diff(B, 4);
    bench.gap(B, 5, 6);
    assert_eq!(bench.told(), "g4-5000000 d4");
    bench.left(A, End::Complete);
    bench.gap(B, 7, 8);
    bench.diff(B, 9);
    assert_eq!(bench.told(), "g5-6 g7-8 d9");
}

/// A v0 server sends whatever it is given.
#[tokio::test]
async fn one_absurd_diff_of_a_v0_session_is_not_believed() {
    let mut bench = v0(3);
    bench.diff(A, LIE);
    bench.diff(A, 4);
    bench.diff(A, LIE + 7);
    bench.diff(A, 5);
    assert_eq!(bench.told(), "g5000000-5000000 d4 g5000007-5000007 d5");
}

#[tokio::test]
async fn a_v0_run_that_is_far_away_is_believed_when_it_goes_on() {
    let mut bench = v0(3);
    bench.diff(A, LIE);
    bench.diff(A, LIE + 1);
    bench.diff(A, LIE + 2);
    assert_eq!(
        bench.told(),
        "g5000000-5000000 g4-5000000 d5000001 d5000002"
    );
    // And so is the way back.
    bench.diff(A, 9);
    bench.diff(A, 10);
    bench.diff(A, 11);
    assert_eq!(bench.told(), "g9-9 d10 d11");
}

/// What a v0 server sends again on joining is no way back.
#[tokio::test]
async fn a_v0_replay_is_passed_over() {
    let mut bench = v0(500);
    for seqno in 100..=500 {
        assert_eq!(bench.diff(A, seqno), Outcome::Duplicate);
    }
    bench.diff(A, 501);
    assert_eq!(bench.told(), "d501");
}

/// The host has the shard, and a v0 session brings it.
fn v0(have: u64) -> Bench {
    let mut bench = Bench::bare(Some(have));
    bench.run.asked_v0(A, Instant::now());
    bench
}
