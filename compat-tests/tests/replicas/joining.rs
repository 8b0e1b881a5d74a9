//! A session that subscribes at one replica while somebody writes at another
//! misses nothing: neither what was written before, nor what is written in the
//! moment in which NATS learns that this replica wants it too.

use bytes::Bytes;
use persist_pubsub_compat_tests::nats::conf::Conf;
use persist_pubsub_compat_tests::nats::{self, Nats};
use persist_pubsub_compat_tests::recording::Push;
use persist_pubsub_compat_tests::replicas::Replicas;
use persist_pubsub_compat_tests::v0_peer::Peer;
use persist_pubsub_compat_tests::v0_reader::Reader;
use persist_pubsub_compat_tests::v1_peer;
use persist_pubsub_compat_tests::wait::until;
use persist_pubsub_compat_tests::watched::{SharedTruth, Watched};
use persist_pubsub_proto::ShardId;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::super::{Failure, Verdict, shards};
use super::stage::whole;

/// Joins of a wire version, each of a shard that its replica does not have yet.
const ROUNDS: usize = 80;
/// Diffs that are heard after each.
const HEARD: u64 = 30;
/// Every replica waits for what another has, however busy the machine is.
const PATIENT: [&str; 3] = [
    "--reorder-window=10s",
    "--backplane-join-timeout=30s",
    "--v0-replay-window=60s",
];

/// Writes one shard as fast as its server takes it, until it is told to write
/// the next.
struct Writer {
    truth: SharedTruth,
    at: watch::Sender<usize>,
    shards: Vec<ShardId>,
    task: JoinHandle<()>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Diffs that a writer has under way at most.
const AHEAD: u64 = 32;

impl Writer {
    async fn start(url: &str, shards: Vec<ShardId>) -> Result<Self, Failure> {
        let truth = SharedTruth::default();
        let mut session = v1_peer::Peer::connect(url, "writer").await?;
        let at = watch::Sender::new(0);
        let (all, now, committed) = (shards.clone(), at.subscribe(), truth.clone());
        let task = tokio::spawn(async move {
            let (mut shard, mut seqno) = (all[0], 0_u64);
            loop {
                let next = all[*now.borrow()];
                seqno = if next == shard { seqno + 1 } else { 1 };
                shard = next;
                let diff = Bytes::from(vec![seqno.to_le_bytes()[0]; 200]);
                let nanos = Some(seqno);
                committed.lock().commit(shard, seqno, nanos, diff.clone());
                let published = session.sender().publish(shard, seqno, seqno, diff).await;
                let mut ended = published.is_err();
                if seqno.is_multiple_of(AHEAD) {
                    ended |= session.sender().unsubscribe(seqno, &[]).await.is_err();
                    let taken = session.receiver().expect_unsubscribed("an answer").await;
                    ended |= taken.is_err();
                }
                if ended {
                    // Whoever waits for what it writes says so.
                    return println!("the writer's session has ended at {seqno} of {shard}");
                }
            }
        });
        Ok(Self {
            truth,
            at,
            shards,
            task,
        })
    }

    /// Writes another shard from now on, which already has so many diffs when
    /// this returns: its id, and how far it is.
    async fn writes(&self, round: usize, diffs: u64) -> Result<(ShardId, u64), Failure> {
        self.at.send_replace(round);
        let shard = self.shards[round];
        let head = until("the writer to have written", async || {
            self.head(shard).filter(|&head| head >= diffs)
        });
        Ok((shard, head.await?))
    }

    fn head(&self, shard: ShardId) -> Option<u64> {
        self.truth.lock().head(shard)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_v1_join_under_a_writer_at_another_replica_has_no_hole() -> Verdict {
    if !nats::found("a_v1_join_under_a_writer_at_another_replica_has_no_hole") {
        return Ok(());
    }
    let nats = Nats::start(&Conf::default()).await?;
    let replicas = Replicas::start(&[nats.address()], 3, &PATIENT).await?;
    let writer = Writer::start(&replicas.one(0).url(), shards(0x11, ROUNDS as u64)).await?;
    for round in 0..ROUNDS {
        let (shard, head) = writer.writes(round, 1 + round as u64 % 40).await?;
        let at = replicas.one(1 + usize::from(round % 2 == 1));
        let name = format!("joins-{round}");
        let mut session = Watched::connect(&at.url(), &name, &writer.truth).await?;
        // Some know an old state, most the newest.
        let have = if round % 4 == 0 { head / 2 } else { head };
        session.subscribe(&[(shard, Some(have))]).await?;
        session.answered().await?;
        let until = writer.head(shard).unwrap_or(head) + HEARD;
        let reaches = |w: &persist_pubsub_compat_tests::witness::Witness| w.knows(shard, until);
        session.until("what was written since", reaches).await?;
        if round % 8 == 0 {
            // Given back and taken again in the same breath, while its replica
            // still has the shard.
            session.unsubscribe(&[shard]).await?;
            let have = writer.head(shard);
            session.subscribe(&[(shard, have)]).await?;
            session.answered().await?;
            let until = writer.head(shard).unwrap_or(head) + HEARD;
            let reaches = |w: &persist_pubsub_compat_tests::witness::Witness| w.knows(shard, until);
            session.until("what was written since", reaches).await?;
        }
        let (diffs, gaps) = session.witness().heard();
        assert_eq!(gaps, 0, "round {round}: {diffs} diffs after {have}");
    }
    replicas.all().for_each(whole);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_v0_join_under_a_writer_at_another_replica_has_no_hole() -> Verdict {
    if !nats::found("a_v0_join_under_a_writer_at_another_replica_has_no_hole") {
        return Ok(());
    }
    let nats = Nats::start(&Conf::default()).await?;
    let replicas = Replicas::start(&[nats.address()], 3, &PATIENT).await?;
    let writer = Writer::start(&replicas.one(0).url(), shards(0x10, ROUNDS as u64)).await?;
    for round in 0..ROUNDS {
        let (shard, _) = writer.writes(round, 1 + round as u64 % 40).await?;
        let at = replicas.one(1 + usize::from(round % 2 == 1));
        let reader = Reader::connect(&at.url(), &format!("joins-{round}")).await?;
        // As deployed readers do: first the state, then the subscription.
        let state = writer.head(shard).unwrap_or(0);
        reader.follow(shard, state).await?;
        // It applies the next alone, and never polls: it has to hear each.
        reader.reach(&[(shard, state + HEARD)].into()).await?;
        let early = reader.model().early;
        assert_eq!(early, 0, "round {round}: discarded after {state}");
    }
    replicas.all().for_each(whole);
    Ok(())
}

/// A writer that writes a shard now and then, at a replica where nobody wants
/// it, is far above what that replica has heard of it.
#[tokio::test]
async fn a_writer_that_comes_back_after_thousands_is_believed() -> Verdict {
    if !nats::found("a_writer_that_comes_back_after_thousands_is_believed") {
        return Ok(());
    }
    let nats = Nats::start(&Conf::default()).await?;
    let replicas = Replicas::start(&[nats.address()], 3, &PATIENT).await?;
    let shard = shards(0x12, 1)[0];
    let truth = SharedTruth::default();
    let often = Watched::connect(&replicas.one(0).url(), "often", &truth).await?;
    let seldom = Watched::connect(&replicas.one(1).url(), "seldom", &truth).await?;
    let mut reader = Watched::connect(&replicas.one(2).url(), "reader", &truth).await?;
    reader.subscribe(&[(shard, Some(0))]).await?;
    reader.answered().await?;
    let mut seqno = 0_u64;
    let mut write = async |by: &Watched| {
        seqno += 1;
        let diff = Bytes::from(seqno.to_be_bytes().to_vec());
        truth.lock().commit(shard, seqno, Some(seqno), diff);
        by.publish(shard, seqno).await?;
        Ok::<_, Failure>(seqno)
    };
    for _ in 0..3 {
        // More than --max-seqno-jump between two of its own.
        for _ in 0..2_500 {
            write(&often).await?;
        }
        // Who writes the next has seen these.
        let seen = truth.lock().head(shard);
        let told = |w: &persist_pubsub_compat_tests::witness::Witness| w.told(shard) >= seen;
        reader.until("what was written often", told).await?;
        let last = write(&seldom).await?;
        let told = |w: &persist_pubsub_compat_tests::witness::Witness| w.told(shard) >= Some(last);
        reader.until("what was written seldom", told).await?;
    }
    reader.settle().await?;
    let head = truth.lock().head(shard).unwrap_or(0);
    assert_eq!(reader.witness().heard(), (head, 0), "diffs and gaps");
    // And who joins where it was written is told the same of the shard.
    let mut late = Watched::connect(&replicas.one(1).url(), "late", &truth).await?;
    late.subscribe(&[(shard, Some(head - 2_000))]).await?;
    late.settle().await?;
    assert_eq!(late.witness().heard(), (2_000, 0), "diffs and gaps");
    replicas.all().for_each(whole);
    Ok(())
}

/// v0 at one replica and v1 at another write the same shard in turn: each
/// reader of either, wherever it is, gets an unbroken run, bit for bit.
#[tokio::test]
async fn both_wire_versions_share_a_shard_across_replicas() -> Verdict {
    if !nats::found("both_wire_versions_share_a_shard_across_replicas") {
        return Ok(());
    }
    const DIFFS: u64 = 600;
    let nats = Nats::start(&Conf::default()).await?;
    let replicas = Replicas::start(&[nats.address()], 3, &PATIENT).await?;
    let shard = shards(0x13, 1)[0];
    let truth = SharedTruth::default();
    let v0 = Peer::connect(&replicas.one(0).url(), "v0-writer").await?;
    let v1 = Watched::connect(&replicas.one(1).url(), "v1-writer", &truth).await?;
    let mut readers = Vec::new();
    for replica in replicas.all() {
        let mut reader = Watched::connect(&replica.url(), replica.name(), &truth).await?;
        reader.subscribe(&[(shard, Some(0))]).await?;
        reader.answered().await?;
        let old = Reader::connect(&replica.url(), replica.name()).await?;
        old.follow(shard, 0).await?;
        old.mark().await?.passed_by(v0.sender()).await?;
        readers.push((reader, old));
    }
    for seqno in 1..=DIFFS {
        let diff = Bytes::from(vec![
            seqno.to_le_bytes()[0];
            1 + usize::try_from(seqno)? * 7
        ]);
        // v0 says when it was written to itself: any time is right.
        truth.lock().commit(shard, seqno, None, diff.clone());
        match seqno % 2 {
            0 => v0.sender().push(Push { shard, seqno, diff }).await?,
            _ => v1.publish(shard, seqno).await?,
        }
        if seqno == 1 {
            // Its run begins with it everywhere.
            for (reader, old) in &readers {
                reader.until("the first", |w| w.heard().0 == 1).await?;
                old.reach(&[(shard, 1)].into()).await?;
            }
        }
    }
    for (reader, old) in &readers {
        reader.settle().await?;
        assert_eq!(reader.witness().heard(), (DIFFS, 0), "diffs and gaps");
        old.reach(&[(shard, DIFFS)].into()).await?;
        let model = old.model();
        assert_eq!(model.early, 0);
        let applied = &model.shard(shard).ok_or("it follows the shard")?.applied;
        let truth = truth.lock();
        for (seqno, diff) in applied {
            let committed = truth.get(shard, *seqno).and_then(|c| c.diff.as_ref());
            assert_eq!(committed, Some(diff), "v0: {seqno} is not bit for bit");
        }
    }
    replicas.all().for_each(whole);
    Ok(())
}
