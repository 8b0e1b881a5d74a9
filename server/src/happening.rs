//! What happens on shards, for those who watch.

use std::sync::Arc;

use persist_pubsub_proto::ShardId;

use crate::environment::Environment;
use crate::session::SessionId;
use crate::topic::Verdict;

/// Something happened on a shard.
#[derive(Clone, Debug)]
pub(crate) struct Happening {
    pub(crate) environment: Arc<Environment>,
    pub(crate) shard: ShardId,
    pub(crate) what: What,
    pub(crate) seqno: Option<u64>,
    pub(crate) diff_bytes: usize,
    pub(crate) committed_unix_nanos: Option<u64>,
    pub(crate) session: Option<SessionId>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Published(Verdict),
    Announced,
    Gapped,
    Subscribed,
    Unsubscribed,
}
