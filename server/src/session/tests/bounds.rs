//! What a session holds, and that it gives it back.

use std::future::Future;
use std::pin::pin;

use super::*;

#[tokio::test]
async fn a_session_that_is_gone_gives_everything_back() {
    let bench = Bench::new();
    let (p, mut r) = (bench.connect(Wire::V1), bench.connect(Wire::V0));
    let mut s = bench.connect(Wire::V1);
    let topics = || bench.shared.registry.topics();
    r.subscribe(A, Start::Now);
    s.subscribe(A, Start::Now);
    s.subscribe(B, Start::Now);
    assert_eq!((topics(), bench.shared.census.streams()), (2, 3));
    for seqno in 1..20 {
        p.publish_diff(A, seqno, vec![0; 1_000]);
        p.publish_diff(A, 1_000_000 + seqno, vec![0; 1_000]);
        r.drain();
    }
    s.drain();
    assert!(
        bench.shared.registry.log_bytes() > 19 * 2_000,
        "both frames are counted"
    );
    s.guard = None;
    assert_eq!(topics(), 1, "nobody wants B, and it has no diff");
    assert_eq!(s.poll(), Ended("client_gone"));
    r.guard = None;
    assert_eq!(topics(), 1, "A has diffs");
    assert_eq!(bench.shared.census.all().len(), 1);
    drop(p);
    bench.check_empty();
}

/// Regression: what the reading task did when the stream was gone already was
/// never given back: a place in the census, subscriptions.
#[tokio::test]
async fn what_comes_after_the_end_is_not_kept() {
    let bench = Bench::new();
    let (late, guard) = bench.open(Wire::V0);
    drop(guard);
    late.introduce(bench.profile(), Mode::ReadWrite, None);
    assert_eq!(bench.shared.census.all().len(), 0);
    let answer = || v1::session_response::Message::Heartbeat(v1::Heartbeat {});
    late.subscribe(&[(A, Start::Replay)], |_| vec![answer()])
        .unwrap();
    late.answer(answer());
    assert_eq!(late.subscriptions(), 0);
    bench.check_empty();
}

#[tokio::test]
async fn no_echo_across_the_session() {
    let bench = Bench::new();
    let (p, r) = (bench.connect(Wire::V1), bench.connect(Wire::V1));
    r.subscribe(A, Start::Now);
    r.drain();
    r.publish(A, 1);
    assert_eq!(r.poll(), Asleep);
    p.publish(A, 2);
    p.publish(A, 3);
    r.publish(A, 3);
    r.publish(A, 4);
    p.publish(A, 5);
    assert_eq!(r.drain(), ["A2", "A5"]);
}

#[tokio::test]
async fn the_bound_on_subscriptions_counts_none_twice() {
    let bench = Bench::with(&Config {
        max_subscriptions_per_session: 2,
        ..Config::default()
    });
    let r = bench.connect(Wire::V0);
    let shard = |n| (ShardId::new([n; 16]), Start::Now);
    assert!(r.session.room_for(&[shard(1), shard(2)]).is_ok());
    r.subscribe(A, Start::Now);
    r.subscribe(B, Start::Now);
    assert!(
        r.session.room_for(&[shard(1), shard(2)]).is_ok(),
        "subscribed already"
    );
    let refusal = r.session.room_for(&[shard(1), shard(3)]).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::TooManySubscriptions);
    r.session.unsubscribe(&[A]);
    assert!(r.session.room_for(&[shard(3)]).is_ok());
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answers_is_not_read() {
    let bench = Bench::with(&Config {
        max_control_frames: 2,
        ..Config::default()
    });
    let r = bench.connect(Wire::V1);
    r.session.room_to_answer().await;
    r.unsubscribe(A);
    r.unsubscribe(A);
    {
        let mut room = pin!(r.session.room_to_answer());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(room.as_mut().poll(&mut cx).is_pending());
        assert_eq!(r.drain(), ["unsubscribed", "unsubscribed"]);
        assert!(room.as_mut().poll(&mut cx).is_ready());
    }
    r.unsubscribe(A);
    r.unsubscribe(A);
    r.session.end(EndReason::Draining, When::Flushed);
    r.session.room_to_answer().await;
}

/// A session that publishes and does not read is ended, rather than told of its
/// own as a gap, or kept in mind without a bound: it comes back and resumes.
#[tokio::test]
async fn a_session_too_far_behind_its_own_is_ended() {
    let bench = Bench::with(&Config {
        max_own_ranges_per_session: 3,
        ..Config::default()
    });
    let (p, r) = (bench.connect(Wire::V1), bench.connect(Wire::V1));
    r.subscribe(A, Start::Now);
    r.subscribe(B, Start::Now);
    r.drain();
    // In both shards together; what is read past does not count.
    for shard in [A, B] {
        for seqno in [1, 3] {
            p.publish(shard, seqno);
            r.publish(shard, seqno + 1);
        }
        assert!(!r.session.outbox().is_ending());
        if shard == A {
            assert_eq!(r.drain(), ["A1", "A3"]);
        }
    }
    p.publish(B, 5);
    r.publish(B, 6);
    assert!(!r.session.outbox().is_ending(), "three ranges are kept");
    p.publish(B, 7);
    r.publish(B, 8);
    assert_eq!(r.poll(), Ended("too_far_behind"));
    drop(r);
    // What it published is there for the others.
    let late = bench.connect(Wire::V1);
    late.subscribe(B, Start::After(6));
    assert_eq!(late.drain(), ["subscribed", "B7", "B8"]);
    drop((p, late));
    bench.check_empty();
}

/// Regression: the lists of marks grew with every round.
#[tokio::test]
async fn subscribing_in_rounds_without_reading_grows_nothing() {
    let bench = Bench::new();
    let (p, r) = (bench.connect(Wire::V0), bench.connect(Wire::V0));
    p.publish(A, 1);
    p.publish(B, 1);
    for _ in 0..1_000 {
        r.subscribe(A, Start::Replay);
        r.subscribe(B, Start::Replay);
        r.session.unsubscribe(&[A]);
        r.session.unsubscribe(&[B]);
    }
    assert!(r.session.behind().0 <= 2, "{:?}", r.session.behind());
    // Nor with a reader that takes a little of it between the rounds.
    for seqno in 2..200 {
        p.publish_diff(A, seqno, vec![0; 4_000]);
    }
    for _ in 0..1_000 {
        r.subscribe(A, Start::Replay);
        r.subscribe(B, Start::Replay);
        assert!(matches!(r.poll(), Polled::Frames(_)));
        r.session.unsubscribe(&[A, B]);
    }
    assert!(r.session.behind().0 <= 4, "{:?}", r.session.behind());
    assert_eq!(r.poll(), Asleep);
}
