//! Somebody else at the same server, with whom the client under test gets
//! along or does not.

use std::time::Duration;

use bytes::Bytes;
use persist_pubsub_proto::ShardId;

use super::client::{Client, Heard};
use super::server::{Failure, Server};
use crate::recording::Push;
use crate::{v0_peer, v1_peer};

/// How often somebody publishes again who cannot know whether the other
/// listens already.
const AGAIN: Duration = Duration::from_millis(50);

pub(super) fn shard(number: u8) -> ShardId {
    ShardId::new([number; 16])
}

/// Some bytes that tell where they belong.
pub(super) fn diff(seqno: u64) -> Bytes {
    let mut bytes = seqno.to_be_bytes().to_vec();
    bytes.extend_from_slice(&[0, 255, 128, 10, 13]);
    bytes.into()
}

/// Somebody else, who publishes in the wire version that the server has.
pub(super) enum Partner {
    V0(v0_peer::Peer),
    V1(v1_peer::Peer),
}

impl Partner {
    pub(super) async fn start(server: &Server) -> Result<Self, Failure> {
        let url = server.direct_url();
        Ok(if server.is_ours() {
            Self::V1(v1_peer::Peer::connect(&url, "partner").await?)
        } else {
            Self::V0(v0_peer::Peer::connect(&url, "partner").await?)
        })
    }

    pub(super) async fn publish(&mut self, shard: ShardId, seqno: u64) -> Result<(), Failure> {
        let diff = diff(seqno);
        match self {
            Self::V0(peer) => peer.sender().push(Push { shard, seqno, diff }).await?,
            Self::V1(peer) => peer.sender().publish(shard, seqno, 1, diff).await?,
        }
        Ok(())
    }

    /// The server has taken what was published, where it can say so.
    pub(super) async fn taken(&mut self, number: u8) -> Result<(), Failure> {
        if let Self::V1(peer) = self {
            peer.follow(shard(number), None).await?;
        }
        Ok(())
    }
}

/// A client that follows a shard, and how far it has been told of it.
pub(super) async fn following(
    client: &mut Client,
    partner: &mut Partner,
    shard: ShardId,
    from: u64,
) -> Result<u64, Failure> {
    client.subscribe(shard, from).await?;
    // Nobody can say when a v0 subscription stands: what is published is heard
    // once it does.
    let mut seqno = from;
    loop {
        seqno += 1;
        partner.publish(shard, seqno).await?;
        tokio::time::sleep(AGAIN).await;
        let mut told = 0;
        while let Some(heard) = client.heard() {
            if let Heard::Diff(of, at, _) = heard
                && of == shard
            {
                told = at;
            }
        }
        if told > 0 {
            // The rest of what was published comes as well.
            while told < seqno {
                told = hear_diff(client, shard, told + 1).await?;
            }
            return Ok(seqno);
        }
        if seqno > from + 1_000 {
            return Err(format!("{shard} was subscribed to, and nothing was heard").into());
        }
    }
}

/// The client hears a diff, bit for bit; lower ones may come again before.
pub(super) async fn hear_diff(
    client: &mut Client,
    shard: ShardId,
    seqno: u64,
) -> Result<u64, Failure> {
    let what = format!("diff {seqno}");
    let got = client
        .hear_until(&what, |heard| match heard {
            Heard::Diff(of, at, diff) if *of == shard && *at >= seqno => Some((*at, diff.clone())),
            _ => None,
        })
        .await?;
    if got == (seqno, diff(seqno)) {
        Ok(seqno)
    } else {
        Err(format!("waited for {what} as it was published, but {got:?} came").into())
    }
}

/// What somebody publishes reaches the client.
pub(super) async fn flows(client: &mut Client, server: &Server, number: u8) -> Result<(), Failure> {
    let mut partner = Partner::start(server).await?;
    following(client, &mut partner, shard(number), 1).await?;
    Ok(())
}
