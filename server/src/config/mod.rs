//! The settings: flags and environment variables, validated.

mod access;
mod backplane;
mod check;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use persist_pubsub_proto::v0;

use crate::frame::PREFIX;
use crate::generation::Census;
pub use crate::generation::{InvalidRule, V0Generation};
use crate::listener::ConnectionLimits;
use crate::registry::RegistryLimits;
use crate::service::ServiceLimits;
use crate::session::SessionLimits;
use crate::topic::TopicLimits;
use crate::units::{duration, size};

pub use access::AccessConfig;
pub use backplane::BackplaneConfig;
pub(crate) use backplane::Login;

/// Connections on the operators' port: people, dashboards, probes and
/// Prometheus.
const ADMIN_CONNECTIONS: usize = 256;
/// Of these, those without a request yet.
const ADMIN_HANDSHAKES: usize = 64;
/// Requests of one of them at a time.
const ADMIN_STREAMS: u32 = 32;

/// Everything that can be set. Each setting is a flag, `--log-age`, and an
/// environment variable, `PERSIST_PUBSUB_LOG_AGE`; the flag wins. Durations
/// read `50ms`, `10s`, `1m 30s`; sizes `512KiB`, `64MiB`.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[non_exhaustive]
pub struct Config {
    /// Address of the data port: gRPC, both wire versions
    #[arg(
        long,
        value_name = "IP:PORT",
        env = "PERSIST_PUBSUB_LISTEN",
        default_value = "127.0.0.1:6879"
    )]
    pub listen: SocketAddr,
    /// Address of the operators' port: gRPC Admin, /metrics, /livez, /readyz
    #[arg(
        long,
        value_name = "IP:PORT",
        env = "PERSIST_PUBSUB_ADMIN_LISTEN",
        default_value = "127.0.0.1:6880"
    )]
    pub admin_listen: SocketAddr,
    /// Write the addresses, once served, to this file as JSON
    #[arg(long, value_name = "PATH", env = "PERSIST_PUBSUB_ADDRESSES_FILE")]
    pub addresses_file: Option<PathBuf>,
    /// Environment of v0 sessions, and of v1 sessions that name none
    #[arg(
        long,
        value_name = "NAME",
        env = "PERSIST_PUBSUB_V0_ENVIRONMENT",
        default_value = "default"
    )]
    pub v0_environment: String,
    /// Of which generation a v0 session is, by its caller id: PATTERN=GENERATION, or a PATTERN with {generation} where the number stands; * is anything. Several, or separated by commas; the first that tells decides
    #[arg(
        long,
        value_name = "RULE",
        value_delimiter = ',',
        env = "PERSIST_PUBSUB_V0_GENERATION"
    )]
    pub v0_generation: Vec<V0Generation>,
    /// Keep the fences in this file, so that they survive a restart
    #[arg(long, value_name = "PATH", env = "PERSIST_PUBSUB_STATE_FILE")]
    pub state_file: Option<PathBuf>,

    /// How long a diff that comes before its predecessor waits for it; 0s: not at all
    #[arg(help_heading = "Order", long, value_name = "DURATION", value_parser = duration, env = "PERSIST_PUBSUB_REORDER_WINDOW", default_value = "50ms")]
    pub reorder_window: Duration,
    /// How far back a v0 session is sent diffs again when it subscribes
    #[arg(help_heading = "Order", long, value_name = "DURATION", value_parser = duration, env = "PERSIST_PUBSUB_V0_REPLAY_WINDOW", default_value = "10s")]
    pub v0_replay_window: Duration,
    /// A seqno further than this from its shard's head is doubted until others follow it
    #[arg(
        help_heading = "Order",
        long,
        value_name = "SEQNOS",
        env = "PERSIST_PUBSUB_MAX_SEQNO_JUMP",
        default_value_t = 1000
    )]
    pub max_seqno_jump: u64,
    /// For so long at least
    #[arg(help_heading = "Order", long, value_name = "DURATION", value_parser = duration, env = "PERSIST_PUBSUB_JUMP_CONFIRM", default_value = "1s")]
    pub jump_confirm: Duration,

    /// Diffs kept per shard
    #[arg(
        help_heading = "Log",
        long,
        value_name = "COUNT",
        env = "PERSIST_PUBSUB_LOG_ENTRIES_PER_SHARD",
        default_value_t = 16_384
    )]
    pub log_entries_per_shard: usize,
    /// Memory of a shard's diffs
    #[arg(help_heading = "Log", long, value_name = "SIZE", value_parser = size, env = "PERSIST_PUBSUB_LOG_BYTES_PER_SHARD", default_value = "64MiB")]
    pub log_bytes_per_shard: usize,
    /// Memory of all diffs; the oldest go first
    #[arg(help_heading = "Log", long, value_name = "SIZE", value_parser = size, env = "PERSIST_PUBSUB_LOG_BYTES_TOTAL", default_value = "256MiB")]
    pub log_bytes_total: usize,
    /// How long a diff is kept
    #[arg(help_heading = "Log", long, value_name = "DURATION", value_parser = duration, env = "PERSIST_PUBSUB_LOG_AGE", default_value = "60s")]
    pub log_age: Duration,
    /// Shards held: those with subscribers or recent diffs; with more, what nobody subscribes to goes first
    #[arg(
        help_heading = "Log",
        long,
        value_name = "COUNT",
        env = "PERSIST_PUBSUB_MAX_SHARDS",
        default_value_t = 1_000_000
    )]
    pub max_shards: usize,
    /// Largest diff relayed; of a larger one v1 sessions are told as a gap, v0 sessions nothing
    #[arg(help_heading = "Log", long, value_name = "SIZE", value_parser = size, env = "PERSIST_PUBSUB_MAX_DIFF_BYTES", default_value = "4095KiB")]
    pub max_diff_bytes: usize,

    /// Sessions
    #[arg(
        help_heading = "Sessions",
        long,
        value_name = "COUNT",
        env = "PERSIST_PUBSUB_MAX_SESSIONS",
        default_value_t = 10_000
    )]
    pub max_sessions: usize,
    /// Shards that one session may be subscribed to
    #[arg(
        help_heading = "Sessions",
        long,
        value_name = "COUNT",
        env = "PERSIST_PUBSUB_MAX_SUBSCRIPTIONS_PER_SESSION",
        default_value_t = 100_000
    )]
    pub max_subscriptions_per_session: usize,
    /// Shards in one v1 Subscribe or Unsubscribe
    #[arg(
        help_heading = "Sessions",
        long,
        value_name = "COUNT",
        env = "PERSIST_PUBSUB_MAX_SHARDS_PER_REQUEST",
        default_value_t = 10_000
    )]
    pub max_shards_per_request: usize,
    /// Largest message taken from a client
    #[arg(help_heading = "Sessions", long, value_name = "SIZE", value_parser = size, env = "PERSIST_PUBSUB_MAX_MESSAGE_BYTES", default_value = "16MiB")]
    pub max_message_bytes: usize,
    /// Answers that may wait for a client to read them before the client is not read any more
    #[arg(
        help_heading = "Sessions",
        long,
        value_name = "COUNT",
        env = "PERSIST_PUBSUB_MAX_CONTROL_FRAMES",
        default_value_t = 1024
    )]
    pub max_control_frames: usize,
    /// Ranges of its own publications that a v1 session may be behind with in reading; with more it is ended, and resumes
    #[arg(
        help_heading = "Sessions",
        long,
        value_name = "COUNT",
        env = "PERSIST_PUBSUB_MAX_OWN_RANGES_PER_SESSION",
        default_value_t = 16_384
    )]
    pub max_own_ranges_per_session: usize,
    /// Either end of a v1 session says something this often; three of silence end it
    #[arg(help_heading = "Sessions", long, value_name = "DURATION", value_parser = duration, env = "PERSIST_PUBSUB_HEARTBEAT_INTERVAL", default_value = "5s")]
    pub heartbeat_interval: Duration,

    /// Connections on the data port
    #[arg(
        help_heading = "Connections",
        long,
        value_name = "COUNT",
        env = "PERSIST_PUBSUB_MAX_CONNECTIONS",
        default_value_t = 10_000
    )]
    pub max_connections: usize,
    /// Connections that have not brought a request yet; the slowest makes room for the next
    #[arg(
        help_heading = "Connections",
        long,
        value_name = "COUNT",
        env = "PERSIST_PUBSUB_MAX_HANDSHAKES",
        default_value_t = 1000
    )]
    pub max_handshakes: usize,
    /// HTTP/2 frames without a message that a connection is read of in a second; with more it is read slower
    #[arg(
        help_heading = "Connections",
        long,
        value_name = "COUNT",
        env = "PERSIST_PUBSUB_MAX_EMPTY_FRAMES_PER_SECOND",
        default_value_t = 10_000
    )]
    pub max_empty_frames_per_second: u32,
    /// Streams of one connection
    #[arg(
        help_heading = "Connections",
        long,
        value_name = "COUNT",
        env = "PERSIST_PUBSUB_MAX_STREAMS_PER_CONNECTION",
        default_value_t = 100
    )]
    pub max_streams_per_connection: u32,
    /// Headers of one request
    #[arg(help_heading = "Connections", long, value_name = "SIZE", value_parser = size, env = "PERSIST_PUBSUB_MAX_HEADER_BYTES", default_value = "16KiB")]
    pub max_header_bytes: usize,
    /// How long a connection may take to its first request, and a v1 session to its Hello
    #[arg(help_heading = "Connections", long, value_name = "DURATION", value_parser = duration, env = "PERSIST_PUBSUB_HANDSHAKE_TIMEOUT", default_value = "10s")]
    pub handshake_timeout: Duration,
    /// How long a connection without streams is kept
    #[arg(help_heading = "Connections", long, value_name = "DURATION", value_parser = duration, env = "PERSIST_PUBSUB_IDLE_TIMEOUT", default_value = "5m")]
    pub idle_timeout: Duration,
    /// How often a connection is asked whether it lives (HTTP/2 ping)
    #[arg(help_heading = "Connections", long, value_name = "DURATION", value_parser = duration, env = "PERSIST_PUBSUB_KEEPALIVE", default_value = "10s")]
    pub keepalive: Duration,
    /// How long the answer may take before the connection is closed
    #[arg(help_heading = "Connections", long, value_name = "DURATION", value_parser = duration, env = "PERSIST_PUBSUB_KEEPALIVE_TIMEOUT", default_value = "5s")]
    pub keepalive_timeout: Duration,

    /// On SIGTERM or SIGINT: how long clients are given to move to another server
    #[arg(help_heading = "Drain", long, value_name = "DURATION", value_parser = duration, env = "PERSIST_PUBSUB_DRAIN_WINDOW", default_value = "5s")]
    pub drain_window: Duration,
    /// After which the process ends, whatever is left
    #[arg(help_heading = "Drain", long, value_name = "DURATION", value_parser = duration, env = "PERSIST_PUBSUB_DRAIN_TIMEOUT", default_value = "20s")]
    pub drain_timeout: Duration,

    /// Who gets in
    #[command(flatten)]
    pub access: AccessConfig,

    /// The link to other replicas
    #[command(flatten)]
    pub backplane: BackplaneConfig,
}

/// A setting that cannot be. A retry cannot help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid value '{value}' for '{flag}': {allowed}")]
pub struct InvalidConfig {
    /// The flag.
    pub flag: &'static str,
    /// Its value.
    pub value: String,
    /// What is allowed.
    pub allowed: String,
}

impl Default for Config {
    /// The defaults, without a look at flags or environment, but for the
    /// addresses: loopback, on ports that are free.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            ..defaults()
        }
    }
}

/// The defaults as `--help` states them.
fn defaults() -> Config {
    #[derive(clap::Parser)]
    struct Alone {
        #[command(flatten)]
        config: Config,
    }
    use clap::{CommandFactory, FromArgMatches};
    let matches = Alone::command()
        .mut_args(|arg| arg.env(clap::builder::Resettable::Reset))
        .get_matches_from(["persist-pubsub"]);
    match Alone::from_arg_matches(&matches) {
        Ok(alone) => alone.config,
        // Defaults that do not parse are shown by every start and every test.
        Err(e) => e.exit(),
    }
}

impl Config {
    pub(crate) fn registry_limits(&self) -> RegistryLimits {
        RegistryLimits {
            topic: TopicLimits {
                reorder_window: self.reorder_window,
                v0_replay_window: self.v0_replay_window,
                log_entries: self.log_entries_per_shard,
                log_bytes: self.log_bytes_per_shard,
                max_seqno_jump: self.max_seqno_jump,
                jump_confirm: self.jump_confirm,
                v0_max_frame_bytes: v0::MAX_MESSAGE_BYTES + PREFIX,
            },
            log_age: self.log_age,
            log_bytes_total: self.log_bytes_total,
            max_topics: self.max_shards,
            max_diff_bytes: self.max_diff_bytes,
        }
    }

    pub(crate) fn census(&self) -> Census {
        Census::new(self.max_sessions)
    }

    pub(crate) fn session_limits(&self) -> SessionLimits {
        SessionLimits {
            max_subscriptions: self.max_subscriptions_per_session,
            max_control_frames: self.max_control_frames,
            max_own_ranges: self.max_own_ranges_per_session,
        }
    }

    pub(crate) fn service_limits(&self) -> ServiceLimits {
        ServiceLimits {
            max_message_bytes: self.max_message_bytes,
            max_diff_bytes: self.max_diff_bytes,
            max_shards_per_request: self.max_shards_per_request,
            handshake_timeout: self.handshake_timeout,
            heartbeat_interval: self.heartbeat_interval,
            v0_environment: self.v0_environment.clone(),
            v0_generations: self.v0_generation.clone(),
        }
    }

    pub(crate) fn connection_limits(&self) -> ConnectionLimits {
        ConnectionLimits {
            http1: false,
            max_connections: self.max_connections,
            max_handshakes: self.max_handshakes,
            max_empty_frames_per_second: self.max_empty_frames_per_second,
            max_streams_per_connection: self.max_streams_per_connection,
            // At most 1 MiB, by `validate`.
            max_header_bytes: u32::try_from(self.max_header_bytes).unwrap_or(u32::MAX),
            handshake_timeout: self.handshake_timeout,
            idle_timeout: self.idle_timeout,
            keepalive: self.keepalive,
            keepalive_timeout: self.keepalive_timeout,
        }
    }

    /// Of the operators' port, which speaks HTTP/1 too.
    pub(crate) fn admin_connection_limits(&self) -> ConnectionLimits {
        ConnectionLimits {
            http1: true,
            max_connections: ADMIN_CONNECTIONS,
            max_handshakes: ADMIN_HANDSHAKES,
            max_streams_per_connection: ADMIN_STREAMS,
            ..self.connection_limits()
        }
    }
}
