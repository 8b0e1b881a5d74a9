//! The one task behind a client: it connects, keeps a session, replaces it,
//! and hands what the session brings to the host.
//!
//! Two sessions live at once only while a server drains: the next one is
//! welcomed and has all its subscriptions answered before the old one is half
//! closed, and both are read meanwhile. Each tells a shard's diffs without a
//! hole from where the host was when it subscribed, so whichever is ahead can
//! be believed, and what the other brings again is dropped by its seqno.

mod dial;
pub(crate) mod gate;
mod link;
mod outgoing;
mod quiet;
mod receive;
mod step;
mod v0;
mod v1;
pub(crate) mod wire;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::config::Config;
use crate::event::{Event, Reason, Wire};
use crate::queue::{HostGone, Queued, Sink};
use crate::shared::{Shared, lock};
use gate::LinkId;
use link::Link;
use quiet::Quiet;
use step::{Next, Step, Timer};
use wire::{Fenced, Refusal};

/// How long a session that we end may take to end: what it was sent is read
/// by the server, and what the server has is read by us.
const LINGER: Duration = Duration::from_secs(5);

/// Runs until the host has dropped its events or all its handles, or until
/// the generation is fenced out.
pub(crate) async fn run(config: Config, shared: Arc<Shared>, sink: Sink) {
    Connection::new(Arc::new(config), shared, sink).run().await;
}

struct Connection {
    config: Arc<Config>,
    shared: Arc<Shared>,
    sink: Sink,
    backoff: Backoff,
    /// The session that publishes.
    current: Option<Link>,
    /// The one before it, of a server that drains.
    leaving: Option<Leaving>,
    next: Next,
    /// When to ask again for the shards that the server refused.
    retry: Option<Timer>,
    /// The handles are gone; when the session has to have ended.
    finishing: Option<Timer>,
    /// There will be no session any more: deliver what waits, then end.
    ending: bool,
    links: u64,
    /// Events of the message at hand; empty between messages.
    told: Vec<Queued>,
    log: Log,
}

struct Leaving {
    link: Link,
    /// Half-closed, and to end by then. `None`: its successor is not ready.
    until: Option<Timer>,
}

#[derive(Default)]
struct Log {
    failed: Quiet,
    rejected: Quiet,
    malformed: Quiet,
    refused: Quiet,
}

impl Connection {
    fn new(config: Arc<Config>, shared: Arc<Shared>, sink: Sink) -> Self {
        Self {
            backoff: Backoff::new(&config),
            config,
            shared,
            sink,
            current: None,
            leaving: None,
            next: Next::Nothing,
            retry: None,
            finishing: None,
            ending: false,
            links: 0,
            told: Vec::new(),
            log: Log::default(),
        }
    }

    async fn run(mut self) {
        self.dial();
        while !(self.ending && self.sink.is_empty()) {
            match self.step().await {
                Step::Nudged => self.look(),
                Step::Waited => self.dial(),
                Step::Dialled(Ok(link)) => self.adopt(*link),
                Step::Dialled(Err(refusal)) => self.not_connected(refusal),
                Step::Retry => {
                    self.retry = None;
                    if let Some(link) = &self.current {
                        lock(&self.shared.interest).retry_refused(link.id);
                    }
                }
                Step::Overdue => self.end(),
                Step::LeavingOverdue => self.left(true),
                Step::Delivered(Ok(())) => {
                    for link in self.links() {
                        link.excuse();
                    }
                    if self.speaks_v0() {
                        self.look();
                    }
                }
                Step::Delivered(Err(HostGone)) => return,
                Step::FromLeaving(Ok(inbound)) => self.receive(false, inbound),
                Step::FromLeaving(Err(reason)) => self.left(reason != Reason::Ended),
                Step::FromCurrent(Ok(inbound)) => self.receive(true, inbound),
                Step::FromCurrent(Err(reason)) => self.lost(reason),
                Step::Broken => self.lost(Reason::Broken),
            }
        }
    }

    /// Attempts to connect, now.
    fn dial(&mut self) {
        self.shared.stats.attempts.one();
        self.links += 1;
        let id = LinkId::new(self.links);
        let open = Link::open(Arc::clone(&self.config), Arc::clone(&self.shared), id);
        self.next = Next::Dial(Box::pin(open));
    }

    fn dial_after(&mut self, delay: Duration) {
        self.next = Next::Wait(Box::pin(sleep(delay)));
    }

    /// A session began: it publishes from now on.
    fn adopt(&mut self, link: Link) {
        tracing::info!(
            server = %self.config.endpoint,
            wire = %link.wire,
            version = ?link.server.version,
            instance = ?link.server.instance_id,
            session = link.server.session_id,
            "connected to the pubsub server"
        );
        self.shared.stats.established.one();
        self.shared.stats.connected.set(1);
        self.next = Next::Nothing;
        if let Some(before) = self.current.take() {
            // Of three, the oldest is not needed: the one in the middle
            // resumed where the host was.
            self.left(true);
            self.leaving = Some(Leaving {
                link: before,
                until: None,
            });
        }
        let gate = Arc::clone(&link.gate);
        lock(&self.shared.outbox).own(link.id, gate, link.wire == Wire::V0);
        self.sink.put_up(link.wire, link.server.clone());
        self.current = Some(link);
        self.look();
    }

    /// An attempt failed.
    fn not_connected(&mut self, refusal: Refusal) {
        let reason = match refusal {
            Refusal::Fenced(fenced) => return self.fenced(fenced),
            Refusal::Failed(reason) | Refusal::Unimplemented(reason) => reason,
        };
        let delay = self.backoff.next();
        if let Some(withheld) = self.log.failed.allows() {
            tracing::warn!(
                server = %self.config.endpoint,
                %reason,
                withheld,
                "cannot connect to the pubsub server, trying again"
            );
        }
        self.dial_after(delay);
    }

    /// The session that published is over.
    fn lost(&mut self, reason: Reason) {
        let Some(link) = self.current.take() else {
            return;
        };
        let now = Instant::now();
        self.backoff
            .lived(now.saturating_duration_since(link.since));
        lock(&self.shared.outbox).release(link.id, true, now, &self.shared.stats);
        drop(link);
        if self.finishing.is_some() {
            return self.end();
        }
        self.shared.stats.lost.one();
        self.shared.stats.refused_shards.set(0);
        tracing::info!(server = %self.config.endpoint, %reason, "lost the pubsub server");
        match self.leaving.take() {
            // The one that was to be replaced lives still.
            Some(Leaving { link, until: None }) => {
                let gate = Arc::clone(&link.gate);
                lock(&self.shared.outbox).own(link.id, gate, link.wire == Wire::V0);
                self.sink.put_up(link.wire, link.server.clone());
                self.current = Some(link);
            }
            leaving => {
                self.leaving = leaving;
                self.shared.stats.connected.set(0);
                self.sink.put_down(reason);
            }
        }
        if !matches!(self.next, Next::Dial(_)) {
            let delay = self.backoff.next();
            self.dial_after(delay);
        }
    }

    /// The session that was replaced is over; `lost` if not in good order.
    fn left(&mut self, lost: bool) {
        if let Some(leaving) = self.leaving.take() {
            let lost = lost || leaving.until.is_none();
            let now = Instant::now();
            lock(&self.shared.outbox).release(leaving.link.id, lost, now, &self.shared.stats);
        }
    }

    /// Looks at what changes without a message of its own.
    fn look(&mut self) {
        if self.shared.is_released() && self.finishing.is_none() && !self.ending {
            self.finish();
        }
        let Some(link) = &self.current else {
            return;
        };
        let interest = lock(&self.shared.interest);
        let refused = interest.refused(link.id);
        let settled = interest.is_settled(link.id);
        drop(interest);
        self.shared.stats.refused_shards.set(refused);
        if refused > 0
            && let Some(withheld) = self.log.refused.allows()
        {
            tracing::warn!(
                refused,
                withheld,
                "the pubsub server does not take all subscriptions"
            );
        }
        if settled
            && let Some(leaving) = &mut self.leaving
            && leaving.until.is_none()
        {
            leaving.link.gate.finish();
            leaving.until = Some(Box::pin(sleep(LINGER)));
        }
        if link.wire == Wire::V0 && self.sink.is_empty() {
            lock(&self.shared.interest).take_unanswerable(link.id, &mut self.told);
            self.tell();
        }
    }

    /// The handles are gone: what waits goes out, then the session ends.
    fn finish(&mut self) {
        self.next = Next::Nothing;
        self.left(false);
        match &self.current {
            Some(link) => {
                link.gate.finish();
                self.finishing = Some(Box::pin(sleep(LINGER)));
            }
            None => self.end(),
        }
    }

    /// There will be no session any more.
    fn end(&mut self) {
        self.next = Next::Nothing;
        self.retry = None;
        self.finishing = None;
        self.current = None;
        self.leaving = None;
        self.ending = true;
        self.shared.stats.connected.set(0);
        lock(&self.shared.outbox).close(&self.shared.stats);
    }

    fn fenced(&mut self, fenced: Fenced) {
        tracing::info!(
            server = %self.config.endpoint,
            generation = fenced.generation,
            epoch = fenced.epoch,
            reason = ?fenced.reason,
            "fenced out by the pubsub server: not connecting again"
        );
        self.end();
        self.sink.put_last(Event::Fenced {
            generation: fenced.generation,
            epoch: fenced.epoch,
            reason: fenced.reason,
        });
    }

    fn speaks_v0(&self) -> bool {
        self.current
            .as_ref()
            .is_some_and(|link| link.wire == Wire::V0)
    }

    fn links(&mut self) -> impl Iterator<Item = &mut Link> {
        let leaving = self.leaving.as_mut().map(|leaving| &mut leaving.link);
        self.current.iter_mut().chain(leaving)
    }
}

/// However the task ends (the runtime may drop it), the handles know.
impl Drop for Connection {
    fn drop(&mut self) {
        self.end();
    }
}
