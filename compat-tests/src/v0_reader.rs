//! The model of a deployed v0 reader, and one at work on a connection.
//!
//! A deployed reader applies the diff that follows its state and discards
//! every other one. The model does the same and counts, and keeps what it
//! applied, so that a test can say what a server made of such a reader. It
//! never polls: what it misses it misses for good, which is the point.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::Bytes;
use persist_pubsub_proto::ShardId;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::marker::{self, Mark};
use crate::recording::Push;
use crate::v0_peer::{Peer, PeerError, Receiver, Sender};
use crate::wait::{TimedOut, within};

/// What a v0 reader knows, by shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    shards: BTreeMap<ShardId, Followed>,
    /// Diffs at or below the reader's state: harmless.
    pub stale: u64,
    /// Diffs further ahead than the next: each is a hole that only a poll of
    /// the store closes.
    pub early: u64,
    /// Diffs of shards that the reader did not ask for.
    pub unwanted: u64,
}

/// A shard that a reader follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed {
    /// The seqno of the reader's state.
    pub state: u64,
    /// The diffs it applied, in order.
    pub applied: Vec<(u64, Bytes)>,
}

/// What became of a diff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was the next: the state moved on.
    Applied,
    /// Discarded: the state has it.
    Stale,
    /// Discarded: something before it is missing.
    Early,
    /// Discarded: nobody asked for this shard.
    Unwanted,
}

impl Model {
    /// Follows a shard from a state that was read in the consensus store.
    /// A shard that is followed already keeps its state.
    pub fn follow(&mut self, shard: ShardId, state: u64) {
        self.shards.entry(shard).or_insert(Followed {
            state,
            applied: Vec::new(),
        });
    }

    /// Applies a diff, or discards it.
    pub fn receive(&mut self, push: Push) -> Outcome {
        let Some(followed) = self.shards.get_mut(&push.shard) else {
            self.unwanted += 1;
            return Outcome::Unwanted;
        };
        if push.seqno <= followed.state {
            self.stale += 1;
            return Outcome::Stale;
        }
        if Some(push.seqno) != followed.state.checked_add(1) {
            self.early += 1;
            return Outcome::Early;
        }
        followed.state = push.seqno;
        followed.applied.push((push.seqno, push.diff));
        Outcome::Applied
    }

    /// A shard that the reader follows.
    #[must_use]
    pub fn shard(&self, shard: ShardId) -> Option<&Followed> {
        self.shards.get(&shard)
    }

    /// The shards that the reader follows.
    pub fn shards(&self) -> impl Iterator<Item = (ShardId, &Followed)> {
        self.shards
            .iter()
            .map(|(shard, followed)| (*shard, followed))
    }

    /// Whether every one of `heads` is reached.
    #[must_use]
    pub fn reached(&self, heads: &BTreeMap<ShardId, u64>) -> bool {
        self.behind(heads).next().is_none()
    }

    /// The shards that are short of `heads`: shard, state, head.
    fn behind(&self, heads: &BTreeMap<ShardId, u64>) -> impl Iterator<Item = (ShardId, u64, u64)> {
        heads.iter().filter_map(|(&shard, &head)| {
            let state = self.shards.get(&shard).map_or(0, |followed| followed.state);
            (state < head).then_some((shard, state, head))
        })
    }
}

/// A v0 reader at work: a connection, and the [`Model`] that it feeds.
#[derive(Debug)]
pub struct Reader {
    name: String,
    sender: Sender,
    view: watch::Sender<View>,
    task: JoinHandle<()>,
}

/// What a reader has seen. Only its task writes, but for `follow`.
#[derive(Debug, Default)]
pub(crate) struct View {
    model: Model,
    /// The highest seqno seen of each mark.
    pub(crate) marks: BTreeMap<ShardId, u64>,
    /// Why the stream is over, once it is.
    pub(crate) ended: Option<String>,
}

/// A reader did not get where it should.
#[derive(Debug, thiserror::Error)]
pub enum ReaderError {
    /// In time.
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
    /// Its stream ended first.
    #[error("{reader} waited for {what} when its stream ended: {why}")]
    Ended {
        /// Whose.
        reader: String,
        /// What it waited for.
        what: String,
        /// As the server said.
        why: String,
    },
}

impl Reader {
    /// Connects. Everything the server sends from now on is counted.
    ///
    /// # Errors
    /// As [`Peer::connect`].
    pub async fn connect(url: &str, caller_id: &str) -> Result<Self, PeerError> {
        let (sender, receiver) = Peer::connect(url, caller_id).await?.split();
        let view = watch::Sender::new(View::default());
        Ok(Self {
            name: caller_id.to_owned(),
            sender,
            task: tokio::spawn(read(receiver, view.clone())),
            view,
        })
    }

    /// Follows a shard from `state`, which the caller has read before, as a
    /// deployed reader does: first the state, then the subscription.
    ///
    /// # Errors
    /// As [`Sender::subscribe`].
    pub async fn follow(&self, shard: ShardId, state: u64) -> Result<(), PeerError> {
        self.view
            .send_modify(|view| view.model.follow(shard, state));
        self.sender.subscribe(shard).await
    }

    /// The half of its connection that speaks: a reader may write as well.
    #[must_use]
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// A mark that this reader sees; see [`crate::marker`].
    ///
    /// # Errors
    /// As [`Sender::subscribe`].
    pub async fn mark(&self) -> Result<Mark, PeerError> {
        let shard = marker::next_shard();
        self.sender.subscribe(shard).await?;
        Ok(Mark::new(shard, self.view.subscribe()))
    }

    /// What the reader has at this moment.
    #[must_use]
    pub fn model(&self) -> Model {
        self.view.borrow().model.clone()
    }

    /// Waits until the reader's state has reached each of `heads`.
    ///
    /// # Errors
    /// It does not, in time or before its stream ends. The error names the
    /// shards, and what was discarded.
    pub async fn reach(&self, heads: &BTreeMap<ShardId, u64>) -> Result<(), ReaderError> {
        let what = format!("{} to reach the last seqno of each shard", self.name);
        let mut view = self.view.subscribe();
        let done = view.wait_for(|view| view.ended.is_some() || view.model.reached(heads));
        let ended = match within(&what, done).await {
            Ok(Ok(view)) if view.model.reached(heads) => return Ok(()),
            Ok(Ok(view)) => view.ended.clone(),
            Ok(Err(_)) => None,
            Err(timed_out) => return Err(timed_out.but(&self.short_of(heads)).into()),
        };
        Err(ReaderError::Ended {
            reader: self.name.clone(),
            what: format!("{what}, but {}", self.short_of(heads)),
            why: ended.unwrap_or_default(),
        })
    }

    fn short_of(&self, heads: &BTreeMap<ShardId, u64>) -> String {
        let view = self.view.borrow();
        let mut text = format!("it discarded {} early diffs", view.model.early);
        for (shard, state, head) in view.model.behind(heads) {
            // Writing to a String does not fail.
            let _ = write!(text, "; {shard} is at {state} of {head}");
        }
        text
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Feeds what arrives into the view, until the stream ends.
async fn read(mut receiver: Receiver, view: watch::Sender<View>) {
    let why = loop {
        match receiver.receive_push().await {
            Ok(Some(push)) => view.send_modify(|view| view.receive(push)),
            Ok(None) => break "OK".to_owned(),
            Err(error) => break error.to_string(),
        }
    };
    view.send_modify(|view| view.ended = Some(why));
}

impl View {
    fn receive(&mut self, push: Push) {
        if marker::is_marker(push.shard) {
            let seen = self.marks.entry(push.shard).or_default();
            *seen = push.seqno.max(*seen);
        } else {
            self.model.receive(push);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId::new([7; 16]);

    fn push(seqno: u64) -> Push {
        Push {
            shard: SHARD,
            seqno,
            diff: Bytes::from(seqno.to_be_bytes().to_vec()),
        }
    }

    #[test]
    fn the_model_applies_what_fits_and_discards_the_rest() {
        let mut model = Model::default();
        assert_eq!(model.receive(push(2)), Outcome::Unwanted);
        model.follow(SHARD, 4);
        let outcomes: Vec<_> = [3, 4, 5, 7, 5, 6, 7, u64::MAX]
            .into_iter()
            .map(|seqno| model.receive(push(seqno)))
            .collect();
        use Outcome::{Applied, Early, Stale};
        assert_eq!(
            outcomes,
            [Stale, Stale, Applied, Early, Stale, Applied, Applied, Early]
        );
        assert_eq!((model.stale, model.early, model.unwanted), (3, 2, 1));
        // Following again forgets nothing.
        model.follow(SHARD, 1);
        let followed = model.shard(SHARD).unwrap();
        assert_eq!(followed.state, 7);
        assert_eq!(
            followed.applied,
            [5, 6, 7].map(|seqno| (seqno, push(seqno).diff))
        );
        assert!(model.reached(&BTreeMap::from([(SHARD, 7)])));
        assert!(!model.reached(&BTreeMap::from([(SHARD, 8)])));
    }

    #[test]
    fn nothing_follows_the_highest_seqno() {
        let mut model = Model::default();
        model.follow(SHARD, u64::MAX);
        assert_eq!(model.receive(push(0)), Outcome::Stale);
        assert_eq!(model.receive(push(u64::MAX)), Outcome::Stale);
    }
}
