//! What a session says and hears, whatever the wire version.

use bytes::Bytes;
use persist_pubsub_proto::ShardId;

use super::refused::Refused;
use crate::config::{Mode, cut};
use crate::event::Reason;
use crate::outbox::Push;

/// Texts of a server are cut to this many bytes before they are kept or
/// logged.
const MAX_TEXT_BYTES: usize = 1024;

/// One thing to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Subscribe {
        request: u64,
        /// With the seqno that the host has, if any.
        shards: Vec<(ShardId, Option<u64>)>,
    },
    Unsubscribe {
        request: u64,
        shards: Vec<ShardId>,
    },
    Publish(Push),
    /// The mode of what is published from here on. One at a time.
    SetMode(Mode),
    Heartbeat,
}

/// One thing heard. Its shard ids and seqnos are valid.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Inbound {
    Diff(Diff),
    Gap(Gap),
    Subscribed {
        request: u64,
        heads: Vec<Head>,
        /// Heads that made no sense.
        malformed: usize,
    },
    Rejected {
        code: String,
        reason: String,
        request: u64,
        /// A push that may be told again later.
        push: Option<Refused>,
    },
    Draining {
        window_millis: u32,
        reason: String,
    },
    Fenced(Fenced),
    /// The mode that was asked for, or why not.
    ModeSet(Option<Mode>),
    /// A sign of life, or a kind that this version does not know.
    Nothing,
    /// It makes no sense, and says why.
    Malformed(&'static str),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Diff {
    pub(crate) shard: ShardId,
    pub(crate) seqno: u64,
    /// Nanoseconds since the Unix epoch; 0: unknown.
    pub(crate) committed: u64,
    pub(crate) diff: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) shard: ShardId,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) highest: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) shard: ShardId,
    pub(crate) highest: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fenced {
    pub(crate) generation: u64,
    pub(crate) epoch: u64,
    pub(crate) reason: String,
}

/// Why there is no session after an attempt.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Try again later.
    Failed(Reason),
    /// The server does not have this wire version.
    Unimplemented(Reason),
    /// Do not come back.
    Fenced(Fenced),
}

impl From<tonic::Status> for Refusal {
    fn from(status: tonic::Status) -> Self {
        let unimplemented = status.code() == tonic::Code::Unimplemented;
        let reason = reason(&status);
        if unimplemented {
            Self::Unimplemented(reason)
        } else {
            Self::Failed(reason)
        }
    }
}

pub(crate) fn reason(status: &tonic::Status) -> Reason {
    Reason::Status {
        code: i32::from(status.code()),
        message: text(status.message()),
    }
}

/// A server's text, as much of it as is kept.
pub(crate) fn text(text: &str) -> String {
    cut(text, MAX_TEXT_BYTES).to_owned()
}
