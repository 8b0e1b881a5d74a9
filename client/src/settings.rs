//! What can be changed while a client runs.

use std::time::Duration;

use crate::config::{ConfigError, Mode};
use crate::home::Home;

/// No setting of time is longer: clocks can add it without overflowing.
pub(crate) const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// One state of all that a host may change while its client runs: the
/// immutable snapshot that [`Client::configure`](crate::Client::configure)
/// swaps in at once.
///
/// ```
/// use persist_pubsub_client::{Client, Config, ConfigError, Home, connect};
///
/// # async fn host() -> Result<(), ConfigError> {
/// let (client, _events) = connect(Config::new("environmentd:6879")?);
/// // From one home to two, later to the new one alone.
/// let (old, new) = (Home::at("environmentd:6879")?, Home::at("persist-pubsub:6879")?);
/// client.configure(client.settings().homes([old, new.clone()]));
/// client.configure(client.settings().homes([new]));
/// // Wholly off: no connection, no buffers.
/// client.configure(client.settings().connected(false));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub(crate) connected: bool,
    pub(crate) mode: Mode,
    pub(crate) homes: Vec<Home>,
    pub(crate) max_homes: usize,
    pub(crate) backoff_first: Duration,
    pub(crate) backoff_cap: Duration,
    pub(crate) push_buffer_bytes: usize,
    pub(crate) push_buffer_count: usize,
    pub(crate) event_buffer_bytes: usize,
    pub(crate) event_buffer_count: usize,
    pub(crate) merge_grace: Duration,
    pub(crate) merge_buffer_bytes: usize,
    pub(crate) merge_buffer_count: usize,
    pub(crate) resync_spread: Duration,
}

impl Settings {
    pub(crate) fn new(homes: Vec<Home>) -> Self {
        Self {
            connected: true,
            mode: Mode::ReadWrite,
            homes,
            max_homes: 3,
            backoff_first: Duration::from_millis(100),
            backoff_cap: Duration::from_secs(10),
            push_buffer_bytes: 16 * 1024 * 1024,
            push_buffer_count: 65_536,
            event_buffer_bytes: 64 * 1024 * 1024,
            event_buffer_count: 16_384,
            merge_grace: Duration::from_secs(1),
            merge_buffer_bytes: 16 * 1024 * 1024,
            merge_buffer_count: 16_384,
            resync_spread: Duration::from_secs(2),
        }
    }

    /// Whether there is to be a connection at all. Off, nothing is kept but
    /// what is subscribed and up to where the host was told of it: what waits
    /// is sent within 5 seconds if there is a session, and everything else is
    /// given up. Pushes are passed over for the cost of one atomic load, and
    /// are never announced. On again, the subscriptions resume where they
    /// were. Default: true.
    #[must_use]
    pub fn connected(mut self, connected: bool) -> Self {
        self.connected = connected;
        self
    }

    /// Whether the process may publish ([`Client::set_mode`] changes it alone). A
    /// change is told to the servers in the sessions that there are; where a
    /// server does not know of that, in sessions that take their place. Nothing is
    /// missed either way. What is pushed meanwhile waits until the server has
    /// said yes. Default: [`Mode::ReadWrite`].
    ///
    /// [`Client::set_mode`]: crate::Client::set_mode
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// The homes: what is pushed is published at all of them, and what is
    /// subscribed is heard from all of them, as one stream. One that is given
    /// twice counts once. None at all is as [`connected`](Self::connected)
    /// false, but that pushes wait for a home.
    ///
    /// A home that is not among them any more is left when one of those that
    /// are brings all that is subscribed, or after a minute.
    #[must_use]
    pub fn homes(mut self, homes: impl IntoIterator<Item = Home>) -> Self {
        self.homes = Vec::new();
        for home in homes {
            if !self.homes.contains(&home) {
                self.homes.push(home);
            }
        }
        self
    }

    /// With how many servers sessions are kept at most, where the homes'
    /// names have more addresses than that. Each client takes some at random,
    /// at least one of each home while there are not more homes. Servers that
    /// not everybody takes have to hear each other by other means. At least 1;
    /// default 3: two homes of a migration, while a server of one of them is
    /// being replaced.
    #[must_use]
    pub fn max_homes(mut self, most: usize) -> Self {
        self.max_homes = most.max(1);
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

    /// What may wait to be sent: bytes of diffs (64 more are counted for
    /// each) and number. Beyond it the oldest are dropped, and their shards'
    /// newest seqno is announced instead. Defaults: 16 MiB, 65,536.
    #[must_use]
    pub fn push_buffer(mut self, bytes: usize, count: usize) -> Self {
        self.push_buffer_bytes = bytes;
        self.push_buffer_count = count;
        self
    }

    /// What may wait to be read from [`Events`](crate::Events): bytes of
    /// diffs (64 more are counted for each event) and number. When that much
    /// waits no session is read, until half of it is gone, and HTTP/2's flow
    /// control makes the servers wait. At least 1 each; defaults 64 MiB,
    /// 16,384.
    #[must_use]
    pub fn event_buffer(mut self, bytes: usize, count: usize) -> Self {
        self.event_buffer_bytes = bytes.max(1);
        self.event_buffer_count = count.max(1);
        self
    }

    /// While several sessions live: how long what one does not have may be
    /// awaited from another before it is told as a gap. A diff that follows
    /// what was told is never delayed. Default: 1 s, which is about the time
    /// until the host's own poll would have found it.
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

    /// Whether a push is taken at all.
    pub(crate) fn publishes(&self) -> bool {
        self.connected && self.mode == Mode::ReadWrite
    }
}
