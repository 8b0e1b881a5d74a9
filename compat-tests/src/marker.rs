//! Tells when a v0 server has taken what was sent to it.
//!
//! v0 answers nothing, and a test that guesses ("it will have subscribed by
//! now") fails on the first slow machine. A **mark** is a shard of its own: a
//! [`crate::v0_reader::Reader`] subscribes to it, some connection pushes to
//! it, and when the reader sees the push, then
//! - everything that this connection sent before has been taken, and
//! - every subscription that the reader asked for before the mark stands,
//!
//! because a server works off each stream in order. Marks look like any other
//! shard to the server; readers keep them apart from what they follow.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use persist_pubsub_proto::ShardId;
use tokio::sync::watch;

use crate::recording::Push;
use crate::v0_peer::{PeerError, Sender};
use crate::v0_reader::View;
use crate::wait::within;

/// How marks' shards begin.
const PREFIX: [u8; 8] = *b"test/mrk";

/// After this time without a sign a mark is pushed once more: the push before
/// may have come when the reader's subscription did not stand yet.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// The shard of a new mark, which no other of this process has.
pub(crate) fn next_shard() -> ShardId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&PREFIX);
    bytes[8..].copy_from_slice(&number);
    ShardId::new(bytes)
}

/// Whether a shard is a mark.
#[must_use]
pub fn is_marker(shard: ShardId) -> bool {
    shard.as_bytes().starts_with(&PREFIX)
}

/// A mark that one reader sees. Made by [`crate::v0_reader::Reader::mark`].
#[derive(Debug)]
pub struct Mark {
    shard: ShardId,
    /// The seqno of the last push. Contiguous from 1: no server waits for a
    /// predecessor.
    pushed: u64,
    view: watch::Receiver<View>,
}

impl Mark {
    pub(crate) fn new(shard: ShardId, view: watch::Receiver<View>) -> Self {
        Self {
            shard,
            pushed: 0,
            view,
        }
    }

    /// Returns when the server has taken everything that `sender` sent
    /// before, and everything that the reader asked for before the mark.
    ///
    /// # Errors
    /// The mark does not arrive within [`crate::wait::PATIENCE`], or one of
    /// the two connections ends.
    pub async fn passed_by(&mut self, sender: &Sender) -> Result<(), PeerError> {
        within(
            "a mark, pushed on one connection, to arrive on another",
            self.push_until_seen(sender),
        )
        .await?
    }

    async fn push_until_seen(&mut self, sender: &Sender) -> Result<(), PeerError> {
        let first = self.pushed + 1;
        loop {
            self.pushed += 1;
            let push = Push {
                shard: self.shard,
                seqno: self.pushed,
                diff: Bytes::from_static(b"mark"),
            };
            sender.push(push).await?;
            let shard = self.shard;
            let seen = self.view.wait_for(|view| {
                view.ended.is_some() || view.marks.get(&shard).is_some_and(|&seen| seen >= first)
            });
            match tokio::time::timeout(AGAIN_AFTER, seen).await {
                Ok(Ok(view)) if view.ended.is_none() => return Ok(()),
                Ok(_) => return Err(PeerError::Ended),
                Err(_) => {}
            }
        }
    }
}
