//! Absurd bytes on every subject of the backplane, from somebody who can reach
//! NATS: nobody is misled, nothing breaks, and it is counted.

use std::collections::BTreeMap;

use async_nats::Client;
use bytes::Bytes;
use fastrand::Rng;
use persist_pubsub_compat_tests::nats::conf::Conf;
use persist_pubsub_compat_tests::nats::{self, Nats};
use persist_pubsub_compat_tests::replicas::Replicas;
use persist_pubsub_compat_tests::wait::{until, within};
use persist_pubsub_compat_tests::watched::{SharedTruth, Watched};
use persist_pubsub_compat_tests::witness::Witness;
use persist_pubsub_proto::{MAX_SEQNO, ShardId, v1};
use prost::Message as _;
use tokio_stream::StreamExt as _;

use super::super::{Failure, Verdict, shards};
use super::stage::whole;

/// Counts what a replica could not read.
const BAD: &str = "persist_pubsub_backplane_bad_messages_total";
/// Of each kind of subject, as many absurd messages at least.
const OF_A_KIND: usize = 100;

/// What replicas say, overheard: by kind of subject, where and what.
type Overheard = BTreeMap<String, Vec<(String, Bytes)>>;

/// The kind of a subject: the first word behind the version.
fn kind(prefix: &str, subject: &str) -> Option<String> {
    let rest = subject.strip_prefix(prefix)?.strip_prefix(".v1.")?;
    let mut words = rest.split('.');
    let first = words.next()?;
    Some(match (first, words.nth(1)) {
        ("to", Some(what)) => format!("to.{what}"),
        _ => first.to_owned(),
    })
}

/// Three sessions that write and follow one shard, each at another replica.
struct Honest {
    truth: SharedTruth,
    shard: ShardId,
    sessions: Vec<Watched>,
    seqno: u64,
}

impl Honest {
    async fn gather(replicas: &Replicas) -> Result<Self, Failure> {
        let (truth, shard) = (SharedTruth::default(), shards(0xab, 1)[0]);
        let mut sessions = Vec::new();
        for replica in replicas.all() {
            let mut session = Watched::connect(&replica.url(), replica.name(), &truth).await?;
            session.subscribe(&[(shard, Some(0))]).await?;
            session.answered().await?;
            sessions.push(session);
        }
        let seqno = 0;
        Ok(Self {
            truth,
            shard,
            sessions,
            seqno,
        })
    }

    /// The next diff reaches everybody as a diff, and there is no gap.
    async fn are_served(&mut self) -> Verdict {
        self.seqno += 1;
        let (shard, seqno) = (self.shard, self.seqno);
        let diff = Bytes::from(format!("diff {seqno}"));
        self.truth.lock().commit(shard, seqno, Some(seqno), diff);
        let writer = usize::try_from(seqno)? % self.sessions.len();
        self.sessions[writer].publish(shard, seqno).await?;
        let heard = |w: &Witness| w.heard();
        for (n, session) in self.sessions.iter().enumerate() {
            // Its own are not sent to a session.
            let own = (1..=seqno).filter(|at| *at % 3 == n as u64).count() as u64;
            let all = |w: &Witness| heard(w).0 >= seqno - own;
            session.until("every diff of the others", all).await?;
            let seen = heard(&session.witness());
            assert_eq!(seen, (seqno - own, 0), "diffs and gaps of {n}");
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absurd_bytes_mislead_nobody() -> Verdict {
    if !nats::found("absurd_bytes_mislead_nobody") {
        return Ok(());
    }
    let nats = Nats::start(&Conf::default()).await?;
    // What came is in order, however long a replica stands still.
    let flags = ["--reorder-window=10s", "--jump-confirm=10m"];
    let replicas = Replicas::start(&[nats.address()], 3, &flags).await?;
    let mut honest = Honest::gather(&replicas).await?;
    let stranger = async_nats::connect(nats.url()).await?;
    let overheard = overhear(&stranger, &replicas, &mut honest).await?;

    let mut rng = Rng::with_seed(7);
    let kinds: Vec<_> = overheard.keys().cloned().collect();
    let mut said = 0;
    for (kind, messages) in &overheard {
        let before = bad(&replicas).await?;
        for turn in 0..OF_A_KIND {
            let (subject, true_one) = &messages[rng.usize(0..messages.len())];
            let absurd = match turn % 4 {
                // Cut short: within a length or a number.
                0 if true_one.len() > 2 => true_one.slice(..rng.usize(1..true_one.len())),
                // What a replica says elsewhere.
                1 => {
                    let other = &kinds[rng.usize(0..kinds.len())];
                    let others = &overheard[other];
                    match other == kind {
                        true => Bytes::from_static(&[0xff; 9]),
                        false => others[rng.usize(0..others.len())].1.clone(),
                    }
                }
                2 => (0..rng.usize(1..2_000)).map(|_| rng.u8(..)).collect(),
                // A field that is longer than the message.
                _ => [&[0x0a, 0xff, 0xff, 0xff, 0x7f], true_one.as_ref()]
                    .concat()
                    .into(),
            };
            let subject = subject.clone();
            if rng.bool() {
                let reply = messages[0].0.clone();
                stranger.publish_with_reply(subject, reply, absurd).await?;
            } else {
                stranger.publish(subject, absurd).await?;
            }
            said += 1;
            if turn % 20 == 0 {
                honest.are_served().await?;
            }
        }
        stranger.flush().await?;
        until(
            &format!("absurd messages of {kind} to be counted"),
            async || (bad(&replicas).await.ok()? > before).then_some(()),
        )
        .await?;
        honest.are_served().await?;
    }
    println!(
        "{said} absurd messages, {} counted as such by three replicas",
        bad(&replicas).await?
    );

    // Frames that read well and say what cannot be.
    let (subject, _) = &overheard["diff"][0];
    for (shard, seqno) in [
        (Bytes::from_static(&[1; 16]), honest.seqno + 1),
        (Bytes::from_static(&[1; 15]), honest.seqno + 1),
        (Bytes::new(), honest.seqno + 1),
        (honest.shard.to_bytes(), MAX_SEQNO + 1),
        (honest.shard.to_bytes(), u64::MAX),
    ] {
        let frame = v1::Publish {
            shard_id: shard,
            seqno,
            committed_unix_nanos: 1,
            diff: Some(Bytes::from_static(b"a lie")),
        };
        let frame = frame.encode_to_vec().into();
        stranger.publish(subject.clone(), frame).await?;
        honest.are_served().await?;
    }
    // And an absurd seqno: doubted, as a session's is.
    let lie = 1 << 50;
    for session in &honest.sessions {
        session.witness().lie(honest.shard, lie);
    }
    let frame = v1::Publish {
        shard_id: honest.shard.to_bytes(),
        seqno: lie,
        committed_unix_nanos: 1,
        diff: None,
    };
    let frame = frame.encode_to_vec().into();
    stranger.publish(subject.clone(), frame).await?;
    stranger.flush().await?;
    // It is told, and moves nothing: what follows comes as it should.
    for _ in 0..30 {
        honest.seqno += 1;
        let diff = Bytes::from(format!("diff {}", honest.seqno));
        let (shard, seqno) = (honest.shard, honest.seqno);
        honest.truth.lock().commit(shard, seqno, Some(seqno), diff);
        honest.sessions[0].publish(shard, seqno).await?;
    }
    let last = honest.seqno;
    for session in &honest.sessions[1..] {
        let before = session.witness().heard().0;
        let told = |w: &Witness| w.heard().0 >= before.max(last - last / 3 - 30);
        session.until("what is true", told).await?;
    }
    for session in &honest.sessions {
        session.settle().await?;
    }
    replicas.know_each_other().await?;
    replicas.all().for_each(whole);
    Ok(())
}

/// What replicas could not read, all together.
async fn bad(replicas: &Replicas) -> Result<f64, Failure> {
    let mut sum = 0.0;
    for replica in replicas.all() {
        let (_, metrics) = replica.operator().get("/metrics").await?;
        let series = metrics.lines().filter(|line| line.starts_with(BAD));
        sum += series
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum::<f64>();
    }
    Ok(sum)
}

/// Hears what the replicas say to each other, until there is something of each
/// kind: while sessions write and come.
async fn overhear(
    stranger: &Client,
    replicas: &Replicas,
    honest: &mut Honest,
) -> Result<Overheard, Failure> {
    let prefix = replicas.prefix();
    let mut heard = stranger.subscribe(format!("{prefix}.>")).await?;
    stranger.flush().await?;
    let mut overheard = Overheard::new();
    let every = ["ask", "diff", "heads", "replica", "to.re"];
    // Boxed: a whole connect is in it.
    let listening = Box::pin(async {
        let mut round = 0;
        while every.iter().any(|kind| !overheard.contains_key(*kind)) {
            // A shard that nobody has asked for: a question to all.
            round += 1;
            let replica = replicas.one(round % 3);
            let mut comes = Watched::connect(&replica.url(), "comes", &honest.truth).await?;
            let shard = shards(0xac, 1_000)[round % 1_000];
            comes.subscribe(&[(shard, Some(0))]).await?;
            comes.answered().await?;
            honest.are_served().await?;
            let soon = std::time::Duration::from_millis(100);
            while let Ok(Some(message)) = tokio::time::timeout(soon, heard.next()).await {
                if let Some(kind) = kind(prefix, &message.subject) {
                    let known = overheard.entry(kind).or_default();
                    known.push((message.subject.to_string(), message.payload));
                }
                if overheard.values().map(Vec::len).sum::<usize>() > 1_000 {
                    break;
                }
            }
        }
        Ok::<_, Failure>(())
    });
    within("something of each kind to be overheard", listening).await??;
    // Probes say nothing.
    for messages in overheard.values_mut() {
        messages.retain(|(_, payload)| !payload.is_empty());
    }
    overheard.retain(|_, messages| !messages.is_empty());
    Ok(overheard)
}
