//! What a client is told when it is made. Every bound has a name, a default
//! and a unit.

use std::fmt;
use std::time::Duration;

use crate::home::Home;
use crate::settings::{LONGEST, Settings};

/// `Hello`'s texts are cut to this many bytes, as the protocol bounds them.
const MAX_TEXT_BYTES: usize = 256;

/// Where the servers are, who to be there, and every bound.
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
    pub(crate) client_name: String,
    pub(crate) client_version: String,
    pub(crate) client_build: String,
    pub(crate) environment_id: String,
    pub(crate) deploy_generation: u64,
    pub(crate) role: String,
    pub(crate) wire: WirePreference,
    pub(crate) stable_after: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) keepalive_interval: Duration,
    pub(crate) keepalive_timeout: Duration,
    pub(crate) reannounce_window: Duration,
    pub(crate) reannounce_shards: usize,
    pub(crate) subscribe_timeout: Duration,
    pub(crate) look_up_interval: Duration,
    pub(crate) settings: Settings,
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
    /// `host:port`, or a host alone (port 6879). As
    /// [`with_homes`](Self::with_homes) with one [`Home::at`] it.
    ///
    /// # Errors
    /// As [`Home::at`].
    pub fn new(endpoint: &str) -> Result<Self, ConfigError> {
        Ok(Self::with_homes([Home::at(endpoint)?]))
    }

    /// The defaults, for the servers of these homes, as one: see
    /// [`Settings::homes`].
    #[must_use]
    pub fn with_homes(homes: impl IntoIterator<Item = Home>) -> Self {
        Self {
            client_name: "persist-pubsub-client".to_owned(),
            client_version: env!("CARGO_PKG_VERSION").to_owned(),
            client_build: String::new(),
            environment_id: String::new(),
            deploy_generation: 0,
            role: String::new(),
            wire: WirePreference::Auto,
            stable_after: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(5),
            reannounce_window: Duration::from_secs(60),
            reannounce_shards: 16_384,
            subscribe_timeout: Duration::from_secs(10),
            look_up_interval: Duration::from_secs(30),
            settings: Settings::new(Vec::new()).homes(homes),
        }
    }

    /// What the client begins with of all that can be changed while it runs.
    /// The calls of the same names below are short forms of it.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
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

    /// [`Settings::mode`].
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.settings = self.settings.mode(mode);
        self
    }

    /// Which wire version to speak. Default: [`WirePreference::Auto`].
    #[must_use]
    pub fn wire(mut self, wire: WirePreference) -> Self {
        self.wire = wire;
        self
    }

    /// [`Settings::backoff`].
    ///
    /// # Errors
    /// As there.
    pub fn backoff(mut self, first: Duration, cap: Duration) -> Result<Self, ConfigError> {
        self.settings = self.settings.backoff(first, cap)?;
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

    /// [`Settings::push_buffer`].
    #[must_use]
    pub fn push_buffer(mut self, bytes: usize, count: usize) -> Self {
        self.settings = self.settings.push_buffer(bytes, count);
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

    /// [`Settings::event_buffer`].
    #[must_use]
    pub fn event_buffer(mut self, bytes: usize, count: usize) -> Self {
        self.settings = self.settings.event_buffer(bytes, count);
        self
    }

    /// [`Settings::merge_grace`].
    #[must_use]
    pub fn merge_grace(mut self, grace: Duration) -> Self {
        self.settings = self.settings.merge_grace(grace);
        self
    }

    /// [`Settings::merge_buffer`].
    #[must_use]
    pub fn merge_buffer(mut self, bytes: usize, count: usize) -> Self {
        self.settings = self.settings.merge_buffer(bytes, count);
        self
    }

    /// [`Settings::resync_spread`].
    #[must_use]
    pub fn resync_spread(mut self, spread: Duration) -> Self {
        self.settings = self.settings.resync_spread(spread);
        self
    }

    /// [`Settings::max_homes`].
    #[must_use]
    pub fn max_homes(mut self, most: usize) -> Self {
        self.settings = self.settings.max_homes(most);
        self
    }

    /// How often the homes' names are looked up again while nothing is amiss;
    /// when a session is lost, or about to be, they are looked up as well. At
    /// least 1 ms; default 30 s, about as long as resolvers keep an answer.
    #[must_use]
    pub fn look_up_interval(mut self, interval: Duration) -> Self {
        self.look_up_interval = bounded(interval);
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
