//! The one task behind a client: it connects, keeps a session, replaces it,
//! and hands what the session brings to the host.
//!
//! Two sessions live at once while a server drains: the next one is opened
//! before the old one ends, and the old one lives until its server ends it.
//! Meanwhile every push goes out on both ([`crate::outbox`]), and what both
//! bring is made one ([`crate::merge`]).

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

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::config::Config;
use crate::event::{Event, Reason, Wire};
use crate::home::Place;
use crate::merge::{End, Told};
use crate::queue::{HostGone, Sink};
use crate::shared::{Shared, lock};
use gate::LinkId;
use link::Link;
use quiet::Quiet;
use step::{Next, Step, Timer};
pub(crate) use v0::decode as hear_v0;
pub(crate) use v1::{decode as hear_v1, settle};
use wire::{Fenced, Refusal};

/// How long a session that we end may take to end: what it was sent is read
/// by the server, and what the server has is read by us.
const LINGER: Duration = Duration::from_secs(5);

/// Runs until the host has dropped its events or all its handles, or until
/// the generation is fenced out. Dropped before that, and be it before it has
/// begun, it tells the handles that nobody sends any more.
pub(crate) fn run(
    config: Config,
    shared: Arc<Shared>,
    sink: Sink,
) -> impl Future<Output = ()> + Send + 'static {
    // The first home alone, for now.
    let home = config.settings.homes.first().cloned();
    let connection = home.map(|home| {
        let place = Place {
            home,
            address: None,
        };
        Connection::new(place, Arc::new(config), shared, sink)
    });
    async move {
        if let Some(connection) = connection {
            connection.run().await;
        }
    }
}

struct Connection {
    place: Place,
    config: Arc<Config>,
    shared: Arc<Shared>,
    sink: Sink,
    backoff: Backoff,
    /// The newest session.
    current: Option<Link>,
    /// The one before it, of a server that drains.
    leaving: Option<Link>,
    next: Next,
    /// When to ask again for the shards that the server refused.
    retry: Option<Timer>,
    /// The handles are gone; when the session has to have ended.
    finishing: Option<Timer>,
    /// There will be no session any more: deliver what waits, then end.
    ending: bool,
    links: u64,
    /// When something comes by itself: a resync, a gap, the end of a session.
    due: Option<(Instant, Timer)>,
    /// Something was not looked at, for the host has not taken what there is.
    unseen: bool,
    /// Since when the host has not taken all that there is for it.
    blocked_since: Option<Instant>,
    /// Events of the message at hand; empty between messages.
    told: Told,
    log: Log,
}

#[derive(Default)]
struct Log {
    failed: Quiet,
    rejected: Quiet,
    malformed: Quiet,
    refused: Quiet,
}

impl Connection {
    fn new(place: Place, config: Arc<Config>, shared: Arc<Shared>, sink: Sink) -> Self {
        Self {
            backoff: Backoff::new(&config),
            place,
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
            due: None,
            unseen: false,
            blocked_since: None,
            told: Told::default(),
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
                Step::Due => self.due(),
                Step::Delivered(Ok(())) => self.delivered(),
                Step::Delivered(Err(HostGone)) => return,
                Step::FromLeaving(Ok(inbound)) => self.receive(false, inbound),
                Step::FromLeaving(Err(Reason::Ended)) => self.left(End::Complete),
                Step::FromLeaving(Err(_)) => self.left(End::Lost),
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
        let open = Link::open(
            self.place.clone(),
            Arc::clone(&self.config),
            Arc::clone(&self.shared),
            id,
        );
        self.next = Next::Dial(Box::pin(open));
    }

    fn dial_after(&mut self, delay: Duration) {
        self.next = Next::Wait(Box::pin(sleep(delay)));
    }

    /// A session began.
    fn adopt(&mut self, link: Link) {
        tracing::info!(
            server = %self.place,
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
            self.left(End::Lost);
            self.leaving = Some(before);
        }
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
                server = %self.place,
                %reason,
                withheld,
                "cannot connect to the pubsub server, trying again"
            );
        }
        self.dial_after(delay);
    }

    /// The newest session is over.
    fn lost(&mut self, reason: Reason) {
        let Some(link) = self.current.take() else {
            return;
        };
        self.backoff.lived(link.since.elapsed());
        // Only one that was told to go ends in good order.
        link.end(End::Lost, &mut self.told);
        self.tell();
        if self.finishing.is_some() {
            return self.end();
        }
        self.shared.stats.lost.one();
        self.shared.stats.refused_shards.set(0);
        tracing::info!(server = %self.place, %reason, "lost the pubsub server");
        if let Some(link) = self.leaving.take() {
            // The one that was to be replaced lives still.
            self.sink.put_up(link.wire, link.server.clone());
            self.current = Some(link);
        } else {
            self.shared.stats.connected.set(0);
            self.sink.put_down(reason);
        }
        if !matches!(self.next, Next::Dial(_)) {
            let delay = self.backoff.next();
            self.dial_after(delay);
        }
    }

    /// The session that was replaced is over.
    fn left(&mut self, end: End) {
        if let Some(link) = self.leaving.take() {
            link.end(end, &mut self.told);
            self.tell();
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
        let mut interest = lock(&self.shared.interest);
        let refused = interest.refused(link.id);
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
        self.unseen = !self.sink.is_empty();
        if !self.unseen {
            let now = Instant::now();
            if link.wire == Wire::V0 {
                interest.take_unanswerable(link.id, now, &mut self.told);
            }
            interest.work(now, &mut self.told);
        }
        drop(interest);
        self.tell();
    }

    /// The handles are gone: what waits goes out, then the session ends.
    fn finish(&mut self) {
        self.next = Next::Nothing;
        self.left(End::Complete);
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
            server = %self.place,
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

    fn links(&mut self) -> impl Iterator<Item = &mut Link> {
        self.current.iter_mut().chain(&mut self.leaving)
    }
}

/// However the task ends (the runtime may drop it), the handles know.
impl Drop for Connection {
    fn drop(&mut self) {
        self.end();
    }
}
