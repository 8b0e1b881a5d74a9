//! What can be wrong with a message or a session, typed; and the one place
//! that turns it into a gRPC status or a `Rejected`.

use std::time::Duration;

use persist_pubsub_proto::v1::RejectionCode;
use persist_pubsub_proto::{InvalidShardId, ShardId};
use tonic::Status;

/// A message that is refused. It costs that message; sending it again as it
/// is cannot help, but for `TooManyTopics` and `ResourceExhausted`.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Refusal {
    pub(crate) code: RefusalCode,
    pub(crate) reason: String,
    pub(crate) request_id: u64,
    pub(crate) shard: Option<ShardId>,
    pub(crate) seqno: Option<u64>,
    /// When it may be sent again.
    pub(crate) retry_after: Option<Duration>,
}

/// Why a message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RefusalCode {
    Malformed,
    TooLarge,
    HelloRequired,
    HelloRepeated,
    NoCommonRevision,
    InvalidField,
    InvalidShardId,
    InvalidSeqno,
    ReadOnly,
    TooManyShards,
    TooManySubscriptions,
    TooManyTopics,
    /// The caller has no right to it.
    NotAllowed,
    /// The caller's identity or address has taken what it may.
    ResourceExhausted,
    /// v0: none of the known kinds.
    Empty,
}

impl RefusalCode {
    /// The metric's label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::HelloRequired => "hello_required",
            Self::HelloRepeated => "hello_repeated",
            Self::NoCommonRevision => "no_common_revision",
            Self::InvalidField => "invalid_field",
            Self::InvalidShardId => "invalid_shard_id",
            Self::InvalidSeqno => "invalid_seqno",
            Self::ReadOnly => "read_only",
            Self::TooManyShards => "too_many_shards",
            Self::TooManySubscriptions => "too_many_subscriptions",
            Self::TooManyTopics => "too_many_topics",
            Self::NotAllowed => "not_allowed",
            Self::ResourceExhausted => "resource_exhausted",
            Self::Empty => "empty",
        }
    }

    /// The code of v1's `Rejected`.
    pub(crate) fn rejection(self) -> RejectionCode {
        match self {
            Self::Malformed | Self::Empty => RejectionCode::Malformed,
            Self::TooLarge => RejectionCode::TooLarge,
            Self::HelloRequired => RejectionCode::HelloRequired,
            Self::HelloRepeated => RejectionCode::HelloRepeated,
            Self::NoCommonRevision => RejectionCode::NoCommonRevision,
            Self::InvalidField => RejectionCode::InvalidField,
            Self::InvalidShardId => RejectionCode::InvalidShardId,
            Self::InvalidSeqno => RejectionCode::InvalidSeqno,
            Self::ReadOnly => RejectionCode::ReadOnly,
            Self::TooManyShards => RejectionCode::TooManyShards,
            Self::TooManySubscriptions => RejectionCode::TooManySubscriptions,
            Self::TooManyTopics => RejectionCode::TooManyTopics,
            Self::NotAllowed => RejectionCode::NotAllowed,
            Self::ResourceExhausted => RejectionCode::ResourceExhausted,
        }
    }
}

impl Refusal {
    pub(crate) fn new(code: RefusalCode, reason: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.into(),
            request_id: 0,
            shard: None,
            seqno: None,
            retry_after: None,
        }
    }

    pub(crate) fn request(mut self, request_id: u64) -> Self {
        self.request_id = request_id;
        self
    }

    pub(crate) fn shard(mut self, shard: ShardId) -> Self {
        self.shard = Some(shard);
        self
    }

    pub(crate) fn seqno(mut self, seqno: u64) -> Self {
        self.seqno = Some(seqno);
        self
    }

    pub(crate) fn retry_after(mut self, time: Duration) -> Self {
        self.retry_after = Some(time);
        self
    }
}

impl From<InvalidShardId> for Refusal {
    fn from(e: InvalidShardId) -> Self {
        Self::new(RefusalCode::InvalidShardId, e.to_string())
    }
}

/// Why a session ends.
#[derive(Clone, Debug)]
pub(crate) enum EndReason {
    /// The client half-closed its stream.
    ClientDone,
    /// The connection or the stream is gone.
    ClientGone(String),
    /// The server drains.
    Draining,
    /// It was asked to go to another replica, and has had time to.
    Moved,
    /// v1: the client has not said anything for too long.
    Silent,
    /// v1: it publishes, and is too far behind in reading to be told rightly
    /// what is missing beside its own.
    TooFarBehind,
    /// v1: no `Hello` in time.
    NoHello,
    /// v1: no revision that both speak.
    NoCommonRevision(String),
    /// The client may not speak of the environment that it named.
    NotAllowed(String),
    /// The file of identities does not know the client any more as what it
    /// came as.
    IdentityGone,
    /// The stream's framing is broken: nothing after it can be read.
    BrokenStream(String),
    /// The client's generation was fenced out.
    Fenced(String),
    /// The session's server in this process is gone.
    ServerGone,
}

impl EndReason {
    /// The metric's label, and the log's.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::ClientDone => "client_done",
            Self::ClientGone(_) => "client_gone",
            Self::Draining => "draining",
            Self::Moved => "moved",
            Self::Silent => "silent",
            Self::TooFarBehind => "too_far_behind",
            Self::NoHello => "no_hello",
            Self::NoCommonRevision(_) => "no_common_revision",
            Self::NotAllowed(_) => "not_allowed",
            Self::IdentityGone => "identity_gone",
            Self::BrokenStream(_) => "broken_stream",
            Self::Fenced(_) => "fenced",
            Self::ServerGone => "server_gone",
        }
    }

    /// More than the label says, for the log.
    pub(crate) fn detail(&self) -> Option<&str> {
        match self {
            Self::ClientGone(why)
            | Self::NoCommonRevision(why)
            | Self::NotAllowed(why)
            | Self::BrokenStream(why)
            | Self::Fenced(why) => Some(why.as_str()).filter(|why| !why.is_empty()),
            Self::ClientDone
            | Self::Draining
            | Self::Moved
            | Self::Silent
            | Self::TooFarBehind
            | Self::IdentityGone
            | Self::NoHello
            | Self::ServerGone => None,
        }
    }

    /// How the stream ends for the client.
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::ClientDone | Self::Draining | Self::Moved => Status::ok(""),
            Self::ClientGone(why) => Status::cancelled(why.clone()),
            Self::Silent => Status::deadline_exceeded(
                "nothing was heard from the client for three heartbeat intervals",
            ),
            Self::TooFarBehind => Status::resource_exhausted(
                "too far behind in reading for a publisher (--max-own-ranges-per-session)",
            ),
            Self::NoHello => Status::deadline_exceeded("no Hello within the handshake timeout"),
            Self::NoCommonRevision(why) => Status::failed_precondition(why.clone()),
            Self::NotAllowed(why) => Status::permission_denied(why.clone()),
            Self::IdentityGone => Status::unauthenticated(
                "the token or certificate does not stand any more for what it stood for",
            ),
            Self::BrokenStream(why) => Status::invalid_argument(why.clone()),
            Self::Fenced(why) => Status::permission_denied(why.clone()),
            Self::ServerGone => Status::unavailable("the server is gone"),
        }
    }
}
