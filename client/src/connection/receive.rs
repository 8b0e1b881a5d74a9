//! What a session's messages make happen.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Connection;
use super::refused;
use super::step::Next;
use super::wire::Inbound;
use crate::config::Mode;
use crate::event::Wire;
use crate::merge::Outcome;
use crate::shared::lock;

impl Connection {
    /// Takes a message in, from the session that publishes or from the one
    /// before it.
    pub(super) fn receive(&mut self, current: bool, inbound: Inbound) {
        let (link, wire) = match (current, &self.current, &self.leaving) {
            (true, Some(link), _) => (link.id, link.wire),
            (false, _, Some(link)) => (link.id, link.wire),
            _ => return,
        };
        let now = Instant::now();
        let shared = &self.shared;
        let stats = &shared.stats;
        match inbound {
            Inbound::Diff(diff) => {
                let outcome = shared.change(&mut self.told, |interest, told| {
                    if wire == Wire::V0 {
                        // That it was asked for is told before what comes of it.
                        interest.take_unanswerable(link, now, told);
                    }
                    interest.diff(link, diff, now, told)
                });
                match outcome {
                    Outcome::Told | Outcome::Waits => {}
                    Outcome::Duplicate => stats.duplicates.one(),
                    Outcome::Stale => stats.stale.one(),
                }
            }
            Inbound::Gap(gap) => {
                let outcome = shared.change(&mut self.told, |interest, told| {
                    interest.gap(link, &gap, now, told)
                });
                if outcome == Outcome::Stale {
                    stats.stale.one();
                }
            }
            Inbound::Subscribed {
                request,
                heads,
                malformed,
            } => {
                stats.malformed.add(malformed);
                shared.change(&mut self.told, |interest, told| {
                    interest.subscribed(link, request, &heads, now, told);
                });
                shared.nudge.notify_one();
            }
            Inbound::Rejected {
                code,
                reason,
                request,
                push,
            } => {
                stats.rejected.one();
                if let Some(push) = push {
                    refused::later(shared, link, push);
                }
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
                self.shared.nudge.notify_one();
            }
            Inbound::Draining {
                window_millis,
                reason,
            } => {
                if current {
                    self.drain(window_millis, &reason);
                }
            }
            Inbound::Fenced(fenced) => shared.fence(fenced),
            Inbound::ModeSet(mode) => self.mode_set(current, mode),
            Inbound::Nothing => {}
            Inbound::Malformed(what) => {
                stats.malformed.one();
                if let Some(withheld) = self.log.malformed.allows() {
                    tracing::warn!(what, withheld, "the pubsub server sent what makes no sense");
                }
            }
        }
    }

    /// A session's server has answered a change of the mode, or refused it.
    fn mode_set(&mut self, current: bool, mode: Option<Mode>) {
        let link = match current {
            true => self.current.as_mut(),
            false => self.leaving.as_mut(),
        };
        let Some(link) = link else { return };
        let settled = mode.and_then(|mode| {
            let settled = link.gate.answered(mode)?;
            link.set_mode(mode);
            Some(settled)
        });
        // What may be said now, or the next change.
        link.gate.ring();
        match settled {
            _ if !current => {}
            Some(true) => self.unsettled = None,
            Some(false) => self.unsettle(),
            // It will not: a new session says the mode in its greeting.
            None if self.unsettled.is_some() => {
                self.unsettled = None;
                self.dial();
            }
            None => {}
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
        if let Some(line) = lock(&self.shared.board).line_mut(self.id) {
            line.draining = true;
        }
        self.shared.nudge.notify_one();
        let least = self.backoff.next();
        self.dial_after(moment.max(least));
    }

    /// Asks for refused shards again after about the backoff's cap.
    fn retry_later(&mut self) {
        if self.retry.is_none() {
            let jitter = 0.5 + fastrand::f64() / 2.0;
            let delay = self.settings.backoff_cap.mul_f64(jitter);
            self.retry = Some(Box::pin(sleep(delay)));
        }
    }
}
