//! What a client is told when it is made. Every bound has a name, a default
//! and a unit.

use std::fmt;
use std::time::Duration;

use tonic::transport::Uri;

/// The port that an endpoint without one means.
pub const DEFAULT_PORT: u16 = 6879;

/// No setting of time is longer: clocks can add it without overflowing.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// `Hello`'s texts are cut to this many bytes, as the protocol bounds them.
const MAX_TEXT_BYTES: usize = 256;

/// How to reach a server, who to be there, and every bound.
///
/// ```
/// use std::time::Duration;
/// use persist_pubsub_client::{Config, Mode};
///
/// let config = Config::new("http://persist-pubsub:6879")?
///     .client_name("environmentd")
///     .environment_id("aws-us-east-1-4f2a-0")
///     .deploy_generation(17)
///     .mode(Mode::ReadWrite)
///     .backoff(Duration::from_millis(100), Duration::from_secs(10))?;
/// # Ok::<(), persist_pubsub_client::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) endpoint: Uri,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) client_name: String,
    pub(crate) client_version: String,
    pub(crate) client_build: String,
    pub(crate) environment_id: String,
    pub(crate) deploy_generation: u64,
    pub(crate) role: String,
    pub(crate) mode: Mode,
    pub(crate) wire: WirePreference,
    pub(crate) backoff_first: Duration,
    pub(crate) backoff_cap: Duration,
    pub(crate) stable_after: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) keepalive_interval: Duration,
    pub(crate) keepalive_timeout: Duration,
    pub(crate) push_buffer_bytes: usize,
    pub(crate) push_buffer_count: usize,
    pub(crate) reannounce_window: Duration,
    pub(crate) reannounce_shards: usize,
    pub(crate) event_buffer_bytes: u32,
    pub(crate) event_buffer_count: usize,
    pub(crate) merge_grace: Duration,
    pub(crate) merge_buffer_bytes: usize,
    pub(crate) merge_buffer_count: usize,
    pub(crate) resync_spread: Duration,
    pub(crate) subscribe_timeout: Duration,
}

/// Whether the process may publish (`SessionMode` of the protocol).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It subscribes alone. Pushes are dropped at once, and counted.
    ReadOnly,
    /// It publishes and subscribes.
    ReadWrite,
}

/// Which wire version to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WirePreference {
    /// v1, and v0 against a server that does not have v1. Decided anew at
    /// every attempt.
    Auto,
    /// v1 or nothing.
    V1,
    /// v0 alone.
    V0,
}

/// A setting that cannot be used. A retry cannot help.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// The endpoint is not `http://host:port`.
    Endpoint {
        /// As it was given.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The backoff's first delay is zero or above its cap.
    Backoff {
        /// The first delay.
        first: Duration,
        /// The cap.
        cap: Duration,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint { endpoint, reason } => write!(
                f,
                "endpoint {endpoint:?}: {reason}; expected http://host:port"
            ),
            Self::Backoff { first, cap } => write!(
                f,
                "backoff from {first:?} to {cap:?}: the first delay has to be above 0 and at most the cap"
            ),
        }
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// The defaults, for the server at `endpoint`: `http://host:port`, or
    /// `host:port`, or a host alone (port 6879). The host is looked up
    /// anew at every attempt to connect, not here.
    ///
    /// # Errors
    /// [`ConfigError::Endpoint`] if it does not parse, names no host, or
    /// asks for anything but plain HTTP/2.
    pub fn new(endpoint: &str) -> Result<Self, ConfigError> {
        let refuse = |reason: String| ConfigError::Endpoint {
            endpoint: endpoint.to_owned(),
            reason,
        };
        let full = if endpoint.contains("://") {
            endpoint.to_owned()
        } else {
            format!("http://{endpoint}")
        };
        let uri: Uri = full
            .parse()
            .map_err(|error| refuse(format!("does not parse ({error})")))?;
        if uri.scheme_str() != Some("http") {
            return Err(refuse("only http is spoken".to_owned()));
        }
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let bare = uri.host().unwrap_or_default();
        let expected = uri
            .port_u16()
            .map_or_else(|| bare.to_owned(), |port| format!("{bare}:{port}"));
        if authority != expected || uri.path_and_query().is_some_and(|path| path != "/") {
            return Err(refuse("holds more than a host and a port".to_owned()));
        }
        // A literal IPv6 address stands in brackets, which a look-up does not
        // take.
        let host = bare
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        if host.is_empty() {
            return Err(refuse("names no host".to_owned()));
        }
        Ok(Self {
            port: uri.port_u16().unwrap_or(DEFAULT_PORT),
            host,
            endpoint: uri,
            client_name: "persist-pubsub-client".to_owned(),
            client_version: env!("CARGO_PKG_VERSION").to_owned(),
            client_build: String::new(),
            environment_id: String::new(),
            deploy_generation: 0,
            role: String::new(),
            mode: Mode::ReadWrite,
            wire: WirePreference::Auto,
            backoff_first: Duration::from_millis(100),
            backoff_cap: Duration::from_secs(10),
            stable_after: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(5),
            push_buffer_bytes: 16 * 1024 * 1024,
            push_buffer_count: 65_536,
            reannounce_window: Duration::from_secs(60),
            reannounce_shards: 16_384,
            event_buffer_bytes: 64 * 1024 * 1024,
            event_buffer_count: 16_384,
            merge_grace: Duration::from_secs(1),
            merge_buffer_bytes: 16 * 1024 * 1024,
            merge_buffer_count: 16_384,
            resync_spread: Duration::from_secs(2),
            subscribe_timeout: Duration::from_secs(10),
        })
    }

    /// The process's name, for people: "environmentd". In v0 it is the caller
    /// id. Cut to 256 bytes, as are the other texts. Default:
    /// "persist-pubsub-client".
    #[must_use]
    pub fn client_name(mut self, name: &str) -> Self {
        self.client_name = cut(name, MAX_TEXT_BYTES).to_owned();
        self
    }

    /// The process's version, for people. Default: this crate's.
    #[must_use]
    pub fn client_version(mut self, version: &str) -> Self {
        self.client_version = cut(version, MAX_TEXT_BYTES).to_owned();
        self
    }

    /// The process's build (commit), for people. Default: empty.
    #[must_use]
    pub fn client_build(mut self, build: &str) -> Self {
        self.client_build = cut(build, MAX_TEXT_BYTES).to_owned();
        self
    }

    /// The environment whose shards are meant; environments never hear each
    /// other. Default: empty, the one that the server gives v0 sessions.
    #[must_use]
    pub fn environment_id(mut self, id: &str) -> Self {
        self.environment_id = cut(id, MAX_TEXT_BYTES).to_owned();
        self
    }

    /// The deploy generation of the process. Default: 0, unknown.
    #[must_use]
    pub fn deploy_generation(mut self, generation: u64) -> Self {
        self.deploy_generation = generation;
        self
    }

    /// The process's role: "environmentd", "clusterd" or another. Default:
    /// empty.
    #[must_use]
    pub fn role(mut self, role: &str) -> Self {
        self.role = cut(role, MAX_TEXT_BYTES).to_owned();
        self
    }

    /// Whether the process may publish. Default: [`Mode::ReadWrite`].
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Which wire version to speak. Default: [`WirePreference::Auto`].
    #[must_use]
    pub fn wire(mut self, wire: WirePreference) -> Self {
        self.wire = wire;
        self
    }

    /// The delays between attempts to connect: the first, and the cap to
    /// which they double. Each is jittered to between half of it and all of
    /// it. Defaults: 100 ms, 10 s.
    ///
    /// # Errors
    /// [`ConfigError::Backoff`] if the first is zero or above the cap.
    pub fn backoff(mut self, first: Duration, cap: Duration) -> Result<Self, ConfigError> {
        if first.is_zero() || first > cap {
            return Err(ConfigError::Backoff { first, cap });
        }
        self.backoff_first = first.min(LONGEST);
        self.backoff_cap = cap.min(LONGEST);
        Ok(self)
    }

    /// How long a session has to live before the delays begin again from the
    /// first. Default: 10 s.
    #[must_use]
    pub fn stable_after(mut self, after: Duration) -> Self {
        self.stable_after = after.min(LONGEST);
        self
    }

    /// How long the look-up of the name and the connection may take together.
    /// At least 1 ms; default 5 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = bounded(timeout);
        self
    }

    /// How long the server may take from there to its `Welcome`. At least
    /// 1 ms; default 5 s.
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = bounded(timeout);
        self
    }

    /// How often the connection is pinged (HTTP/2), and how long the answer
    /// may take before it is given up. At least 1 ms each; defaults 10 s and
    /// 5 s.
    #[must_use]
    pub fn keepalive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.keepalive_interval = bounded(interval);
        self.keepalive_timeout = bounded(timeout);
        self
    }

    /// What may wait to be sent: bytes of diffs (64 more are counted for
    /// each) and number. Beyond it the oldest are dropped, and their shards'
    /// newest seqno is announced instead. Defaults: 16 MiB, 65,536.
    #[must_use]
    pub fn push_buffer(mut self, bytes: usize, count: usize) -> Self {
        self.push_buffer_bytes = bytes;
        self.push_buffer_count = count;
        self
    }

    /// After a lost connection the newest seqno of every shard that was
    /// published within `window` before is announced, for at most about
    /// `shards` shards; the same number bounds the shards whose dropped
    /// pushes are announced. Defaults: 60 s, 16,384.
    #[must_use]
    pub fn reannounce(mut self, window: Duration, shards: usize) -> Self {
        self.reannounce_window = window.min(LONGEST);
        self.reannounce_shards = shards;
        self
    }

    /// What may wait to be read from [`Events`](crate::Events): bytes of
    /// diffs (64 more are counted for each event) and number. When it is full
    /// the network is not read, and HTTP/2's flow control makes the server
    /// wait. At least 1 each, bytes at most 4 GiB; defaults 64 MiB, 16,384.
    #[must_use]
    pub fn event_buffer(mut self, bytes: usize, count: usize) -> Self {
        self.event_buffer_bytes = u32::try_from(bytes).unwrap_or(u32::MAX).max(1);
        self.event_buffer_count = count.clamp(1, 1 << 24);
        self
    }

    /// While two sessions live, because a server drains: how long what one
    /// does not have may be awaited from the other before it is told as a
    /// gap. A diff that follows what was told is never delayed. Default: 1 s,
    /// which is about the time until the host's own poll would have found it.
    #[must_use]
    pub fn merge_grace(mut self, grace: Duration) -> Self {
        self.merge_grace = grace.min(LONGEST);
        self
    }

    /// What may wait meanwhile: bytes of diffs (64 more are counted for each)
    /// and number, over all shards. Beyond it the gap is told at once.
    /// Defaults: 16 MiB, 16,384.
    #[must_use]
    pub fn merge_buffer(mut self, bytes: usize, count: usize) -> Self {
        self.merge_buffer_bytes = bytes;
        self.merge_buffer_count = count;
        self
    }

    /// After a reconnect to a server that has forgotten, each shard's
    /// [`Resync`](crate::Event::Resync) comes at a random moment within this
    /// time. Default: 2 s, for a host whose own poll reads every shard each
    /// 1.2 s: so the fetches cost the store no more than the outage did.
    #[must_use]
    pub fn resync_spread(mut self, spread: Duration) -> Self {
        self.resync_spread = spread.min(LONGEST);
        self
    }

    /// How long a server that is alive may leave a subscribe unanswered before
    /// its session is replaced. At least 1 ms; default 10 s, since after a
    /// restart it has all its clients' to answer.
    #[must_use]
    pub fn subscribe_timeout(mut self, timeout: Duration) -> Self {
        self.subscribe_timeout = bounded(timeout);
        self
    }
}

fn bounded(time: Duration) -> Duration {
    time.clamp(Duration::from_millis(1), LONGEST)
}

/// The longest beginning of `text` that has at most `bytes` bytes.
pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests;
