//! Publishers that overtake each other, and whoever listens to them: what the
//! promises' tests have in common. Seeded: what is sent on which connection in
//! which order repeats itself; how the connections race does not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use persist_pubsub_client::Home;
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::watched::{SharedTruth, Watched};
use persist_pubsub_proto::ShardId;
use persist_pubsub_server::InProcess;
use persist_pubsub_server::app::{self, Server};
use persist_pubsub_server::config::Config;

use super::super::Failure;

/// How the sessions of an arena reach its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ways {
    /// Each over a connection of its own.
    Network,
    /// All in process.
    InProcess,
    /// In turns.
    Mixed,
}

/// A server in this process, that stops with its owner.
pub(super) struct Arena {
    server: Server,
    in_process: InProcess,
    ways: Ways,
    /// Sessions that were opened.
    opened: AtomicU64,
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
    pub(super) async fn open(ways: Ways, config: Config) -> Result<Self, Failure> {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = app::start(config, async {
            let _ = stopped.await;
        })
        .await?;
        Ok(Self {
            operator: Operator::at(server.admin_addr()).await?,
            in_process: server.in_process(),
            ways,
            opened: AtomicU64::new(0),
            server,
            _stop: stop,
            truth: SharedTruth::default(),
        })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.server.data_addr())
    }

    /// Whether the next session is to be in process.
    fn turn(&self) -> bool {
        let odd = self.opened.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        self.ways == Ways::InProcess || (self.ways == Ways::Mixed && odd)
    }

    pub(super) async fn session(&self, name: &str) -> Result<Watched, Failure> {
        let session = match self.turn() {
            true => Watched::connect(&self.in_process, name, &self.truth).await,
            false => Watched::connect(&self.url(), name, &self.truth).await,
        };
        Ok(session?)
    }

    /// Where a client of the crate finds the server.
    pub(super) fn home(&self) -> Result<Home, Failure> {
        match self.turn() {
            true => Ok(Home::in_process(self.in_process.clone())),
            false => Ok(Home::at(&self.url())?),
        }
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
