//! What a session's messages make happen.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::Connection;
use super::step::{Next, Timer};
use super::wire::Inbound;
use crate::event::{Event, Reason};
use crate::merge::{End, Outcome};
use crate::shared::lock;

/// A host that takes its events later than this has kept a server's answers
/// from being read.
const SLOW_HOST: Duration = Duration::from_millis(10);

impl Connection {
    /// Takes a message in, from the session that publishes or from the one
    /// before it.
    pub(super) fn receive(&mut self, current: bool, inbound: Inbound) {
        let link = match (current, &self.current, &self.leaving) {
            (true, Some(link), _) => link.id,
            (false, _, Some(link)) => link.id,
            _ => return,
        };
        let now = Instant::now();
        let shared = &self.shared;
        let stats = &shared.stats;
        match inbound {
            Inbound::Diff(diff) => {
                match lock(&shared.interest).diff(link, diff, now, &mut self.told) {
                    Outcome::Told | Outcome::Waits => {}
                    Outcome::Duplicate => stats.duplicates.one(),
                    Outcome::Stale => stats.stale.one(),
                }
            }
            Inbound::Gap(gap) => {
                if lock(&shared.interest).gap(link, &gap, now, &mut self.told) == Outcome::Stale {
                    stats.stale.one();
                }
            }
            Inbound::Subscribed {
                request,
                heads,
                malformed,
            } => {
                stats.malformed.add(malformed);
                lock(&shared.interest).subscribed(link, request, &heads, now, &mut self.told);
                self.look();
            }
            Inbound::Rejected {
                code,
                reason,
                request,
            } => {
                stats.rejected.one();
                let shards = lock(&shared.interest).refuse(link, request);
                if let Some(withheld) = self.log.rejected.allows() {
                    tracing::warn!(
                        code,
                        ?reason,
                        shards,
                        withheld,
                        "the pubsub server refused a message"
                    );
                }
                if shards > 0 {
                    self.retry_later();
                }
                self.look();
            }
            Inbound::Draining {
                window_millis,
                reason,
            } => {
                if current {
                    self.drain(window_millis, &reason);
                }
            }
            Inbound::Fenced(fenced) => self.fenced(fenced),
            Inbound::Nothing => {}
            Inbound::Malformed(what) => {
                stats.malformed.one();
                if let Some(withheld) = self.log.malformed.allows() {
                    tracing::warn!(what, withheld, "the pubsub server sent what makes no sense");
                }
            }
        }
        self.tell();
    }

    /// Hands the events at hand on, and sets the timer for the next that come
    /// by themselves.
    pub(super) fn tell(&mut self) {
        let stats = &self.shared.stats;
        stats
            .resyncs_cancelled
            .add(std::mem::take(&mut self.told.cancelled));
        for queued in &self.told.events {
            match queued.event() {
                Event::Diff { diff, .. } => {
                    stats.diffs.one();
                    stats.diff_bytes.add(diff.len());
                }
                Event::Gap { .. } => stats.gaps.one(),
                Event::Resync { .. } => stats.resyncs.one(),
                _ => {}
            }
        }
        if self.blocked_since.is_none() && !self.told.events.is_empty() {
            self.blocked_since = Some(Instant::now());
        }
        self.sink.put(self.told.events.drain(..));
        let due = lock(&self.shared.interest).next_due();
        if due != self.due.as_ref().map(|(at, _)| *at) {
            self.due = due.map(|at| (at, Box::pin(sleep_until(at)) as Timer));
        }
    }

    /// The moment of something that comes by itself.
    pub(super) fn due(&mut self) {
        self.due = None;
        let now = Instant::now();
        let mut interest = lock(&self.shared.interest);
        interest.work(now, &mut self.told);
        let overdue = interest.overdue(now);
        drop(interest);
        self.tell();
        if let Some(link) = overdue {
            let reason = Reason::Unanswered(self.config.subscribe_timeout);
            if self.current.as_ref().is_some_and(|l| l.id == link) {
                self.lost(reason);
            } else if self.leaving.as_ref().is_some_and(|l| l.id == link) {
                self.left(End::Lost);
            }
        }
    }

    /// The host has taken all that there was for it.
    pub(super) fn delivered(&mut self) {
        for link in self.links() {
            link.excuse();
        }
        if let Some(since) = self.blocked_since.take() {
            let unread = since.elapsed();
            if unread >= SLOW_HOST {
                lock(&self.shared.interest).excuse(unread);
            }
        }
        if self.unseen {
            self.look();
        }
    }

    /// The server is about to go: the next session is opened at a random
    /// moment, so that not all its clients move at once. The last quarter of
    /// the window is left for the attempt. Never sooner than after any other
    /// end of a session: the next server may drain too.
    fn drain(&mut self, window_millis: u32, reason: &str) {
        if self.finishing.is_some() || !matches!(self.next, Next::Nothing) {
            return;
        }
        tracing::info!(
            server = %self.place,
            window_millis,
            ?reason,
            "the pubsub server is draining: opening the next session"
        );
        let latest = u64::from(window_millis) / 4 * 3;
        let moment = Duration::from_millis(fastrand::u64(0..=latest));
        if let Some(link) = &self.current {
            self.backoff.lived(link.since.elapsed());
        }
        let least = self.backoff.next();
        self.dial_after(moment.max(least));
    }

    /// Asks for refused shards again after about the backoff's cap.
    fn retry_later(&mut self) {
        if self.retry.is_none() {
            let jitter = 0.5 + fastrand::f64() / 2.0;
            let delay = self.config.settings.backoff_cap.mul_f64(jitter);
            self.retry = Some(Box::pin(sleep(delay)));
        }
    }
}
