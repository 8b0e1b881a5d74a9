//! The recorded traffic, over and over: who writes which shard when, and the
//! bytes of every diff. The seqnos are those of the ledger, which never ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use persist_pubsub_compat_tests::recording::{self, Recording};
use persist_pubsub_proto::ShardId;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Failure;
use crate::world::Writer;

const RECORDINGS: [&str; 2] = ["v0-steady", "v0-contended"];

/// What was recorded.
pub(crate) struct Script {
    recordings: Vec<(&'static str, Recording)>,
}

/// Who wrote what: "v0-steady/gen1-writer".
pub(crate) type Caller = String;

impl Script {
    pub(crate) fn read() -> Result<Self, Failure> {
        let read = |name| Ok((name, recording::named(name)?));
        let recordings = RECORDINGS.into_iter().map(read);
        Ok(Self {
            recordings: recordings.collect::<Result<_, Failure>>()?,
        })
    }

    /// Everybody who wrote.
    pub(crate) fn callers(&self) -> Vec<Caller> {
        let all = self.recordings.iter();
        all.flat_map(|(name, recording)| {
            recording.callers.iter().map(move |c| format!("{name}/{c}"))
        })
        .collect()
    }

    /// The bytes of each shard's diffs, in order.
    pub(crate) fn diffs(&self) -> BTreeMap<ShardId, Vec<Bytes>> {
        let all = self.recordings.iter();
        all.flat_map(|(_, recording)| recording.diffs())
            .map(|(shard, diffs)| (shard, diffs.into_values().collect()))
            .collect()
    }
}

/// The traffic as it goes. Dropping it ends it.
pub(crate) struct Traffic {
    goes: watch::Sender<bool>,
    _players: JoinSet<()>,
}

impl Traffic {
    /// Does not go yet.
    pub(crate) fn new(script: Script, writers: BTreeMap<Caller, Writer>) -> Self {
        let goes = watch::Sender::new(false);
        let writers = Arc::new(writers);
        let mut players = JoinSet::new();
        for (name, recording) in script.recordings {
            players.spawn(play(
                name,
                recording,
                Arc::clone(&writers),
                goes.subscribe(),
            ));
        }
        Self {
            goes,
            _players: players,
        }
    }

    pub(crate) fn go_on(&self) {
        self.goes.send_replace(true);
    }

    pub(crate) fn rest(&self) {
        self.goes.send_replace(false);
    }
}

async fn play(
    name: &'static str,
    recording: Recording,
    writers: Arc<BTreeMap<Caller, Writer>>,
    mut goes: watch::Receiver<bool>,
) {
    let pushes: Vec<_> = recording
        .pushes()
        .filter_map(|(index, push)| {
            let record = recording.records.get(index)?;
            let caller = recording.callers.get(record.caller)?;
            let writer = writers.get(&format!("{name}/{caller}"))?.clone();
            Some((record.at, writer, push.shard))
        })
        .collect();
    loop {
        let mut before = Duration::ZERO;
        let mut due = Instant::now();
        for (at, writer, shard) in &pushes {
            due += at.saturating_sub(before);
            before = *at;
            tokio::time::sleep_until(due).await;
            if !*goes.borrow() {
                if goes.wait_for(|goes| *goes).await.is_err() {
                    return;
                }
                due = Instant::now();
            }
            writer.write(*shard);
        }
        // At least the pace of its end, if a recording were empty.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
