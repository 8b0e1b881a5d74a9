//! Two replicas with one name, by somebody's mistake: they are two all the
//! same.

use bytes::Bytes;
use persist_pubsub_compat_tests::nats::conf::Conf;
use persist_pubsub_compat_tests::nats::{self, Nats};
use persist_pubsub_compat_tests::replicas::{Replica, next_prefix};
use persist_pubsub_compat_tests::watched::{SharedTruth, Watched};

use super::super::{Verdict, shards};
use super::stage::whole;

#[tokio::test]
async fn two_replicas_of_one_name_are_two() -> Verdict {
    if !nats::found("two_replicas_of_one_name_are_two") {
        return Ok(());
    }
    const DIFFS: u64 = 50;
    let nats = Nats::start(&Conf::default()).await?;
    let prefix = next_prefix();
    let quiet = ["--heartbeat-interval=1h".to_owned()];
    let mut replicas = Vec::new();
    for _ in 0..2 {
        let name = "same".to_owned();
        replicas.push(Replica::start(name, &[nats.address()], &prefix, &quiet).await?);
    }
    for replica in &replicas {
        replica.knows(1).await?;
    }
    let truth = SharedTruth::default();
    let shards = shards(0x55, 2);
    let mut sessions = Vec::new();
    for replica in &replicas {
        let mut session = Watched::connect(&replica.url(), "session", &truth).await?;
        let all: Vec<_> = shards.iter().map(|&shard| (shard, Some(0))).collect();
        session.subscribe(&all).await?;
        session.answered().await?;
        sessions.push(session);
    }
    // Each writes a shard of its own, and hears the other's.
    for seqno in 1..=DIFFS {
        for (&shard, writer) in shards.iter().zip(&sessions) {
            let diff = Bytes::from(seqno.to_be_bytes().to_vec());
            truth.lock().commit(shard, seqno, Some(seqno), diff);
            writer.publish(shard, seqno).await?;
        }
    }
    for session in &sessions {
        session.settle().await?;
        assert_eq!(session.witness().heard(), (DIFFS, 0), "diffs and gaps");
    }
    replicas.iter().for_each(whole);
    Ok(())
}
