//! Who is there: the server of the moment, and processes of both wire
//! versions, each behind a network of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use persist_pubsub_client::Config;
use persist_pubsub_compat_tests::child::Child;
use persist_pubsub_compat_tests::ledger::{Diffs, Ledger};
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::proxy::{Cut, Passing, Proxy, Way};
use persist_pubsub_compat_tests::v0_peer::KeepAlive;
use persist_pubsub_compat_tests::v0_process::V0Process;
use persist_pubsub_compat_tests::v1_process::V1Process;
use persist_pubsub_compat_tests::wait::{TimedOut, until};
use persist_pubsub_proto::ShardId;
use tokio::time::Instant;

use crate::Failure;
use crate::traffic::{Script, Traffic};
use crate::verdict::Tally;

/// Processes that read alone, beside the recorded ones.
const V1_READERS: usize = 5;
const V0_READERS: usize = 3;
const SECOND: Duration = Duration::from_secs(1);
/// What a server may use in all: 16 MiB of log, and a plain process.
pub(crate) const MEMORY_MIB: u64 = 150;

const FLAGS: [&str; 7] = [
    "--log-bytes-total=16MiB",
    "--log-bytes-per-shard=4095KiB",
    // Quick to notice: a fault lasts a second or two.
    "--heartbeat-interval=1s",
    "--keepalive=1s",
    "--keepalive-timeout=2s",
    "--drain-window=2s",
    "--drain-timeout=10s",
];

pub(crate) struct World {
    pub(crate) server: Child,
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) v1: Vec<Arc<V1Process>>,
    /// Which of the proxies is that of the first v1 process.
    first_v1: usize,
    pub(crate) v0: Vec<Arc<V0Process>>,
    pub(crate) shards: Vec<ShardId>,
    pub(crate) traffic: Traffic,
    pub(crate) ledger: Ledger,
}

/// A process that writes.
#[derive(Clone)]
pub(crate) enum Writer {
    V1(Arc<V1Process>),
    V0(Arc<V0Process>),
}

impl Writer {
    pub(crate) fn write(&self, shard: ShardId) {
        match self {
            Self::V1(process) => process.write(shard),
            Self::V0(process) => process.write(shard),
        }
    }
}

pub(crate) async fn start_server() -> Result<Child, Failure> {
    Ok(Child::start(&FLAGS).await?)
}

impl World {
    /// The recorded processes: those of generation 1 speak v0, those of
    /// generation 2 v1. And readers of both.
    pub(crate) async fn start() -> Result<Self, Failure> {
        let server = start_server().await?;
        let script = Script::read()?;
        let diffs = script.diffs();
        let shards: Vec<_> = diffs.keys().copied().collect();
        let ledger = Ledger::new(Diffs::Recorded(Arc::new(diffs)));
        let (mut proxies, mut v1, mut v0) = (Vec::new(), Vec::new(), Vec::new());
        let mut first_v1 = 0;
        let mut writers = BTreeMap::new();
        let readers = (0..V1_READERS).map(|n| (format!("v1-reader-{n}"), true));
        let readers = readers.chain((0..V0_READERS).map(|n| (format!("v0-reader-{n}"), false)));
        let callers = script.callers().into_iter().map(|caller| {
            let is_v1 = caller.contains("gen2");
            (caller, is_v1)
        });
        for (name, is_v1) in callers.chain(readers) {
            let proxy = Proxy::start(server.addresses().listen).await?;
            let writer = if is_v1 {
                let process = V1Process::start(&name, config(&proxy.url())?, &ledger);
                for &shard in &shards {
                    process.follow(shard);
                }
                let process = Arc::new(process);
                if v1.is_empty() {
                    first_v1 = proxies.len();
                }
                v1.push(Arc::clone(&process));
                Writer::V1(process)
            } else {
                let keep_alive = KeepAlive {
                    interval: SECOND,
                    timeout: 2 * SECOND,
                };
                let all = shards.iter().copied();
                let process = V0Process::start(&name, &proxy.url(), Some(keep_alive), &ledger, all);
                let process = Arc::new(process);
                v0.push(Arc::clone(&process));
                Writer::V0(process)
            };
            writers.insert(name, writer);
            proxies.push(proxy);
        }
        Ok(Self {
            server,
            proxies,
            v1,
            first_v1,
            v0,
            shards,
            traffic: Traffic::new(script, writers),
            ledger,
        })
    }

    /// Another server takes the place of the one that is there, for new
    /// connections. Returns the old one.
    pub(crate) fn switch(&mut self, server: Child) -> Child {
        for proxy in &self.proxies {
            proxy.switch(server.addresses().listen);
        }
        std::mem::replace(&mut self.server, server)
    }

    /// With the traffic at rest and the networks whole, every v1 process is
    /// told where every shard stands, and v0 processes get there as they do.
    pub(crate) async fn converge(&self, tally: &mut Tally) {
        self.traffic.rest();
        for process in &self.v1 {
            let up = process.wait("a session", |a| a.up);
            if let Err(late) = up.await {
                tally.violated("convergence", &format!("{}: {late}", process.name()));
            }
        }
        if let Err(late) = self.lose_the_last_diffs().await {
            tally.violated("convergence", &late.to_string());
        }
        let began = Instant::now();
        self.v1_reach(&self.heads_by_v1(), tally).await;
        // What a v0 process pushed last may have been lost with its
        // connection, and nobody is told but by the diff after it.
        let Some(writer) = self.v1.first() else {
            return;
        };
        for &shard in &self.shards {
            writer.write(shard);
        }
        let heads = self.ledger.heads(self.shards.iter().copied());
        self.v1_reach(&heads, tally).await;
        tally.converged(began.elapsed());
        for process in &self.v0 {
            if let Err(late) = process.reach(&heads).await {
                tally.violated("convergence", &format!("{}: {late}", process.name()));
            }
        }
    }

    /// A v1 process writes every shard, and all of it is lost with its
    /// connection: the others learn of it because it is announced again.
    async fn lose_the_last_diffs(&self) -> Result<(), TimedOut> {
        let (Some(process), Some(proxy)) = (self.v1.first(), self.proxies.get(self.first_v1))
        else {
            return Ok(());
        };
        proxy.pass(Way::ToServer, Passing::Held);
        let due = process.stats().sent + self.shards.len() as u64;
        for &shard in &self.shards {
            process.write(shard);
        }
        let sent = until("the last diffs to be sent", async || {
            (process.stats().sent >= due).then_some(())
        })
        .await;
        proxy.cut(Cut::Reset);
        proxy.pass_freely();
        sent
    }

    /// The heads of the shards that a v1 process wrote last.
    fn heads_by_v1(&self) -> BTreeMap<ShardId, u64> {
        let mut heads = self.ledger.heads(self.shards.iter().copied());
        for process in &self.v0 {
            let wrote = process.account().wrote;
            heads.retain(|shard, head| wrote.get(shard) != Some(head));
        }
        heads
    }

    async fn v1_reach(&self, heads: &BTreeMap<ShardId, u64>, tally: &mut Tally) {
        for process in &self.v1 {
            if let Err(late) = process.reach(heads).await {
                tally.violated("convergence", &format!("{}: {late}", process.name()));
            }
        }
    }

    /// What the server uses. A server that cannot be asked is no violation.
    pub(crate) async fn measure(&self, tally: &mut Tally) {
        if let Ok(kib) = self.server.resident_kib() {
            tally.memory(kib / 1024);
        }
        let metrics = async {
            let operator = Operator::connect(&self.server).await.ok()?;
            let held = operator.metric("persist_pubsub_log_bytes").await.ok()?;
            let limit = operator
                .metric("persist_pubsub_log_bytes_limit")
                .await
                .ok()?;
            Some((held, limit))
        };
        if let Ok(Some((held, limit))) = tokio::time::timeout(SECOND, metrics).await {
            tally.log_bytes(held, limit);
        }
    }

    /// The last server has nobody left once everybody is gone, and ends when
    /// it is told to.
    pub(crate) async fn end(&mut self, tally: &mut Tally) -> Result<(), Failure> {
        crate::verdict::collect(self, tally);
        self.traffic = Traffic::new(Script::read()?, BTreeMap::new());
        self.v1.clear();
        self.v0.clear();
        self.proxies.clear();
        let operator = Operator::connect(&self.server).await?;
        let gone = until("all sessions to be gone", async || {
            operator.sessions().await.ok()?.is_empty().then_some(())
        });
        if let Err(late) = gone.await {
            tally.violated("leaving", &late.to_string());
        }
        self.server.terminate().await?;
        let status = self.server.wait().await?;
        tally.server_ended(&self.server.log(), Some(status));
        Ok(())
    }
}

fn config(url: &str) -> Result<Config, Failure> {
    Ok(Config::new(url)?
        .backoff(Duration::from_millis(50), SECOND)?
        .connect_timeout(2 * SECOND)
        .handshake_timeout(2 * SECOND)
        .keepalive(SECOND, 2 * SECOND))
}
