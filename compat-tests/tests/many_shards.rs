//! More shards than one message may name: refused as a whole, taken in
//! batches.

use persist_pubsub_compat_tests::bystanders::Bystanders;
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::v0_peer;
use persist_pubsub_compat_tests::v1_peer::Peer;
use persist_pubsub_compat_tests::wait::until;
use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::v1::RejectionCode as Code;
use persist_pubsub_proto::v1::session_response::Message as Response;

use super::{Failure, Verdict, server};

const REQUEST: u64 = 77;

fn many(from: u64, count: u64) -> Vec<(ShardId, Option<u64>)> {
    let shard = |n: u64| ShardId::new((u128::from(n) << 8 | 0xee).to_be_bytes());
    (from..from + count).map(|n| (shard(n), None)).collect()
}

/// Subscribes in one message; returns how many shards the answer names, or
/// the code of the rejection.
async fn subscribe(
    peer: &mut Peer,
    shards: &[(ShardId, Option<u64>)],
) -> Result<Result<usize, Code>, Failure> {
    peer.sender().subscribe(REQUEST, shards).await?;
    let mut named = 0;
    while named < shards.len() {
        match peer
            .receiver()
            .expect("an answer to a large request")
            .await?
        {
            Response::Subscribed(answer) => named += answer.shards.len(),
            Response::Rejected(rejected) => {
                assert_eq!(rejected.request_id, REQUEST);
                return Ok(Err(rejected.code()));
            }
            other => return Err(format!("{other:?}").into()),
        }
    }
    Ok(Ok(named))
}

#[tokio::test]
async fn a_hundred_thousand_subscriptions_go_in_batches() -> Verdict {
    let server = server(&[]).await?;
    let operator = Operator::connect(&server).await?;
    let mut bystanders = Bystanders::meet(&server.url()).await?;
    let mut peer = Peer::connect(&server.url(), "greedy").await?;
    let all = many(0, 100_000);
    assert_eq!(subscribe(&mut peer, &all).await?, Err(Code::TooManyShards));
    bystanders.are_served().await?;
    let subscriptions = "persist_pubsub_subscriptions";
    assert_eq!(
        operator.metric(subscriptions).await? as u64,
        2,
        "none was taken"
    );
    for batch in all.chunks(10_000) {
        assert_eq!(subscribe(&mut peer, batch).await?, Ok(10_000));
    }
    // One more is too many, with whatever comes with it; the old ones are
    // not counted again.
    let last = many(99_999, 2);
    assert_eq!(
        subscribe(&mut peer, &last).await?,
        Err(Code::TooManySubscriptions)
    );
    assert_eq!(subscribe(&mut peer, &last[..1]).await?, Ok(1));
    assert_eq!(operator.metric(subscriptions).await? as u64, 100_002);
    let (shard, _) = last[0];
    bystanders.are_served().await?;
    let writer = Peer::connect(&server.url(), "writer").await?;
    writer.sender().publish(shard, 1, 1, "heard").await?;
    assert_eq!(peer.receiver().expect_diff("a diff").await?.diff, "heard");
    peer.sender().unsubscribe(1, &[shard]).await?;
    peer.receiver().expect_unsubscribed("room for one").await?;
    assert_eq!(subscribe(&mut peer, &last[1..]).await?, Ok(1));
    Ok(())
}

/// v0 cannot be told: what is above the bound is counted, and not taken.
#[tokio::test]
async fn a_v0_session_has_as_many_subscriptions_as_are_taken() -> Verdict {
    let server = server(&["--max-subscriptions-per-session=3"]).await?;
    let operator = Operator::connect(&server).await?;
    let mut peer = v0_peer::Peer::connect(&server.url(), "greedy").await?;
    let shards = many(0, 5);
    for (shard, _) in &shards {
        peer.sender().subscribe(*shard).await?;
    }
    until("two to be counted", async || {
        let counted = operator.rejected("v0", "too_many_subscriptions").await;
        (counted.ok()? == 2.0).then_some(())
    })
    .await?;
    let writer = Peer::connect(&server.url(), "writer").await?;
    for (shard, _) in shards.iter().rev() {
        writer.sender().publish(*shard, 1, 1, "heard").await?;
    }
    for (shard, _) in shards[..3].iter().rev() {
        let got = peer.receiver().expect_push("what was taken").await?;
        assert_eq!(got.shard, *shard);
    }
    Ok(())
}

/// The server's own bound: whoever asks for one shard more is told, and what
/// is held already is served.
#[tokio::test]
async fn a_server_holds_as_many_shards_as_it_may() -> Verdict {
    let server = server(&["--max-shards=4"]).await?;
    let operator = Operator::connect(&server).await?;
    let mut bystanders = Bystanders::meet(&server.url()).await?;
    let mut peer = Peer::connect(&server.url(), "greedy").await?;
    let shards = many(0, 4);
    assert_eq!(subscribe(&mut peer, &shards[..3]).await?, Ok(3));
    let refused = subscribe(&mut peer, &shards[3..]).await?;
    assert_eq!(refused, Err(Code::TooManyTopics));
    peer.sender().publish(shards[3].0, 1, 1, "x").await?;
    let got = peer.receiver().expect_rejected("an answer").await?;
    assert_eq!(got.code(), Code::TooManyTopics);
    let refusals = operator.metric("persist_pubsub_shards_refused_total");
    assert!(refusals.await? >= 2.0);
    bystanders.are_served().await?;
    // Room again, once somebody lets go.
    peer.sender().unsubscribe(2, &[shards[0].0]).await?;
    peer.receiver().expect_unsubscribed("an answer").await?;
    assert_eq!(subscribe(&mut peer, &shards[3..]).await?, Ok(1));
    Ok(())
}
