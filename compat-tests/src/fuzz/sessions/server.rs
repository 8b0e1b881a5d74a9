//! The real server without a network: its connections are pipes within the
//! process, on a clock that stands still while anything can be done.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::LazyLock;
use std::time::Duration;

use persist_pubsub_server::app::{self, Server};
use persist_pubsub_server::config::Config;
use persist_pubsub_server::{Accept, Clock, DrainOutcome};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::{mpsc, oneshot};

/// Bytes in a pipe each way.
const PIPE: usize = 64 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: usize = 16;

/// Hands out the other ends of pipes.
struct Listener(mpsc::Receiver<DuplexStream>);

impl Accept for Listener {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, SocketAddr)> {
        match self.0.recv().await {
            Some(pipe) => Ok((pipe, address())),
            // Nobody connects any more.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(address())
    }
}

fn address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 1))
}

/// A server with small bounds.
pub(super) struct InMemory {
    data: mpsc::Sender<DuplexStream>,
    admin: mpsc::Sender<DuplexStream>,
    stop: oneshot::Sender<()>,
    server: Server,
    pub(super) config: Config,
}

impl InMemory {
    pub(super) async fn start() -> Self {
        let (data, data_pipes) = mpsc::channel(BACKLOG);
        let (admin, admin_pipes) = mpsc::channel(BACKLOG);
        let (stop, stopped) = oneshot::channel::<()>();
        static BOUNDS: LazyLock<Config> = LazyLock::new(bounds);
        let config = BOUNDS.clone();
        let server = app::start_on(
            config.clone(),
            Listener(data_pipes),
            Listener(admin_pipes),
            Clock::system(),
            async {
                // Dropped or told: either way it is to stop.
                let _ = stopped.await;
            },
        );
        let server = match server.await {
            Ok(server) => server,
            Err(error) => panic!("{error}"),
        };
        Self {
            data,
            admin,
            stop,
            server,
            config,
        }
    }

    /// A connection to the data port. None: nobody accepts.
    pub(super) fn connect(&self) -> Option<DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(PIPE);
        self.data.try_send(theirs).ok().map(|()| ours)
    }

    /// What `/metrics` says.
    pub(super) async fn metrics(&self) -> Metrics {
        let (mut ours, theirs) = tokio::io::duplex(PIPE);
        assert!(self.admin.try_send(theirs).is_ok(), "no admin port");
        let request = b"GET /metrics HTTP/1.1\r\nHost: fuzz\r\nConnection: close\r\n\r\n";
        let mut answer = String::new();
        let written = ours.write_all(request).await;
        let read = ours.read_to_string(&mut answer).await;
        assert!(written.is_ok() && read.is_ok(), "{answer}");
        Metrics(answer)
    }

    /// Stops it. Everything has gone by now: it has nothing to wait for.
    pub(super) async fn stop(self) {
        let _ = self.stop.send(());
        assert_eq!(self.server.wait().await, DrainOutcome::Complete);
    }
}

/// A scrape.
pub(super) struct Metrics(String);

impl Metrics {
    /// A gauge without labels.
    pub(super) fn gauge(&self, name: &str) -> usize {
        let value = self
            .0
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {}", self.0))
    }
}

/// Bounds that a short input can meet.
fn bounds() -> Config {
    let mut config = Config::default();
    config.max_shards = 12;
    config.max_sessions = 9;
    config.max_connections = 6;
    config.max_handshakes = 3;
    config.max_streams_per_connection = 5;
    config.max_empty_frames_per_second = 100;
    config.max_subscriptions_per_session = 6;
    config.max_shards_per_request = 4;
    config.max_control_frames = 3;
    config.max_message_bytes = 2 * 1024;
    config.max_diff_bytes = 600;
    config.log_entries_per_shard = 8;
    config.log_bytes_per_shard = 4 * 1024;
    config.log_bytes_total = 10 * 1024;
    config.log_age = Duration::from_secs(2);
    config.v0_replay_window = Duration::from_secs(1);
    config.handshake_timeout = Duration::from_secs(2);
    config.idle_timeout = Duration::from_secs(4);
    // The peers of these runs send none.
    config.heartbeat_interval = Duration::from_secs(3600);
    config
}
