//! Sessions of both wire versions that have nothing to do with what a test
//! does to a server, and are to notice nothing of it.

use bytes::Bytes;
use persist_pubsub_proto::ShardId;

use crate::recording::Push;
use crate::v0_peer::{self, PeerError};
use crate::v1_peer;

/// Their shard.
const SHARD: ShardId = ShardId::new(*b"bystanders'shard");

/// A v0 and a v1 subscriber, and a v0 writer, of one shard.
#[derive(Debug)]
pub struct Bystanders {
    writer: v0_peer::Peer,
    v0: v0_peer::Peer,
    v1: v1_peer::Peer,
    seqno: u64,
}

impl Bystanders {
    /// Connects and subscribes them, and sees that they are served.
    ///
    /// # Errors
    /// They are not.
    pub async fn meet(url: &str) -> Result<Self, PeerError> {
        let mut all = Self {
            writer: v0_peer::Peer::connect(url, "bystander-writer").await?,
            v0: v0_peer::Peer::connect(url, "bystander-v0").await?,
            v1: v1_peer::Peer::connect(url, "bystander-v1").await?,
            seqno: 1,
        };
        // If the first diff comes before this subscription, it is replayed.
        all.v0.sender().subscribe(SHARD).await?;
        all.v1.follow(SHARD, None).await?;
        all.are_served().await?;
        Ok(all)
    }

    /// The next diff reaches both, and nothing else has.
    ///
    /// # Errors
    /// It does not.
    pub async fn are_served(&mut self) -> Result<(), PeerError> {
        self.seqno += 1;
        let seqno = self.seqno;
        let push = Push {
            shard: SHARD,
            seqno,
            diff: Bytes::from(format!("bystander {seqno}")),
        };
        self.writer.sender().push(push.clone()).await?;
        let got = self.v0.receiver();
        let got = got.expect_push("a diff for the v0 bystander").await?;
        let other = |got: String| PeerError::Other {
            what: format!("{push:?} for the bystanders"),
            got,
        };
        if got != push {
            return Err(other(format!("{got:?}")));
        }
        let got = self.v1.receiver();
        let got = got.expect_diff("a diff for the v1 bystander").await?;
        if (got.seqno, &got.diff) != (seqno, &push.diff) {
            return Err(other(format!("{got:?}")));
        }
        Ok(())
    }
}
