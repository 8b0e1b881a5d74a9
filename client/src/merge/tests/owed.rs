//! Resyncs after a reconnect: spread, and spared where they are not needed.

use super::*;

/// The old session is gone, and the next server has forgotten the shard.
fn forgotten(have: u64) -> Bench {
    let mut bench = Bench::new(have);
    bench.left(A, End::Lost);
    bench.subscribes(B, None);
    assert_eq!(bench.told(), "");
    bench
}

#[tokio::test(start_paused = true)]
async fn a_server_that_has_forgotten_costs_a_fetch_within_the_spread() {
    let mut moments = Vec::new();
    for round in 0..2 {
        fastrand::seed(7);
        for _ in 0..200 {
            let begin = Instant::now();
            let mut bench = forgotten(3);
            let due = bench.run.next_due(GRACE).unwrap() - begin;
            moments.push(due);
            assert!(due <= SPREAD);
            bench.pass(SPREAD).await;
            assert_eq!(bench.told(), "r?");
            assert_eq!(bench.run.next_due(GRACE), None, "{round}: once");
            bench.diff(B, 5);
            assert_eq!(bench.told(), "d5");
        }
    }
    let (first, again) = moments.split_at(200);
    assert_eq!(first, again, "the seed decides");
    // Spread: each tenth of the time has some.
    for tenth in 0..10 {
        let tenth = (SPREAD / 10 * tenth)..(SPREAD / 10 * (tenth + 1));
        let within = first.iter().filter(|due| tenth.contains(due)).count();
        assert!((5..=45).contains(&within), "{within} in {tenth:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_hosts_own_first_subscription_is_not_delayed() {
    for (have, highest, told) in [
        (None, None, "r?"),
        (None, Some(5), "r5"),
        (Some(3), None, "r?"),
        (Some(9), Some(5), "r5"),
    ] {
        let mut bench = Bench::bare(have);
        bench.subscribes(B, highest);
        assert_eq!(bench.told(), told);
    }
    // Nor when the session that was asked first did not live to answer.
    let mut bench = Bench::bare(Some(3));
    bench.left(A, End::Lost);
    bench.subscribes(B, None);
    assert_eq!(bench.told(), "r?");
}

#[tokio::test(start_paused = true)]
async fn what_follows_what_was_told_spares_the_fetch() {
    type Act = fn(&mut Bench) -> bool;
    let acts: [(Act, &str, usize); 5] = [
        (|b| b.diff(B, 4) == Outcome::Told, "d4", 1),
        (|b| b.gap(B, 4, 6) == Outcome::Told, "g4-6", 1),
        (|b| b.pushes(4).cancels, "", 0),
        // These say nothing of 4.
        (|b| !b.pushes(5).cancels, "r?", 0),
        (
            |b| b.gap_at(B, 9_000, 9_000, 3) == Outcome::Told,
            "g9000-9000 r?",
            0,
        ),
    ];
    for (act, told, cancelled) in acts {
        let mut bench = forgotten(3);
        assert!(act(&mut bench), "{told}");
        bench.pass(SPREAD).await;
        assert_eq!(bench.told(), told);
        assert_eq!(bench.told.cancelled, cancelled, "{told}");
    }
}

/// Where the host is nobody knows, so that nothing follows it.
#[tokio::test(start_paused = true)]
async fn a_first_diff_spares_nothing_where_no_position_is_known() {
    let mut bench = Bench::bare(None);
    bench.subscribes(A, None);
    bench.left(A, End::Lost);
    bench.subscribes(B, None);
    bench.diff(B, 7);
    bench.pass(SPREAD).await;
    assert_eq!(bench.told(), "r? d7 r?");
}

#[tokio::test(start_paused = true)]
async fn a_resync_stays_owed_across_another_reconnect() {
    let mut bench = forgotten(3);
    bench.left(B, End::Lost);
    // Perhaps it knows of it only by this client's own word.
    bench.joins(C, 3);
    bench.pass(SPREAD).await;
    assert_eq!(bench.told(), "r?");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_knows_less_after_a_reconnect() {
    let mut bench = Bench::new(7);
    bench.left(A, End::Lost);
    assert_eq!(bench.subscribes(B, Some(5)), Some(5), "asked again");
    assert_eq!(bench.answered(B, position(5, 5), Some(5)), None);
    // Until the resync the host is told nothing that it was told before.
    assert_eq!(bench.diff(B, 6), Outcome::Duplicate);
    assert_eq!(bench.told(), "");
    bench.pass(SPREAD).await;
    assert_eq!(bench.told(), "r6");
    bench.diff(B, 7);
    assert_eq!(bench.told(), "d7");
}

/// As it does when those who published tell it what they did.
#[tokio::test(start_paused = true)]
async fn a_server_that_knew_less_and_catches_up_costs_nothing() {
    let mut bench = Bench::new(7);
    bench.left(A, End::Lost);
    assert_eq!(bench.subscribes(B, Some(5)), Some(5));
    assert_eq!(bench.answered(B, position(5, 5), Some(5)), None);
    bench.gap(B, 6, 7);
    bench.diff(B, 8);
    bench.pass(SPREAD).await;
    assert_eq!(bench.told(), "d8");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_has_forgotten_is_no_matter_while_the_old_one_tells() {
    for (end, told) in [(End::Complete, ""), (End::Lost, "r?")] {
        let mut bench = Bench::new(3);
        bench.subscribes(B, None);
        bench.pass(SPREAD).await;
        assert_eq!(bench.told(), "");
        bench.left(A, end);
        bench.pass(SPREAD).await;
        assert_eq!(bench.told(), told, "{end:?}");
        // One that knows less neither, and is asked again all the same.
        let mut bench = Bench::new(7);
        assert_eq!(bench.subscribes(B, Some(5)), Some(5));
        assert_eq!(bench.run.position().have, Some(7));
        bench.diff(A, 8);
        let five = Position {
            have: Some(5),
            sure: Some(5),
        };
        assert_eq!(bench.answered(B, five, Some(5)), None);
        bench.gap(B, 6, 6);
        bench.diff(B, 7);
        bench.diff(B, 8);
        bench.left(A, end);
        bench.pass(SPREAD).await;
        assert_eq!(bench.told(), "d8");
    }
}

/// What a session tells that fits shows that nothing before it is missing.
#[tokio::test(start_paused = true)]
async fn a_session_that_was_heard_stands_for_the_one_that_breaks() {
    let mut bench = Bench::new(3);
    bench.subscribes(B, None);
    bench.diff(A, 4);
    assert_eq!(bench.diff(B, 4), Outcome::Duplicate);
    bench.left(A, End::Lost);
    bench.pass(SPREAD).await;
    assert_eq!(bench.told(), "d4");
}
