//! **opaque**: a diff arrives bit for bit as it was published, with its time.
//!
//! The bytes that came in are the frame that goes out; the other wire version's
//! frame is made of the same slice.
//!
//! Mutations: `payload-is-cut`, `time-is-lost`.

use std::collections::BTreeMap;

use bytes::Bytes;
use fastrand::Rng;
use persist_pubsub_compat_tests::v0_peer;
use persist_pubsub_compat_tests::v0_reader::Reader;
use persist_pubsub_proto::{ShardId, v0};
use prost::Message;

use super::super::{Failure, Verdict};
use super::storm::{Arena, Ways, config, replicas_for, shard};

#[tokio::test]
async fn opaque() -> Verdict {
    on(Ways::Network).await
}

#[tokio::test]
async fn opaque_across_replicas() -> Verdict {
    match replicas_for("opaque") {
        true => on(Ways::Replicas).await,
        false => Ok(()),
    }
}

#[tokio::test]
async fn opaque_in_process() -> Verdict {
    on(Ways::InProcess).await?;
    on(Ways::Mixed).await
}

async fn on(ways: Ways) -> Verdict {
    for seed in 0..2 {
        any_bytes(ways, seed).await?;
    }
    Ok(())
}

/// Bytes of every length around the powers of two, and among them what looks
/// like a message of either wire version.
fn diffs(rng: &mut Rng) -> Vec<Bytes> {
    let mut diffs = vec![
        Bytes::new(),
        Bytes::from_static(&[0]),
        Bytes::from_static(&[0xff; 7]),
    ];
    for power in 0..17 {
        for off in [-1_i64, 0, 1] {
            let len = usize::try_from((1_i64 << power) + off).unwrap_or(0);
            let kind = rng.u8(0..3);
            let bytes: Vec<u8> = (0..len)
                .map(|_| match kind {
                    0 => rng.u8(..),
                    1 => *rng
                        .choice([0x0a, 0x10, 0x12, 0x1a, 0x22].iter())
                        .unwrap_or(&0),
                    _ => 0,
                })
                .collect();
            diffs.push(bytes.into());
        }
    }
    rng.shuffle(&mut diffs);
    diffs
}

/// A push as deployed clients encode it, with a time of our own.
fn v0_push(shard: ShardId, seqno: u64, nanos: u64, diff: &Bytes) -> Bytes {
    const SECOND: u64 = 1_000_000_000;
    let message = v0::ProtoPubSubMessage {
        timestamp: Some(v0::ProtoDuration {
            secs: nanos / SECOND,
            nanos: u32::try_from(nanos % SECOND).unwrap_or(0),
        }),
        message: Some(v0::proto_pub_sub_message::Message::PushDiff(
            v0::ProtoPushDiff {
                shard_id: shard.to_string(),
                seqno,
                diff: diff.clone(),
            },
        )),
    };
    message.encode_to_vec().into()
}

async fn any_bytes(ways: Ways, seed: u64) -> Result<(), Failure> {
    let mut rng = Rng::with_seed(seed);
    let mut config = config();
    config.reorder_window = std::time::Duration::from_secs(10);
    let arena = Arena::open(ways, config).await?;
    let shard = shard(0);
    let v1_publisher = arena.session("v1-publisher").await?;
    let v0_publisher = v0_peer::Peer::connect(&arena.url(), "v0-publisher").await?;
    let v0_reader = Reader::connect(&arena.url(), "v0-reader").await?;
    v0_reader.follow(shard, 0).await?;
    v0_reader
        .mark()
        .await?
        .passed_by(v0_publisher.sender())
        .await?;
    let mut v1_reader = arena.session("v1-reader").await?;
    v1_reader.subscribe(&[(shard, Some(0))]).await?;
    v1_reader.answered().await?;
    let diffs = diffs(&mut rng);
    for (seqno, diff) in (1..).zip(&diffs) {
        let nanos = [1, rng.u64(1..), u64::MAX][rng.usize(0..3)];
        let committed = Some(nanos);
        arena
            .truth
            .lock()
            .commit(shard, seqno, committed, diff.clone());
        if rng.bool() {
            v1_publisher.publish(shard, seqno).await?;
        } else {
            let push = v0_push(shard, seqno, nanos, diff);
            v0_publisher.sender().send(push).await?;
        }
        if seqno == 1 {
            // Else the other publisher's may come before it, as the shard's
            // first.
            v1_reader.until("the first", |w| w.heard().0 == 1).await?;
        }
    }
    v1_reader.settle().await?;
    assert_eq!(v1_reader.witness().heard(), (diffs.len() as u64, 0));
    v0_reader
        .reach(&BTreeMap::from([(shard, diffs.len() as u64)]))
        .await?;
    let model = v0_reader.model();
    let applied = &model.shard(shard).ok_or("it follows the shard")?.applied;
    let expected: Vec<(u64, Bytes)> = (1..).zip(diffs).collect();
    assert!(applied == &expected, "v0: not bit for bit");
    Ok(())
}
