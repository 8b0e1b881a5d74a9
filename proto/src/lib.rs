//! The wire protocols of persist-pubsub, as Rust types. No logic.
//!
//! | module | what |
//! |---|---|
//! | [`v0`] | the unversioned protocol of deployed processes; fixed |
//! | [`v1`] | ours: package `persist.pubsub.v1` |
//! | `admin_v1` | the operators' calls (feature `admin`) |
//! | `backplane_v1` | what replicas say to each other (feature `backplane`) |
//!
//! The `.proto` files in `schema/` are the specification; the promises that a
//! server of v1 makes stand in this crate's `README.md`.
//!
//! ```
//! use persist_pubsub_proto::{ShardId, v1};
//!
//! let shard: ShardId = "s42344d73-94f1-48b1-a33b-0892cb4ebbb7".parse()?;
//! let publish = v1::Publish {
//!     shard_id: shard.to_bytes(),
//!     seqno: 17,
//!     ..v1::Publish::default()
//! };
//! assert_eq!(ShardId::from_slice(&publish.shard_id)?, shard);
//! # Ok::<(), persist_pubsub_proto::InvalidShardId>(())
//! ```

#![deny(missing_docs)]

mod shard_id;

pub use shard_id::{InvalidShardId, ShardId};

/// v0: the unversioned protocol of deployed processes. Fixed: it cannot
/// change any more.
pub mod v0 {
    pub use super::generated::mz_persist_client::internal::service::*;
    pub use super::generated::mz_proto::ProtoDuration;

    /// The path of the one method, as HTTP/2 carries it.
    pub const PATH: &str = "/mz_persist_client.internal.service.ProtoPersistPubSub/PubSub";
    /// The request metadata entry that names the caller; ASCII.
    pub const CALLER_ID: &str = "persist-pubsub-caller-id";
    /// The largest message that a deployed client accepts, in bytes. A larger
    /// one ends its stream.
    pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
}

/// The nesting that generated code expects where one package names another.
mod generated {
    pub(crate) mod mz_proto {
        tonic::include_proto!("mz_proto");
    }
    pub(crate) mod mz_persist_client {
        pub(crate) mod internal {
            pub(crate) mod service {
                tonic::include_proto!("mz_persist_client.internal.service");
            }
        }
    }
}

/// v1 of the persist pubsub protocol.
pub mod v1 {
    tonic::include_proto!("persist.pubsub.v1");

    /// The path of the one method, as HTTP/2 carries it.
    pub const PATH: &str = "/persist.pubsub.v1.PubSubService/Session";
    /// The lowest revision of v1 that this crate's types speak.
    pub const MIN_REVISION: u32 = 1;
    /// The highest revision of v1 that this crate's types speak.
    pub const MAX_REVISION: u32 = 1;
    /// The capability of an end that knows `SetMode` and `ModeSet`.
    pub const CAPABILITY_SET_MODE: &str = "set_mode";
}

/// The operators' calls.
#[cfg(feature = "admin")]
pub mod admin_v1 {
    tonic::include_proto!("persist.pubsub.admin.v1");

    /// The compiled schema, comments included, for reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/admin.fds"));
}

/// What replicas of the service say to each other.
#[cfg(feature = "backplane")]
pub mod backplane_v1 {
    tonic::include_proto!("persist.pubsub.backplane.v1");

    /// The compiled schema, for checks of compatibility.
    pub const FILE_DESCRIPTOR_SET: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/backplane.fds"));
}

/// The highest seqno there is, 2^63 - 1: the consensus stores keep seqnos in
/// a signed 64-bit column. A message with a higher one is refused.
pub const MAX_SEQNO: u64 = i64::MAX as u64;

/// The compiled schema of the data port (v0 and v1), comments included, for
/// reflection and for checks of compatibility.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/data.fds"));
