//! Many diffs at once arrive whole at every subscriber.

use std::collections::BTreeMap;

use bytes::Bytes;
use persist_pubsub_compat_tests::recording::Push;
use persist_pubsub_compat_tests::wait::within_time;
use persist_pubsub_compat_tests::{v0_peer, v1_peer};
use persist_pubsub_proto::ShardId;
use std::time::Duration;
use tokio::task::JoinSet;

use super::{Failure, Verdict, server};

const DIFFS: u64 = 10_000;
const SUBSCRIBERS_OF_EACH: usize = 10;
const BYTES: usize = 900;
/// For all of it, on a machine that is busy with other things.
const WHOLE: Duration = Duration::from_secs(300);

fn shard(number: u64) -> ShardId {
    ShardId::new([0x30 + number.to_le_bytes()[0]; 16])
}

/// The diff of this seqno: every one has other bytes.
fn diff(shard: ShardId, seqno: u64) -> Bytes {
    let mut bytes = vec![shard.as_bytes()[0]; BYTES];
    bytes[..8].copy_from_slice(&seqno.to_be_bytes());
    bytes.into()
}

/// Checks off what arrives: each shard's diffs from 1 on, none twice.
struct Account {
    each: u64,
    next: BTreeMap<ShardId, u64>,
}

impl Account {
    fn new(shards: u64) -> Self {
        Self {
            each: DIFFS / shards,
            next: (0..shards).map(|n| (shard(n), 1)).collect(),
        }
    }

    fn take(&mut self, shard: ShardId, seqno: u64, bytes: &Bytes) -> Result<(), String> {
        let next = self.next.get_mut(&shard).ok_or("another shard")?;
        if seqno != *next || *bytes != diff(shard, seqno) {
            return Err(format!("{shard}: {seqno} came where {next} is due"));
        }
        *next += 1;
        Ok(())
    }

    fn complete(&self) -> bool {
        self.next.values().all(|next| *next > self.each)
    }
}

async fn v0_subscriber(mut peer: v0_peer::Peer, shards: u64) -> Result<(), String> {
    let mut account = Account::new(shards);
    while !account.complete() {
        let push = peer.receiver().receive_push().await;
        let push = push.map_err(|e| e.to_string())?.ok_or("the end")?;
        account.take(push.shard, push.seqno, &push.diff)?;
    }
    Ok(())
}

async fn v1_subscriber(mut peer: v1_peer::Peer, shards: u64) -> Result<(), String> {
    let mut account = Account::new(shards);
    while !account.complete() {
        // Anything but a diff, such as a gap, is an error.
        let diff = peer.receiver().expect_diff("a diff of the burst").await;
        let diff = diff.map_err(|e| e.to_string())?;
        let shard = ShardId::from_slice(&diff.shard_id).map_err(|e| e.to_string())?;
        account.take(shard, diff.seqno, &diff.diff)?;
    }
    Ok(())
}

async fn burst(shards: u64, writer_speaks_v1: bool) -> Result<(), Failure> {
    // Whoever's subscription comes late is sent what it missed.
    let server = server(&["--v0-replay-window=60s"]).await?;
    let url = server.url();
    let mut subscribers = JoinSet::new();
    for number in 0..SUBSCRIBERS_OF_EACH {
        let v0 = v0_peer::Peer::connect(&url, &format!("v0-{number}")).await?;
        let mut v1 = v1_peer::Peer::connect(&url, &format!("v1-{number}")).await?;
        for n in 0..shards {
            v0.sender().subscribe(shard(n)).await?;
            v1.follow(shard(n), Some(0)).await?;
        }
        subscribers.spawn(v0_subscriber(v0, shards));
        subscribers.spawn(v1_subscriber(v1, shards));
    }
    let v0_writer = v0_peer::Peer::connect(&url, "writer").await?;
    let v1_writer = v1_peer::Peer::connect(&url, "writer").await?;
    for seqno in 1..=DIFFS / shards {
        for shard in (0..shards).map(shard) {
            let diff = diff(shard, seqno);
            if writer_speaks_v1 {
                let sender = v1_writer.sender();
                sender.publish(shard, seqno, 1, diff).await?;
            } else {
                let push = Push { shard, seqno, diff };
                v0_writer.sender().push(push).await?;
            }
        }
    }
    let whole = async {
        while let Some(subscriber) = subscribers.join_next().await {
            subscriber??;
        }
        Ok::<_, Failure>(())
    };
    within_time("every subscriber to have the whole burst", WHOLE, whole).await?
}

#[tokio::test]
async fn on_one_shard_it_arrives_whole() -> Verdict {
    burst(1, false).await
}

#[tokio::test]
async fn on_several_shards_it_arrives_whole() -> Verdict {
    burst(8, true).await
}
