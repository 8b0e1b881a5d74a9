//! What the host pushed itself.

use super::*;

#[tokio::test]
async fn own_pushes_that_fit_raise_the_position() {
    let mut bench = Bench::new(3);
    bench.pushes(4);
    bench.pushes(5);
    assert_eq!(bench.run.position(), position(5, 3));
    // Another's between.
    bench.pushes(7);
    assert_eq!(bench.run.position(), position(5, 3));
    bench.diff(A, 6);
    assert_eq!(bench.told(), "d6");
    assert_eq!(bench.run.position(), position(7, 6));
    // And after a gap.
    bench.pushes(10);
    bench.gap(A, 8, 9);
    assert_eq!(bench.run.position(), position(10, 9));
}

/// It says nothing of what lies between, and that has to come yet.
#[tokio::test]
async fn own_pushes_that_do_not_fit_do_not_raise_it() {
    let mut bench = Bench::new(3);
    bench.pushes(7);
    bench.pushes(u64::MAX >> 1);
    bench.pushes(2);
    bench.pushes(3);
    assert_eq!(bench.run.position(), position(3, 3));
    // Nor where nobody knows where the host is.
    let mut bench = Bench::bare(None);
    bench.subscribes(A, None);
    bench.pushes(1);
    assert_eq!(bench.run.position(), Position::default());
    assert_eq!(bench.told(), "r?");
    // The server's head settles it.
    let mut bench = Bench::bare(None);
    bench.pushes(6);
    bench.subscribes(A, Some(5));
    assert_eq!(bench.told(), "r5");
    assert_eq!(bench.run.position(), position(6, 5));
}

/// After a reconnect the server does not know them for the host's.
#[tokio::test]
async fn own_pushes_are_neither_echoed_nor_a_gap_to_a_later_session() {
    let mut bench = Bench::new(3);
    bench.pushes(4);
    bench.pushes(6);
    bench.pushes(8);
    bench.left(A, End::Lost);
    assert_eq!(bench.run.position(), position(4, 3));
    bench.joins(B, 9);
    bench.diff(B, 5);
    assert_eq!(bench.diff(B, 6), Outcome::Duplicate);
    // 8 was lost with the old session.
    bench.gap(B, 7, 9);
    assert_eq!(bench.told(), "d5 g7-7 g9-9");
    bench.gap_at(B, 4, 4, 9);
    assert_eq!(bench.run.position(), position(9, 9));
}

/// Also where the host's position is not known.
#[tokio::test]
async fn own_pushes_are_not_echoed_to_a_host_that_named_no_seqno() {
    let mut bench = Bench::bare(None);
    bench.subscribes(A, None);
    bench.pushes(7);
    bench.left(A, End::Lost);
    bench.subscribes(B, None);
    assert_eq!(bench.told(), "r?");
    assert_eq!(bench.diff(B, 7), Outcome::Duplicate);
    bench.diff(B, 8);
    assert_eq!(bench.told(), "d8");
    // Nor a gap.
    let mut bench = Bench::bare(None);
    bench.subscribes(A, None);
    bench.pushes(7);
    bench.gap(A, 6, 7);
    assert_eq!(bench.told(), "r? g6-6");
}

#[tokio::test]
async fn own_pushes_are_no_gap_of_the_session_that_was_not_told() {
    let mut bench = Bench::new(3);
    bench.joins(B, 3);
    // Told to the old server alone, before the new session stood; and another
    // that is under way.
    bench.pushes(4);
    bench.gap(B, 4, 4);
    bench.diff(B, 5);
    assert_eq!(bench.told(), "d5");
    bench.gap(B, 6, 6);
    bench.diff(B, 7);
    assert_eq!(bench.told(), "");
    assert!(bench.pushes(6).frees);
    assert_eq!(bench.told(), "d7");
    // What surfaces late of them is not told either.
    bench.gap_at(B, 4, 4, 7);
    assert_eq!(bench.told(), "");
}

/// A v1 server passes over the session's own pushes without a word.
#[tokio::test]
async fn a_servers_silence_means_the_hosts_own() {
    let mut bench = Bench::new(3);
    bench.joins(B, 3);
    bench.gap(B, 4, 5);
    bench.diff(B, 6);
    assert_eq!(bench.told(), "");
    bench.diff(A, 6);
    assert_eq!(bench.told(), "d6");
}

/// A server that did not get them is not ignorant, one that did not get what
/// the host was told is.
#[tokio::test(start_paused = true)]
async fn lost_pushes_do_not_make_a_server_ignorant() {
    let mut bench = Bench::new(3);
    bench.pushes(4);
    bench.left(A, End::Lost);
    bench.joins(B, 3);
    bench.diff(B, 5);
    assert_eq!(bench.told(), "d5");

    let mut bench = Bench::new(1_000);
    bench.pushes(1_001);
    bench.left(A, End::Lost);
    assert_eq!(bench.subscribes(B, Some(5)), Some(5));
    assert_eq!(bench.answered(B, position(5, 5), Some(5)), None);
    bench.pass(SPREAD).await;
    assert_eq!(bench.told(), "r5");
    bench.diff(B, 6);
    assert_eq!(bench.told(), "d6");
}

/// More than are remembered, out of place.
#[tokio::test]
async fn own_pushes_are_remembered_within_bounds() {
    let mut bench = Bench::new(0);
    for n in 1..1_000 {
        bench.pushes(n * 2);
    }
    bench.gap(A, 1, 1);
    bench.diff(A, 1_997);
    assert_eq!(bench.run.position().have, Some(1_998));
    bench.run.own.insert(5_000, 5_000);
    assert_eq!(bench.run.own.first(), Some((5_000, 5_000)));
}
