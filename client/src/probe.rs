//! For the fuzz targets of `compat-tests`: what a server's messages are read
//! with, as it is, without a connection around it. Not for anybody else, and
//! no part of this crate's promises.

use bytes::Bytes;
use persist_pubsub_proto::{ShardId, v0, v1};

use crate::connection::wire::Inbound;
use crate::connection::{hear_v0, hear_v1, settle};

/// What a server's message says of shards.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// A diff.
    Diff {
        /// Of which shard.
        shard: ShardId,
        /// Its place in the shard's state.
        seqno: u64,
        /// Nanoseconds since the Unix epoch; 0: unknown.
        committed: u64,
        /// Its bytes.
        diff: Bytes,
    },
    /// A range that will not come.
    Gap {
        /// Its first.
        from: u64,
        /// Its last.
        to: u64,
    },
    /// It makes no sense.
    Malformed,
    /// Something else; the most bytes of a text that would be kept of it.
    Other(usize),
}

impl From<Inbound> for Heard {
    fn from(inbound: Inbound) -> Self {
        match inbound {
            Inbound::Diff(diff) => Self::Diff {
                shard: diff.shard,
                seqno: diff.seqno,
                committed: diff.committed,
                diff: diff.diff,
            },
            Inbound::Gap(gap) => Self::Gap {
                from: gap.from,
                to: gap.to,
            },
            Inbound::Malformed(_) => Self::Malformed,
            Inbound::Rejected { reason, .. } | Inbound::Draining { reason, .. } => {
                Self::Other(reason.len())
            }
            Inbound::Fenced(fenced) => Self::Other(fenced.reason.len()),
            Inbound::Subscribed { .. } | Inbound::ModeSet(_) | Inbound::Nothing => Self::Other(0),
        }
    }
}

/// Hears a v0 server.
#[must_use]
pub fn v0(message: v0::ProtoPubSubMessage) -> Heard {
    hear_v0(message).into()
}

/// Hears a v1 server.
#[must_use]
pub fn v1(message: v1::SessionResponse) -> Heard {
    hear_v1(message).into()
}

/// Whether a v1 server's welcome is taken.
#[must_use]
pub fn welcome(welcome: &v1::Welcome) -> bool {
    settle(welcome).is_ok()
}
