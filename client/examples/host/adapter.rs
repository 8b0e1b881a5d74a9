//! The whole adapter between a host of today and this crate.
//!
//! The host's own side: a sender that any thread calls without waiting, and
//! one stream of messages. A host that is not to use pubsub has both as well,
//! and they do nothing.

use bytes::Bytes;
use persist_pubsub_client::{Client, Config, Event, Events, ShardId, Subscription, connect};

/// Says what was committed, and what is of interest.
#[derive(Clone)]
pub(crate) struct Sender(Option<Client>);

/// Keeps a shard subscribed until it is dropped.
pub(crate) struct Token {
    _subscription: Option<Subscription>,
}

/// What the host's state cache understands.
#[derive(Debug)]
pub(crate) enum Message {
    /// A diff: applied if it follows the state, passed over if it is in it.
    Diff {
        shard: ShardId,
        seqno: u64,
        diff: Bytes,
    },
    /// Something was missed: fetched, unless the state has reached this.
    Missed {
        shard: ShardId,
        reached: Option<u64>,
    },
    /// This process has been replaced.
    Fenced,
}

/// The one stream of messages.
pub(crate) struct Receiver(Option<Events>);

/// Begins, and returns at once. `None` is wholly off: no connection, no task.
///
/// Call it inside the runtime that is to carry the connection.
pub(crate) fn open(config: Option<Config>) -> (Sender, Receiver) {
    let (client, events) = config.map(connect).unzip();
    (Sender(client), Receiver(events))
}

impl Sender {
    pub(crate) fn push_diff(&self, shard: &ShardId, seqno: u64, diff: Bytes) {
        if let Some(client) = &self.0 {
            client.push_diff(shard, seqno, diff);
        }
    }

    pub(crate) fn subscribe(&self, shard: &ShardId) -> Token {
        Token {
            _subscription: self.0.as_ref().map(|client| client.subscribe(shard)),
        }
    }
}

impl Receiver {
    /// The next message; `None` when there will be none any more. Off, there
    /// is none yet.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        let Some(events) = &mut self.0 else {
            return std::future::pending().await;
        };
        loop {
            return Some(match events.next().await? {
                Event::Diff {
                    shard, seqno, diff, ..
                } => Message::Diff { shard, seqno, diff },
                Event::Gap { shard, to, .. } => Message::Missed {
                    shard,
                    reached: Some(to),
                },
                Event::Resync { shard, highest } => Message::Missed {
                    shard,
                    reached: highest,
                },
                // The crate has logged by whom, and why.
                Event::Fenced { .. } => Message::Fenced,
                // Connected, Disconnected: the crate logs and counts them.
                _ => continue,
            });
        }
    }
}
