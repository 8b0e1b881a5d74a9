//! Publishers that overtake each other, and whoever listens to them: what the
//! promises' tests have in common. Seeded: what is sent on which connection in
//! which order repeats itself; how the connections race does not.

use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::watched::{SharedTruth, Watched};
use persist_pubsub_proto::ShardId;
use persist_pubsub_server::app::{self, Server};
use persist_pubsub_server::config::Config;

use super::super::Failure;

/// A server in this process, that stops with its owner.
pub(super) struct Arena {
    server: Server,
    _stop: tokio::sync::oneshot::Sender<()>,
    pub(super) operator: Operator,
    pub(super) truth: SharedTruth,
}

/// The defaults, without heartbeats: scripted peers send none.
pub(super) fn config() -> Config {
    let mut config = Config::default();
    config.heartbeat_interval = Duration::from_secs(3_600);
    config
}

impl Arena {
    pub(super) async fn open(config: Config) -> Result<Self, Failure> {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = app::start(config, async {
            let _ = stopped.await;
        })
        .await?;
        Ok(Self {
            operator: Operator::at(server.admin_addr()).await?,
            server,
            _stop: stop,
            truth: SharedTruth::default(),
        })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.server.data_addr())
    }

    pub(super) async fn session(&self, name: &str) -> Result<Watched, Failure> {
        Ok(Watched::connect(&self.url(), name, &self.truth).await?)
    }

    /// Several sessions of one name and a number.
    pub(super) async fn sessions(&self, name: &str, count: usize) -> Result<Vec<Watched>, Failure> {
        let mut sessions = Vec::new();
        for number in 0..count {
            sessions.push(self.session(&format!("{name}-{number}")).await?);
        }
        Ok(sessions)
    }

    /// Commits diffs of some size.
    pub(super) fn commit(
        &self,
        shard: ShardId,
        seqnos: impl IntoIterator<Item = u64>,
        bytes: usize,
    ) {
        let mut truth = self.truth.lock();
        for seqno in seqnos {
            let mut diff = vec![shard.as_bytes()[0]; bytes.max(8)];
            diff[..8].copy_from_slice(&seqno.to_be_bytes());
            truth.commit(shard, seqno, Some(seqno), Bytes::from(diff));
        }
    }
}

pub(super) fn shard(number: u8) -> ShardId {
    ShardId::new([0x90 + number; 16])
}

/// `seqnos` so that each comes at most about `reach` places from where it
/// belongs, but for one in `late`, which comes last.
pub(super) fn jumbled(
    seqnos: std::ops::RangeInclusive<u64>,
    reach: u64,
    late: Option<u64>,
    rng: &mut Rng,
) -> Vec<u64> {
    let mut places: Vec<(u64, u64)> = seqnos
        .map(|n| {
            let is_late = late.is_some_and(|one_in| rng.u64(0..one_in) == 0);
            let place = if is_late {
                u64::MAX
            } else {
                n + rng.u64(0..=reach)
            };
            (place, n)
        })
        .collect();
    places.sort_unstable();
    places.into_iter().map(|(_, n)| n).collect()
}

/// Publishes in this order, each on a connection chosen at random.
pub(super) async fn deal(
    publishers: &[Watched],
    shard: ShardId,
    seqnos: &[u64],
    rng: &mut Rng,
) -> Result<(), Failure> {
    for &seqno in seqnos {
        let publisher = rng.usize(0..publishers.len());
        publishers[publisher].publish(shard, seqno).await?;
        if rng.u8(0..8) == 0 {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// Everybody has heard all that is owed.
pub(super) async fn settle<'a>(
    sessions: impl IntoIterator<Item = &'a Watched>,
) -> Result<(), Failure> {
    for session in sessions {
        session.settle().await?;
    }
    Ok(())
}
