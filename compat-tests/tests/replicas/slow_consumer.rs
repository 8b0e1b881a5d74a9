//! A replica to which NATS cannot deliver is cut off as a slow consumer, and
//! loses what was on its way: its sessions are told, of the shard concerned
//! alone, and nobody else notices.

use bytes::Bytes;
use persist_pubsub_compat_tests::nats::conf::Conf;
use persist_pubsub_compat_tests::nats::{self, Nats};
use persist_pubsub_compat_tests::proxy::{Passing, Way};
use persist_pubsub_compat_tests::replicas::Replicas;
use persist_pubsub_compat_tests::wait::until;
use persist_pubsub_compat_tests::watched::{SharedTruth, Watched};
use persist_pubsub_compat_tests::witness::Witness;

use super::super::{Failure, Verdict, shards};
use super::stage::whole;

/// Large enough for no more than a few of them to wait in sockets.
const BYTES: usize = 100_000;
/// Beyond what NATS keeps for a client (`max_pending`), and sockets.
const MOST: u64 = 1_000;
/// What is under way at a time: readers at other replicas keep up.
const IN_FLIGHT: u64 = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_consumer_costs_its_own_sessions_what_it_lost() -> Verdict {
    if !nats::found("a_slow_consumer_costs_its_own_sessions_what_it_lost") {
        return Ok(());
    }
    let nats = Nats::start(&Conf::default().line("max_pending: 4MB")).await?;
    let flags = [
        "--reorder-window=1s",
        // What was lost is not to be had again.
        "--log-bytes-per-shard=1MiB",
        "--log-bytes-total=64MiB",
        "--max-diff-bytes=1MiB",
    ];
    let replicas = Replicas::start(&[nats.address()], 3, &flags).await?;
    let [flood, quiet] = [shards(0x51, 2)[0], shards(0x51, 2)[1]];
    let truth = SharedTruth::default();
    let writer = Watched::connect(&replicas.one(0).url(), "writer", &truth).await?;
    let mut readers = Vec::new();
    for replica in [1, 2] {
        let name = format!("reader-of-{replica}");
        let url = replicas.one(replica).url();
        let mut reader = Watched::connect(&url, &name, &truth).await?;
        reader
            .subscribe(&[(flood, Some(0)), (quiet, Some(0))])
            .await?;
        reader.answered().await?;
        readers.push(reader);
    }
    let (slow, other) = (&readers[0], &readers[1]);
    let write = async |shard, seqno: u64, bytes: usize| {
        let diff = Bytes::from(vec![seqno.to_le_bytes()[0]; bytes]);
        truth.lock().commit(shard, seqno, Some(seqno), diff);
        Ok::<_, Failure>(writer.publish(shard, seqno).await?)
    };
    for shard in [flood, quiet] {
        write(shard, 1, 10).await?;
        for reader in &readers {
            let first = |w: &Witness| w.told(shard) >= Some(1);
            reader.until("the first", first).await?;
        }
    }

    let line = &replicas.one(1).lines()[0];
    line.pass(Way::ToClient, Passing::Held);
    let mut seqno = 1;
    loop {
        for _ in 0..IN_FLIGHT {
            seqno += 1;
            write(flood, seqno, BYTES).await?;
        }
        let told = |w: &Witness| w.told(flood) >= Some(seqno);
        other.until("what was written", told).await?;
        let slow = nats.monitoring("/varz").await?["slow_consumers"].as_u64();
        if slow >= Some(1) {
            break;
        }
        assert!(seqno < MOST, "NATS cuts nobody off");
    }
    println!("NATS cut it off at diff {seqno}");
    line.pass_freely();
    for reader in &readers {
        reader.settle().await?;
    }
    let (diffs, gaps) = slow.witness().heard();
    println!("its reader heard {diffs} diffs and {gaps} gaps");
    assert!(gaps > 0, "nothing was lost: the test proves nothing");
    assert_eq!(other.witness().heard(), (seqno + 1, 0), "another's reader");
    // The other shard goes on at both, without a gap.
    until("it to be known to all again", async || {
        replicas.know_each_other().await.ok()
    })
    .await?;
    for seqno in 2..=20 {
        write(quiet, seqno, 10).await?;
    }
    for reader in &readers {
        let told = |w: &Witness| w.told(quiet) >= Some(20);
        reader.until("what the quiet shard has", told).await?;
    }
    assert_eq!(slow.witness().heard().1, gaps, "gaps of the quiet shard");
    replicas.all().for_each(whole);
    Ok(())
}
