//! What a process writes: each of its role's shards at a pace, by
//! compare-and-set.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::pubsub::Publisher;
use super::{Process, content};
use crate::drill::record::How;
use crate::drill::shards::Number;

/// How long what is being written may take when the process ends.
const LAST: Duration = Duration::from_secs(5);

/// One task per shard. They end with this.
pub(super) struct Writers {
    process: Arc<Process>,
    publisher: Publisher,
    /// Of each shard how much time lies between two writes; zero: none is
    /// made. `None`: it is over.
    paces: Vec<(Number, watch::Sender<Option<Duration>>)>,
    tasks: JoinSet<()>,
}

impl Writers {
    /// None of them writes yet.
    pub(super) fn start(process: &Arc<Process>, publisher: Publisher) -> Self {
        let mut tasks = JoinSet::new();
        let mut paces = Vec::new();
        for shard in process.who.role.writes() {
            let (pace, paced) = watch::channel(Some(Duration::ZERO));
            tasks.spawn(write(Arc::clone(process), publisher.clone(), shard, paced));
            paces.push((shard, pace));
        }
        Self {
            process: Arc::clone(process),
            publisher,
            paces,
            tasks,
        }
    }

    /// These shards at this pace from now on; zero: not at all.
    pub(super) fn pace(&self, shards: RangeInclusive<Number>, pace: Duration) {
        for (shard, sender) in &self.paces {
            if shards.contains(shard) {
                sender.send_replace(Some(pace));
            }
        }
    }

    /// Commits one diff, now.
    pub(super) async fn commit(&self, shard: Number, fence: u64) {
        commit(&self.process, &self.publisher, shard, fence).await;
    }

    /// Ends them. A write that is under way is finished, and published.
    pub(super) async fn stop(mut self) {
        for (_, pace) in &self.paces {
            pace.send_replace(None);
        }
        let last = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST, last).await;
    }
}

async fn write(
    process: Arc<Process>,
    publisher: Publisher,
    shard: Number,
    mut paced: watch::Receiver<Option<Duration>>,
) {
    loop {
        let going = paced.wait_for(|pace| *pace != Some(Duration::ZERO)).await;
        let Ok(Some(pace)) = going.map(|pace| *pace) else {
            return;
        };
        // Not all shards, and not both generations, at one moment.
        let pace_millis = u64::try_from(pace.as_millis()).unwrap_or(u64::MAX);
        let phase = Duration::from_millis(fastrand::u64(0..=pace_millis));
        let mut beats = tokio::time::interval_at(Instant::now() + phase, pace);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = paced.changed() => break,
                _ = beats.tick() => {}
            }
            commit(&process, &publisher, shard, 0).await;
        }
    }
}

/// Appends to a shard, however often somebody else is faster, and publishes.
async fn commit(process: &Process, publisher: &Publisher, shard: Number, fence: u64) {
    loop {
        // A shard that was left in the meantime is not written.
        let Some(position) = process.cache.position(shard) else {
            return;
        };
        let (state, digest) = position;
        let diff: Bytes = content(process, digest, fence).encode();
        let set = process.store.compare_and_set(shard, state, diff.clone());
        match set.await {
            Ok(true) => {
                process.cache.committed(shard, position, &diff);
                publisher.push(shard, state + 1, diff);
                return;
            }
            Ok(false) => {
                process.fetch(shard, How::Outrun).await;
            }
            Err(why) => {
                process.wrong(&format!("the store did not answer: {why}"));
                return;
            }
        }
    }
}
