//! What the host is told.

use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use persist_pubsub_proto::ShardId;

/// One thing that a host hears from [`Events`](crate::Events).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A diff of a subscribed shard, bit for bit as published. A shard's
    /// diffs come in strictly increasing seqno, each once; apply it if it is
    /// the state's seqno + 1, pass it over if it is not above the state.
    /// (A v0 server that took an absurd seqno for true can make it go back.)
    Diff {
        /// The shard.
        shard: ShardId,
        /// The diff's place in the shard's state.
        seqno: u64,
        /// The diff. A slice of what came from the network: whoever keeps a
        /// few for long should copy them.
        diff: Bytes,
        /// When it was committed, by the publisher's clock, if it said.
        committed: Option<SystemTime>,
    },
    /// Diffs of a subscribed shard that will not come: fetch now, unless the
    /// state has reached `to`. Usually above what was told before; a gap below
    /// it means that something surfaced late; one above `highest` passes on
    /// what a single client says and the server doubts, so fetch once and do
    /// not wait to reach it.
    Gap {
        /// The shard.
        shard: ShardId,
        /// The first seqno that will not come; 0 when that is not known.
        from: u64,
        /// The last.
        to: u64,
        /// The highest seqno that the server knows.
        highest: u64,
    },
    /// The server cannot say what was missed: fetch, unless the state has
    /// reached `highest`. Comes once for each subscription that did not say
    /// what the host has, and after a reconnect to a server that has
    /// forgotten: then at a random moment within
    /// [`Config::resync_spread`](crate::Config::resync_spread), and not at all
    /// for a shard of which a diff came that follows what was told. What is
    /// published after the subscription comes as diffs or gaps.
    Resync {
        /// The shard.
        shard: ShardId,
        /// The highest seqno that the server knows, if it knows any.
        highest: Option<u64>,
    },
    /// There is a session, with one of the homes. Without a `Disconnected`
    /// before it: it took the place of one that its server is about to end, and
    /// nothing was missed. Further homes are not told of: see
    /// [`Client::homes`](crate::Client::homes).
    Connected {
        /// The wire version that it speaks.
        wire: Wire,
        /// Who answers.
        server: ServerInfo,
    },
    /// There is no session any more, with any of the homes; the client is
    /// connecting again by itself, if the settings want it to.
    Disconnected {
        /// Why the last one ended.
        reason: Reason,
    },
    /// This process's generation was fenced out. The last event: the client
    /// does not come back. A process should end, with exit code 0.
    Fenced {
        /// The lowest generation that is let in.
        generation: u64,
        /// The fence's epoch; the higher one is the later one.
        epoch: u64,
        /// Why, for people: names the fencing generation.
        reason: String,
    },
}

/// A wire version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// The unversioned protocol of deployed servers: it cannot say what was
    /// missed.
    V0,
    /// `persist.pubsub.v1`.
    V1,
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V0 => "v0",
            Self::V1 => "v1",
        })
    }
}

/// Who answers, from the server's `Welcome`. A v0 server says none of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerInfo {
    /// Names this run of the server; empty in v0.
    pub instance_id: String,
    /// The server's version, for people; empty in v0.
    pub version: String,
    /// Names the session in this run of the server; 0 in v0.
    pub session_id: u64,
}

/// Why a session ended, or did not begin. A retry can help with every one of
/// them but [`Left`](Self::Left), and happens by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The server could not be reached: look-up, connection, or its time.
    Unreachable(String),
    /// Connected, but not welcomed within this time.
    HandshakeTimeout(Duration),
    /// The server refused the `Hello`, and says why.
    Refused(String),
    /// The server ended the stream, or the connection broke: the gRPC status.
    Status {
        /// The gRPC status code; 14 is UNAVAILABLE.
        code: i32,
        /// Its message.
        message: String,
    },
    /// The server ended the stream without an error.
    Ended,
    /// Nothing was heard from the server for this time: three of its
    /// heartbeat intervals.
    Silent(Duration),
    /// The server left a subscribe unanswered for this time.
    Unanswered(Duration),
    /// The connection broke while the host was not reading events.
    Broken,
    /// The server broke the protocol.
    Protocol(String),
    /// The settings want no session with it any more, by whichever of them.
    Left,
    /// There is a session with the same run of the server already, by another
    /// of its addresses: its instance id.
    SameServer(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "unreachable: {why}"),
            Self::HandshakeTimeout(after) => write!(f, "not welcomed within {after:?}"),
            Self::Refused(why) => write!(f, "refused: {why}"),
            Self::Status { code, message } => write!(f, "gRPC status {code}: {message}"),
            Self::Ended => f.write_str("ended by the server"),
            Self::Silent(after) => write!(f, "nothing heard for {after:?}"),
            Self::Unanswered(after) => write!(f, "a subscribe not answered for {after:?}"),
            Self::Broken => f.write_str("the connection broke"),
            Self::Protocol(why) => write!(f, "protocol error: {why}"),
            Self::Left => f.write_str("left, as the settings say"),
            Self::SameServer(id) => write!(f, "the same server as at another address: {id}"),
        }
    }
}

impl std::error::Error for Reason {}
