//! Publishers that overtake each other, and whoever listens to them: what the
//! promises' tests have in common. Seeded: what is sent on which connection in
//! which order repeats itself; how the connections race does not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use persist_pubsub_client::Home;
use persist_pubsub_compat_tests::nats::conf::Conf;
use persist_pubsub_compat_tests::nats::{self, Nats};
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::replicas::{KNOWN, next_prefix};
use persist_pubsub_compat_tests::wait::until;
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
    /// Each over a connection of its own, to three replicas in turn.
    Replicas,
}

/// Of [`Ways::Replicas`].
const REPLICAS: usize = 3;

/// A server in this process, or replicas of it, that stop with their owner.
pub(super) struct Arena {
    servers: Vec<Server>,
    operators: Vec<Operator>,
    in_process: InProcess,
    ways: Ways,
    _nats: Option<Nats>,
    /// Sessions that were opened.
    opened: AtomicU64,
    _stop: tokio::sync::watch::Sender<()>,
    pub(super) truth: SharedTruth,
}

/// Whether there is what the replicas of a promise's test need; if not, the
/// test is left out, and says so.
pub(super) fn replicas_for(promise: &str) -> bool {
    nats::found(&format!("promises::{promise}::{promise}_across_replicas"))
}

/// The same, as one of several replicas.
fn replica(config: &Config, nats: &str, prefix: &str, number: usize) -> Config {
    let config = config.clone();
    let _ = (nats, prefix, number);
    config
}

/// The defaults, without heartbeats: scripted peers send none.
pub(super) fn config() -> Config {
    let mut config = Config::default();
    config.heartbeat_interval = Duration::from_secs(3_600);
    config
}

impl Arena {
    pub(super) async fn open(ways: Ways, config: Config) -> Result<Self, Failure> {
        let nats = match ways {
            Ways::Replicas => Some(Nats::start(&Conf::default()).await?),
            _ => None,
        };
        let configs: Vec<_> = match &nats {
            Some(nats) => {
                let prefix = next_prefix();
                let replica = |n| replica(&config, &nats.url(), &prefix, n);
                (0..REPLICAS).map(replica).collect()
            }
            None => vec![config],
        };
        let stop = tokio::sync::watch::Sender::new(());
        let (mut servers, mut operators) = (Vec::new(), Vec::new());
        for config in configs {
            let mut stopped = stop.subscribe();
            let server = app::start(config, async move {
                // Its sender says nothing; it goes.
                while stopped.changed().await.is_ok() {}
            })
            .await?;
            operators.push(Operator::at(server.admin_addr()).await?);
            servers.push(server);
        }
        let arena = Self {
            in_process: servers[0].in_process(),
            servers,
            operators,
            ways,
            _nats: nats,
            opened: AtomicU64::new(0),
            _stop: stop,
            truth: SharedTruth::default(),
        };
        if ways == Ways::Replicas {
            arena.replicas_know_each_other().await?;
        }
        Ok(arena)
    }

    async fn replicas_know_each_other(&self) -> Result<(), Failure> {
        for operator in &self.operators {
            until("a replica to know the others", async || {
                let known = operator.metric(KNOWN).await.ok()?;
                (known >= REPLICAS as f64 - 1.0).then_some(())
            })
            .await?;
        }
        Ok(())
    }

    /// Where the next session connects to over the network.
    pub(super) fn url(&self) -> String {
        self.url_of(self.opened.fetch_add(1, Ordering::Relaxed))
    }

    fn url_of(&self, session: u64) -> String {
        let turn = usize::try_from(session).unwrap_or(0) % self.servers.len();
        format!("http://{}", self.servers[turn].data_addr())
    }

    /// A series of the metrics, of all replicas together.
    pub(super) async fn metric(&self, series: &str) -> Result<f64, Failure> {
        let mut sum = 0.0;
        for operator in &self.operators {
            sum += operator.metric(series).await?;
        }
        Ok(sum)
    }

    /// What the logs of each replica hold.
    pub(super) async fn log_bytes(&self) -> Result<Vec<u64>, Failure> {
        let mut bytes = Vec::new();
        for operator in &self.operators {
            bytes.push(operator.info().await?.log_bytes);
        }
        Ok(bytes)
    }

    /// The next session's number, and whether it is to be in process.
    fn turn(&self) -> (u64, bool) {
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let in_process = match self.ways {
            Ways::Network | Ways::Replicas => false,
            Ways::InProcess => true,
            Ways::Mixed => number % 2 == 1,
        };
        (number, in_process)
    }

    pub(super) async fn session(&self, name: &str) -> Result<Watched, Failure> {
        let session = match self.turn() {
            (_, true) => Watched::connect(&self.in_process, name, &self.truth).await,
            (n, false) => Watched::connect(&self.url_of(n), name, &self.truth).await,
        };
        Ok(session?)
    }

    /// Where a client of the crate finds the server.
    pub(super) fn home(&self) -> Result<Home, Failure> {
        match self.turn() {
            (_, true) => Ok(Home::in_process(self.in_process.clone())),
            (n, false) => Ok(Home::at(&self.url_of(n))?),
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
