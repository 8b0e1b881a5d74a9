//! The task of one place: it connects, keeps a session, replaces it, and hears
//! what the session brings.
//!
//! Two sessions live at once while a server drains, or the settings say that
//! another one is needed: the next one is opened before the old one ends.
//! Meanwhile every push goes out on both ([`crate::outbox`]), and what both
//! bring is made one ([`crate::merge`]), as it is with other places' sessions.

mod dial;
pub(crate) mod gate;
mod greet;
mod link;
mod orders;
mod outgoing;
pub(crate) mod quiet;
mod receive;
pub(crate) mod refused;
mod step;
mod v0;
mod v1;
pub(crate) mod wire;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::coop;
use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::board::Session;
use crate::config::Config;
use crate::event::Reason;
use crate::home::{Place, PlaceId};
use crate::merge::{End, Told};
use crate::settings::Settings;
use crate::shared::{Shared, lock};
use link::Link;
pub(crate) use orders::{Finish, Order};
use quiet::Quiet;
use step::{Next, Step, Timer};
pub(crate) use v0::decode as hear_v0;
pub(crate) use v1::{decode as hear_v1, settle};
use wire::Refusal;

/// How long a session that we end may take to end: what it was sent is read
/// by the server, and what the server has is read by us.
pub(crate) const LINGER: Duration = Duration::from_secs(5);

/// Ends when it is ordered to, or when it is dropped; then there is no session
/// with the place, and its line on the board is gone.
pub(crate) struct Connection {
    id: PlaceId,
    place: Place,
    config: Arc<Config>,
    shared: Arc<Shared>,
    orders: watch::Receiver<Order>,
    settings: Arc<Settings>,
    backoff: Backoff,
    /// The newest session.
    current: Option<Link>,
    /// The one before it.
    leaving: Option<Link>,
    /// The one before it is ours to end, when the newest has been answered.
    replacing: bool,
    /// When that has to have ended.
    replaced: Option<Timer>,
    /// When the server has to have said that the mode has changed.
    unsettled: Option<Timer>,
    next: Next,
    /// When to ask again for the shards that the server refused.
    retry: Option<Timer>,
    /// We are to end; when the session has to have ended.
    finishing: Option<Timer>,
    done: bool,
    /// Whether sessions are read: not while the host has not taken what there
    /// is for it.
    reading: bool,
    /// The session before the newest is asked first: it was not the last to be
    /// heard.
    leaving_first: bool,
    /// Events of the message at hand; empty between messages.
    told: Told,
    log: Log,
}

#[derive(Default)]
struct Log {
    failed: Quiet,
    rejected: Quiet,
    malformed: Quiet,
}

impl Connection {
    /// A place that stands on the board.
    pub(crate) fn new(
        id: PlaceId,
        place: Place,
        config: Arc<Config>,
        shared: Arc<Shared>,
        orders: watch::Receiver<Order>,
    ) -> Self {
        let settings = Arc::clone(&orders.borrow().settings);
        Self {
            backoff: Backoff::new(&settings, config.stable_after),
            id,
            place,
            config,
            shared,
            orders,
            settings,
            current: None,
            leaving: None,
            replacing: false,
            replaced: None,
            unsettled: None,
            next: Next::Nothing,
            retry: None,
            finishing: None,
            done: false,
            reading: true,
            leaving_first: true,
            told: Told::default(),
            log: Log::default(),
        }
    }

    pub(crate) async fn run(mut self) {
        self.dial();
        while !self.done {
            match self.step().await {
                Step::Ordered => self.obey(),
                Step::Gone => return,
                Step::Waited => {
                    if self.current.is_some() {
                        // The next session may be somewhere else.
                        self.shared.ask_names();
                    }
                    self.dial();
                }
                Step::Dialled(Ok(link)) => self.adopt(*link),
                Step::Dialled(Err(refusal)) => self.not_connected(refusal),
                Step::Retry => {
                    self.retry = None;
                    if let Some(link) = &self.current {
                        lock(&self.shared.interest).retry_refused(link.id);
                    }
                }
                Step::Overdue => self.done = true,
                Step::Unsettled => {
                    self.unsettled = None;
                    self.dial();
                }
                Step::Replaced => self.left(End::Complete),
                Step::Reads(reads) => self.reads(reads),
                Step::FromLeaving(Ok(inbound)) => {
                    self.leaving_first = false;
                    self.receive(false, inbound);
                }
                Step::FromLeaving(Err(Reason::Ended)) => self.left(End::Complete),
                Step::FromLeaving(Err(_)) => self.left(End::Lost),
                Step::FromCurrent(Ok(inbound)) => {
                    self.leaving_first = true;
                    self.receive(true, inbound);
                }
                Step::FromCurrent(Err(reason)) => self.lost(reason),
                Step::Broken => self.lost(Reason::Broken),
            }
            // A server may always have something to say: the thread's other
            // tasks have their turns.
            coop::consume_budget().await;
        }
    }

    /// Attempts to connect, now.
    fn dial(&mut self) {
        self.shared.stats.attempts.one();
        let open = Link::open(
            (self.id, self.place.clone()),
            Arc::clone(&self.config),
            Arc::clone(&self.shared),
            self.settings.mode,
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
        self.next = Next::Nothing;
        self.unsettled = None;
        if let Some(before) = self.current.take() {
            // Of three, the oldest is not needed: the one in the middle
            // resumed where the host was.
            self.left(End::Lost);
            self.replacing = before.mode != link.mode;
            self.leaving = Some(before);
        }
        self.shared.up(self.id, session(&link));
        if !self.reading {
            lock(&self.shared.interest).reads(link.id, false, Instant::now());
        }
        self.current = Some(link);
    }

    /// An attempt failed.
    fn not_connected(&mut self, refusal: Refusal) {
        let reason = match refusal {
            Refusal::Fenced(fenced) => {
                self.next = Next::Nothing;
                return self.shared.fence(fenced);
            }
            Refusal::Failed(reason) | Refusal::Unimplemented(reason) => reason,
        };
        self.shared.stats.failed.one();
        if self.current.is_none() {
            self.shared.down(self.id, reason.clone());
        }
        if let Reason::SameServer(instance) = &reason {
            // Nothing is wrong: it is as another look-up would have it.
            tracing::debug!(server = %self.place, ?instance, "the same pubsub server again");
            return self.dial_after(self.config.look_up_interval);
        }
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
        self.unsettled = None;
        self.backoff.lived(link.since.elapsed());
        if self.finishing.is_some() {
            link.end(ended(&reason), &mut self.told);
            self.done = true;
            return;
        }
        // Only one that was told to go ends in good order.
        link.end(End::Lost, &mut self.told);
        self.shared.stats.lost.one();
        // A fence has been said, and one line is enough.
        if !self.shared.is_fenced() {
            tracing::info!(server = %self.place, %reason, "lost the pubsub server");
        }
        if let Some(link) = self.leaving.take() {
            // The one that was to be replaced lives still.
            self.replacing = false;
            self.replaced = None;
            self.shared.up(self.id, session(&link));
            self.current = Some(link);
        } else {
            self.shared.down(self.id, reason);
        }
        if !matches!(self.next, Next::Dial(_)) {
            let delay = self.backoff.next();
            self.dial_after(delay);
        }
    }

    /// The session that was replaced is over.
    fn left(&mut self, end: End) {
        self.replacing = false;
        self.replaced = None;
        if let Some(link) = self.leaving.take() {
            link.end(end, &mut self.told);
        }
    }

    /// There is room for what is read, or there is none. Servers are not to be
    /// blamed for what the host makes them wait.
    fn reads(&mut self, reads: bool) {
        self.reading = reads;
        for link in self.current.iter_mut().chain(&mut self.leaving) {
            link.excuse();
            lock(&self.shared.interest).reads(link.id, reads, Instant::now());
        }
        // What is due may be sooner than anybody knows.
        self.shared.nudge.notify_one();
    }
}

fn session(link: &Link) -> Session {
    Session {
        link: link.id,
        wire: link.wire,
        server: link.server.clone(),
    }
}

/// What the end of a session that we were to end means.
fn ended(reason: &Reason) -> End {
    match reason {
        Reason::Ended => End::Complete,
        _ => End::Lost,
    }
}

/// However the task ends (the runtime may drop it), everybody knows.
impl Drop for Connection {
    fn drop(&mut self) {
        self.next = Next::Nothing;
        self.left(End::Lost);
        if let Some(link) = self.current.take() {
            link.end(End::Lost, &mut self.told);
        }
        let handles_gone = self.orders.borrow().finish == Some(Finish::HandlesGone);
        if !handles_gone {
            self.shared.down(self.id, Reason::Left);
        }
        lock(&self.shared.outbox).dismiss(self.id, &self.shared.stats);
        lock(&self.shared.board).close(self.id);
        self.shared.nudge.notify_one();
    }
}
