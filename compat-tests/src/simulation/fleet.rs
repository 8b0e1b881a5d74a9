//! The servers of a simulation, and where clients find them.

use std::collections::BTreeMap;
use std::time::Duration;

use persist_pubsub_server::app::{self, Server};
use persist_pubsub_server::config::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::clock::SimClock;
use super::net::{Host, Net, OPERATOR, admin_port, data_port};
use super::world::World;

/// The homes that there are: a name, and the hosts that its servers run on, one
/// after the other.
const HOMES: [(&str, [Host; 3]); 2] = [("pubsub", [1, 2, 3]), ("another", [4, 5, 6])];

/// The names of the homes.
pub(super) fn name(home: usize) -> &'static str {
    HOMES[home].0
}

/// The servers of a home. The last to be started is the one that clients are led to.
pub(super) struct Fleet {
    net: Net,
    world: World,
    home: usize,
    pub(super) clock: SimClock,
    config: Config,
    serving: Option<Serving>,
    /// Told to go.
    leaving: Vec<(Host, JoinHandle<()>)>,
    next: usize,
    /// Of their one environment. The servers have no state file: this is it.
    fence: Option<u64>,
}

struct Serving {
    host: Host,
    server: Server,
    stop: oneshot::Sender<()>,
}

impl Fleet {
    pub(super) fn new(net: &Net, world: &World, config: Config, home: usize) -> Self {
        Self {
            home,
            net: net.clone(),
            world: world.clone(),
            clock: SimClock::default(),
            config,
            serving: None,
            leaving: Vec::new(),
            next: 0,
            fence: None,
        }
    }

    pub(super) fn host(&self) -> Option<Host> {
        self.serving.as_ref().map(|serving| serving.host)
    }

    /// Starts a server on the next host. What still runs there is cut.
    pub(super) async fn start(&mut self) {
        let (name, hosts) = HOMES[self.home];
        let host = hosts[self.next % hosts.len()];
        self.next += 1;
        self.leaving.retain(|(there, task)| {
            if *there == host {
                task.abort();
            }
            *there != host
        });
        self.net.kill(host);
        let (data, admin) = (
            self.net.listen(data_port(host)),
            self.net.listen(admin_port(host)),
        );
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let clock = self.clock.for_server();
        match app::start_on(self.config.clone(), data, admin, clock, shutdown).await {
            Ok(server) => {
                self.world.saw(format_args!("server {host} serves"));
                raise(&self.world, &server, self.fence);
                self.net.point(name, &[host]);
                self.serving = Some(Serving { host, server, stop });
            }
            Err(error) => self
                .world
                .violated("convergence", format_args!("no server: {error}")),
        }
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self) {
        if let Some(serving) = self.serving.take() {
            self.world
                .saw(format_args!("server {} is killed", serving.host));
            self.net.kill(serving.host);
            drop(serving.server);
        }
    }

    /// Raises the fence, of the server that there is and of those to come.
    pub(super) fn fence(&mut self, generation: u64) {
        self.world.saw(format_args!(
            "generations below {generation} are fenced out"
        ));
        self.fence = Some(generation);
        if let Some(serving) = &self.serving {
            raise(&self.world, &serving.server, self.fence);
        }
    }

    /// SIGTERM: it drains, and then its host is gone.
    pub(super) fn drain(&mut self) {
        let Some(Serving { host, server, stop }) = self.serving.take() else {
            return;
        };
        self.world.saw(format_args!("server {host} is told to go"));
        // It waits for it: it is there.
        let _ = stop.send(());
        let (net, world) = (self.net.clone(), self.world.clone());
        let task = tokio::spawn(async move {
            let outcome = server.wait().await;
            world.saw(format_args!("server {host} has gone: {outcome:?}"));
            net.kill(host);
        });
        self.leaving.push((host, task));
    }

    /// What `/metrics` of the server says, summed over labels.
    pub(super) async fn scrape(&self) -> Option<BTreeMap<String, f64>> {
        let host = self.host()?;
        let scraped = timeout(Duration::from_secs(5), async {
            let mut socket = self.net.connect(OPERATOR, admin_port(host)).await?;
            socket
                .write_all(b"GET /metrics HTTP/1.1\r\nhost: sim\r\nconnection: close\r\n\r\n")
                .await?;
            let mut text = String::new();
            socket.read_to_string(&mut text).await?;
            std::io::Result::Ok(text)
        })
        .await;
        let Ok(Ok(text)) = scraped else {
            self.world
                .violated("advisory", format_args!("no metrics: {scraped:?}"));
            return None;
        };
        let mut sums = BTreeMap::new();
        for line in text.lines() {
            let Some((series, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let name = series.split('{').next().unwrap_or(series);
            if let Ok(value) = value.parse::<f64>() {
                *sums.entry(name.to_owned()).or_insert(0.0) += value;
            }
        }
        Some(sums)
    }

    /// Checks the bounds that metrics show.
    pub(super) async fn check_bounds(&self) {
        let Some(metrics) = self.scrape().await else {
            return;
        };
        let of = |name: &str| metrics.get(name).copied().unwrap_or(0.0);
        let bounds = [
            ("persist_pubsub_log_bytes", self.config.log_bytes_total),
            ("persist_pubsub_shards", self.config.max_shards),
            (
                "mz_persist_pubsub_server_active_connections",
                self.config.max_sessions,
            ),
            ("persist_pubsub_connections", self.config.max_connections),
        ];
        for (name, bound) in bounds {
            if of(name) > bound as f64 {
                let value = of(name);
                self.world.violated(
                    "isolation",
                    format_args!("{name} is {value}, above {bound}"),
                );
            }
        }
    }

    /// Everybody has gone: nothing may be left of them.
    pub(super) async fn check_empty(&self) {
        let Some(metrics) = self.scrape().await else {
            return;
        };
        for name in [
            "mz_persist_pubsub_server_active_connections",
            "persist_pubsub_subscriptions",
            "persist_pubsub_connections",
            "persist_pubsub_log_bytes",
            "persist_pubsub_shards",
        ] {
            match metrics.get(name) {
                Some(0.0) => {}
                left => self.world.violated(
                    "isolation",
                    format_args!("{name} is {left:?}, nobody is left"),
                ),
            }
        }
    }
}

fn raise(world: &World, server: &Server, fence: Option<u64>) {
    if let Some(generation) = fence
        && let Err(error) = server.fence("default", generation)
    {
        world.violated("fence", format_args!("it cannot be raised: {error}"));
    }
}
