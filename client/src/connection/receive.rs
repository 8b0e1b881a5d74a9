//! What a session's messages make happen.

use std::time::Duration;

use tokio::time::sleep;

use super::wire::Inbound;
use super::{Connection, Next};
use crate::event::Event;
use crate::interest::Outcome;
use crate::shared::lock;

impl Connection {
    /// Takes a message in, from the session that publishes or from the one
    /// before it.
    pub(super) fn receive(&mut self, current: bool, inbound: Inbound) {
        let link = match (current, &self.current, &self.leaving) {
            (true, Some(link), _) => link.id,
            (false, _, Some(leaving)) => leaving.link.id,
            _ => return,
        };
        let shared = &self.shared;
        let stats = &shared.stats;
        match inbound {
            Inbound::Diff(diff) => {
                let shard = diff.shard;
                let own = |from, to| lock(&shared.outbox).own_covers(shard, from, to);
                match lock(&shared.interest).diff(link, diff, own, &mut self.told) {
                    Outcome::Told => {}
                    Outcome::Duplicate => stats.duplicates.one(),
                    Outcome::Stale => stats.stale.one(),
                }
            }
            Inbound::Gap(gap) => {
                if lock(&shared.interest).gap(link, &gap, &mut self.told) == Outcome::Stale {
                    stats.stale.one();
                }
            }
            Inbound::Subscribed {
                request,
                heads,
                malformed,
            } => {
                stats.malformed.add(malformed);
                lock(&shared.interest).subscribed(link, request, &heads, &mut self.told);
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

    /// Hands the events of the message at hand on.
    pub(super) fn tell(&mut self) {
        let stats = &self.shared.stats;
        for queued in &self.told {
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
        self.sink.put(self.told.drain(..));
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
            server = %self.config.endpoint,
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
            let delay = self.config.backoff_cap.mul_f64(jitter);
            self.retry = Some(Box::pin(sleep(delay)));
        }
    }
}
