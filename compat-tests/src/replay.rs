//! Plays a recording to a server over v0: one connection per file, under the
//! file's caller id, each message as the bytes it was.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::marker::Mark;
use crate::recording::{Record, Recording};
use crate::store::Store;
use crate::v0_peer::{Peer, PeerError, Receiver, Sender};
use crate::v0_reader::Reader;
use crate::wait::within;

/// How fast a recording is played.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// So many times as fast as it was recorded; greater than 0.
    Times(f64),
    /// As fast as the server takes it.
    Full,
}

/// Whether pushes that overtook their predecessor do so again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inversions {
    /// As it happens: connections race each other, as they did.
    Raced,
    /// For certain, at every speed and on any machine: the late push is sent
    /// only once the server has taken the early one.
    Kept,
}

/// What was played.
#[derive(Clone, Copy, Debug)]
pub struct Played {
    /// Messages sent.
    pub messages: usize,
    /// From the first message to the moment at which the server had taken all.
    pub took: Duration,
}

/// Plays `recording` to the v0 server at `url`. Each push is committed in
/// `store` before it is sent. Returns when the server has taken everything;
/// the connections close then.
///
/// # Errors
/// A connection fails or ends, or the server takes too long.
pub async fn replay(
    recording: &Recording,
    url: &str,
    speed: Speed,
    inversions: Inversions,
    store: &Store,
) -> Result<Played, PeerError> {
    let witness = Reader::connect(url, "replay-witness").await?;
    let order = Order::of(recording, inversions);
    let mut connections = Vec::new();
    for caller in &recording.callers {
        let (sender, receiver) = Peer::connect(url, caller).await?.split();
        connections.push((sender, receiver, witness.mark().await?));
    }

    let start = Instant::now();
    let first = recording
        .records
        .first()
        .map_or(Duration::ZERO, |record| record.at);
    let mut players = JoinSet::new();
    for (caller, (sender, receiver, mark)) in connections.into_iter().enumerate() {
        let script = recording
            .records
            .iter()
            .enumerate()
            .filter(|(_, record)| record.caller == caller)
            .map(|(index, record)| (index, due(start, record.at - first, speed), record.clone()))
            .collect();
        let player = Player {
            sender,
            drain: tokio::spawn(drain(receiver)),
            mark,
            order: order.clone(),
            store: store.clone(),
        };
        players.spawn(player.play(script));
    }
    // Kept open until all are done: a client that leaves is no part of it.
    let mut done = Vec::new();
    while let Some(player) = players.join_next().await {
        done.push(player.map_err(|e| PeerError::Invalid(e.to_string()))??);
    }
    Ok(Played {
        messages: recording.records.len(),
        took: start.elapsed(),
    })
}

/// When a record is to be sent.
fn due(start: Instant, at: Duration, speed: Speed) -> Option<Instant> {
    match speed {
        Speed::Times(times) => Some(start + at.div_f64(times)),
        Speed::Full => None,
    }
}

/// One connection of the recording.
struct Player {
    sender: Sender,
    drain: JoinHandle<()>,
    mark: Mark,
    order: Order,
    store: Store,
}

impl Player {
    async fn play(
        mut self,
        script: Vec<(usize, Option<Instant>, Record)>,
    ) -> Result<Self, PeerError> {
        for (index, due, record) in script {
            if let Some(due) = due {
                // The recording's own timing; nothing is assumed ready by then.
                tokio::time::sleep_until(due).await;
            }
            self.order.wait_before(index).await?;
            if let Some(push) = record.push() {
                self.store.commit(push.shard, push.seqno);
            }
            self.sender.send(record.raw).await?;
            if self.order.is_awaited(index) {
                self.mark.passed_by(&self.sender).await?;
                self.order.taken(index);
            }
        }
        self.mark.passed_by(&self.sender).await?;
        Ok(self)
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.drain.abort();
    }
}

/// A client that does not read would be a different test.
async fn drain(mut receiver: Receiver) {
    while let Ok(Some(_)) = receiver.receive().await {}
}

/// Which records have to be taken before which others are sent. Each waits
/// for earlier ones alone, so there is no circle.
#[derive(Clone, Debug)]
struct Order {
    /// By late record: the early ones.
    before: BTreeMap<usize, BTreeSet<usize>>,
    taken: watch::Sender<BTreeSet<usize>>,
}

impl Order {
    fn of(recording: &Recording, inversions: Inversions) -> Self {
        let mut before = BTreeMap::<usize, BTreeSet<usize>>::new();
        if inversions == Inversions::Kept {
            for inversion in recording.inversions() {
                before
                    .entry(inversion.late)
                    .or_default()
                    .insert(inversion.early);
            }
        }
        Self {
            before,
            taken: watch::Sender::new(BTreeSet::new()),
        }
    }

    fn is_awaited(&self, record: usize) -> bool {
        self.before.values().any(|early| early.contains(&record))
    }

    fn taken(&self, record: usize) {
        self.taken.send_modify(|taken| {
            taken.insert(record);
        });
    }

    async fn wait_before(&self, record: usize) -> Result<(), PeerError> {
        let Some(early) = self.before.get(&record) else {
            return Ok(());
        };
        let mut taken = self.taken.subscribe();
        let what = "the server to take a push that overtakes its predecessor";
        // This order holds the sending half: the wait ends only with a value.
        let _ = within(what, taken.wait_for(|taken| taken.is_superset(early))).await?;
        Ok(())
    }
}
