//! v1 subscriptions: where they begin, what is told of what is gone, and
//! that they end.

use persist_pubsub_compat_tests::child::Child;
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::v1_peer::Peer;
use persist_pubsub_compat_tests::wait::until;
use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::v1::Gap;

use super::{Failure, Verdict, server};

const A: ShardId = ShardId::new([0xaa; 16]);
const B: ShardId = ShardId::new([0xbb; 16]);

/// A server to which a writer has published `seqnos` of A.
async fn with_diffs(
    server: &Child,
    seqnos: std::ops::RangeInclusive<u64>,
) -> Result<Peer, Failure> {
    let mut writer = Peer::connect(&server.url(), "writer").await?;
    for seqno in seqnos.clone() {
        let diff = format!("diff {seqno}");
        writer.sender().publish(A, seqno, seqno, diff).await?;
    }
    // v1 works a stream off in order: what is answered comes after them.
    writer.sender().unsubscribe(1, &[]).await?;
    writer.receiver().expect_unsubscribed("an answer").await?;
    Ok(writer)
}

async fn expect_diffs(peer: &mut Peer, seqnos: std::ops::RangeInclusive<u64>) -> Verdict {
    for seqno in seqnos {
        let diff = peer.receiver().expect_diff("the next diff").await?;
        assert_eq!((diff.seqno, diff.committed_unix_nanos), (seqno, seqno));
        assert_eq!(diff.diff, format!("diff {seqno}"));
    }
    Ok(())
}

/// Nothing else has come.
async fn expect_nothing(peer: &mut Peer) -> Verdict {
    peer.sender().unsubscribe(99, &[]).await?;
    let answer = peer
        .receiver()
        .expect_unsubscribed("an answer, nothing else")
        .await?;
    assert_eq!(answer.request_id, 99);
    Ok(())
}

#[track_caller]
fn assert_gap(gap: &Gap, from: u64, to: u64, highest: u64) {
    let got = (gap.from_seqno, gap.to_seqno, gap.highest_seqno);
    assert_eq!(got, (from, to, highest));
}

#[tokio::test]
async fn everything_past_the_named_seqno_comes() -> Verdict {
    let server = server(&[]).await?;
    let writer = with_diffs(&server, 1..=50).await?;
    for have in [0, 17, 49, 50] {
        let mut peer = Peer::connect(&server.url(), "resuming").await?;
        assert_eq!(peer.follow(A, Some(have)).await?, Some(50));
        expect_diffs(&mut peer, have + 1..=50).await?;
        expect_nothing(&mut peer).await?;
    }
    // Without one: what is accepted from now on.
    let mut peer = Peer::connect(&server.url(), "new").await?;
    assert_eq!(peer.follow(A, None).await?, Some(50));
    writer.sender().publish(A, 51, 51, "diff 51").await?;
    expect_diffs(&mut peer, 51..=51).await
}

#[tokio::test]
async fn what_is_evicted_is_told_as_a_gap() -> Verdict {
    let server = server(&["--log-entries-per-shard=8"]).await?;
    let _writer = with_diffs(&server, 1..=50).await?;
    let mut peer = Peer::connect(&server.url(), "resuming").await?;
    assert_eq!(peer.follow(A, Some(10)).await?, Some(50));
    let gap = peer.receiver().expect_gap("what is evicted").await?;
    assert_gap(&gap, 11, 42, 50);
    expect_diffs(&mut peer, 43..=50).await?;
    expect_nothing(&mut peer).await?;

    let mut peer = Peer::connect(&server.url(), "in time").await?;
    assert_eq!(peer.follow(A, Some(42)).await?, Some(50));
    expect_diffs(&mut peer, 43..=50).await
}

#[tokio::test]
async fn a_shard_that_is_not_known_is_said_to_be_so() -> Verdict {
    let server = server(&[]).await?;
    let mut peer = Peer::connect(&server.url(), "first").await?;
    let positions = [(A, Some(10)), (B, None)];
    peer.sender().subscribe(4, &positions).await?;
    let answer = peer.receiver().expect_subscribed("an answer").await?;
    assert_eq!(answer.request_id, 4);
    let named: Vec<_> = answer
        .shards
        .iter()
        .map(|h| (h.shard_id.clone(), h.highest_seqno))
        .collect();
    assert_eq!(named, [(A.to_bytes(), None), (B.to_bytes(), None)]);
    // What comes first is past a hole: 11 and 12 may never come.
    let _writer = with_diffs(&server, 13..=14).await?;
    let gap = peer.receiver().expect_gap("the hole").await?;
    assert_gap(&gap, 11, 12, 14);
    expect_diffs(&mut peer, 13..=14).await
}

#[tokio::test]
async fn a_client_ahead_of_the_server_hears_what_follows() -> Verdict {
    let server = server(&["--reorder-window=10s"]).await?;
    let writer = with_diffs(&server, 1..=5).await?;
    let mut peer = Peer::connect(&server.url(), "ahead").await?;
    assert_eq!(peer.follow(A, Some(7)).await?, Some(5));
    for seqno in 6..=9 {
        writer
            .sender()
            .publish(A, seqno, seqno, format!("diff {seqno}"))
            .await?;
    }
    expect_diffs(&mut peer, 8..=9).await
}

#[tokio::test]
async fn nothing_follows_unsubscribed_and_resubscribing_resumes() -> Verdict {
    let server = server(&[]).await?;
    let writer = with_diffs(&server, 1..=2).await?;
    let mut peer = Peer::connect(&server.url(), "leaving").await?;
    assert_eq!(peer.follow(A, Some(1)).await?, Some(2));
    expect_diffs(&mut peer, 2..=2).await?;
    assert_eq!(peer.follow(B, None).await?, None);

    peer.sender().unsubscribe(8, &[A]).await?;
    let answer = peer.receiver().expect_unsubscribed("an answer").await?;
    assert_eq!(answer.request_id, 8);
    for seqno in 3..=4 {
        writer
            .sender()
            .publish(A, seqno, seqno, format!("diff {seqno}"))
            .await?;
    }
    writer.sender().publish(B, 1, 1, "of B").await?;
    // Published after A's, and the other subscription stands: it comes first.
    assert_eq!(peer.receiver().expect_diff("B's").await?.diff, "of B");
    expect_nothing(&mut peer).await?;

    assert_eq!(peer.follow(A, Some(2)).await?, Some(4));
    expect_diffs(&mut peer, 3..=4).await
}

/// Giving a subscription back and asking anew in one breath never ends deaf.
#[tokio::test]
async fn resubscribing_at_once_never_ends_deaf() -> Verdict {
    let server = server(&[]).await?;
    let writer = with_diffs(&server, 1..=1).await?;
    let mut peer = Peer::connect(&server.url(), "fickle").await?;
    peer.follow(A, Some(1)).await?;
    for round in 1..=50 {
        peer.sender().unsubscribe(round, &[A]).await?;
        peer.sender()
            .subscribe(1000 + round, &[(A, Some(round))])
            .await?;
        let seqno = round + 1;
        writer
            .sender()
            .publish(A, seqno, seqno, format!("diff {seqno}"))
            .await?;
        // The diff may come before the answers, by the old subscription, and
        // once more by the new one.
        use persist_pubsub_proto::v1::session_response::Message as Response;
        let mut answers = 0;
        let mut diffs = 0;
        while answers < 2 || diffs < 1 {
            match peer.receiver().expect("answers, and the diff").await? {
                Response::Diff(diff) if diff.seqno == seqno => diffs += 1,
                Response::Diff(diff) => assert_eq!(diff.seqno + 1, seqno),
                Response::Unsubscribed(_) | Response::Subscribed(_) => answers += 1,
                other => return Err(format!("{other:?}").into()),
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_announced_seqno_is_a_gap() -> Verdict {
    let server = server(&["--reorder-window=0s"]).await?;
    let writer = with_diffs(&server, 1..=1).await?;
    let mut peer = Peer::connect(&server.url(), "subscriber").await?;
    peer.follow(A, Some(1)).await?;
    writer.sender().announce(A, 4).await?;
    let mut told = 1;
    while told < 4 {
        let gap = peer.receiver().expect_gap("2 to 4").await?;
        assert_eq!(gap.from_seqno, told + 1);
        assert!(gap.highest_seqno >= gap.to_seqno);
        told = gap.to_seqno;
    }
    assert_eq!(told, 4);
    writer.sender().publish(A, 5, 5, "diff 5").await?;
    expect_diffs(&mut peer, 5..=5).await
}

/// What comes too late to be delivered in order is a gap to v1, which never
/// goes back.
#[tokio::test]
async fn what_comes_late_is_in_order_or_a_gap() -> Verdict {
    let server = server(&["--reorder-window=50ms"]).await?;
    let writer = with_diffs(&server, 1..=1).await?;
    let mut peer = Peer::connect(&server.url(), "subscriber").await?;
    peer.follow(A, Some(1)).await?;
    writer.sender().publish(A, 3, 3, "diff 3").await?;
    let gap = peer.receiver().expect_gap("the hole").await?;
    assert_gap(&gap, 2, 2, 3);
    expect_diffs(&mut peer, 3..=3).await?;
    writer.sender().publish(A, 2, 2, "diff 2").await?;
    let gap = peer.receiver().expect_gap("what surfaced").await?;
    assert_gap(&gap, 2, 2, 3);
    // Whoever comes now has it in its place.
    let mut late = Peer::connect(&server.url(), "late").await?;
    assert_eq!(late.follow(A, Some(1)).await?, Some(3));
    expect_diffs(&mut late, 2..=3).await
}

/// A shard without subscribers and without recent diffs costs nothing, and is
/// unknown again.
#[tokio::test]
async fn an_idle_shard_is_forgotten() -> Verdict {
    let server = server(&["--log-age=100ms", "--v0-replay-window=100ms"]).await?;
    let operator = Operator::connect(&server).await?;
    let _writer = with_diffs(&server, 1..=20).await?;
    until("the shard to be forgotten", async || {
        let shards = operator.metric("persist_pubsub_shards").await.ok()?;
        let bytes = operator.metric("persist_pubsub_log_bytes").await.ok()?;
        (shards == 0.0 && bytes == 0.0).then_some(())
    })
    .await?;
    let mut peer = Peer::connect(&server.url(), "new").await?;
    assert_eq!(peer.follow(A, Some(20)).await?, None);
    Ok(())
}
