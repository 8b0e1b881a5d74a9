//! Who is connected, and of which generation.

mod rules;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::metrics::ScrapeMetrics;
use crate::session::{Mode, Session, SessionId};
pub(crate) use rules::of;
pub use rules::{InvalidRule, V0Generation};

/// Generations that metrics tell apart; a peer could name any number.
const GENERATIONS: usize = 16;
/// A session that has waited so long to take something is behind.
pub(crate) const BEHIND: Duration = Duration::from_secs(1);

/// The sessions, from the moment that each has said who it is.
#[derive(Debug)]
pub(crate) struct Census {
    sessions: Mutex<BTreeMap<SessionId, Arc<Session>>>,
    /// Streams, with those that have not said who they are.
    streams: AtomicUsize,
    max_sessions: usize,
    last_id: AtomicU64,
    /// Tells the drain when the last stream goes.
    empty: watch::Sender<()>,
}

impl Census {
    pub(crate) fn new(max_sessions: usize) -> Self {
        Self {
            sessions: Mutex::default(),
            streams: AtomicUsize::new(0),
            max_sessions,
            last_id: AtomicU64::new(0),
            empty: watch::Sender::new(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SessionId, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a stream and names it. None: there are too many. Each one
    /// admitted is given back by `release`.
    pub(crate) fn admit(&self) -> Option<SessionId> {
        self.streams
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < self.max_sessions).then_some(n + 1)
            })
            .ok()?;
        Some(self.last_id.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// An admitted stream is gone.
    pub(crate) fn release(&self) {
        if self.streams.fetch_sub(1, Ordering::Relaxed) == 1 {
            // One may have been admitted since: whoever waits looks at the
            // count again.
            self.empty.send_replace(());
        }
    }

    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Waits until there is no stream.
    pub(crate) async fn emptied(&self) {
        let mut empty = self.empty.subscribe();
        // Fails only when the sender is gone, and it is ours.
        while self.streams() > 0 && empty.changed().await.is_ok() {}
    }

    pub(crate) fn enter(&self, session: Arc<Session>) {
        self.lock().insert(session.id, session);
    }

    pub(crate) fn leave(&self, id: SessionId) {
        self.lock().remove(&id);
    }

    /// Up to `limit` sessions with an id above `after`, by id.
    pub(crate) fn page(&self, after: SessionId, limit: usize) -> Vec<Arc<Session>> {
        self.lock()
            .range(after.saturating_add(1)..)
            .take(limit)
            .map(|(_, s)| Arc::clone(s))
            .collect()
    }

    /// All sessions.
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.page(0, usize::MAX)
    }

    /// Counts the sessions anew for a scrape.
    pub(crate) fn observe(&self, metrics: &ScrapeMetrics) {
        let sessions = self.all();
        let mut generations: Vec<u64> = sessions
            .iter()
            .filter_map(|s| s.profile()?.generation)
            .collect();
        generations.sort_unstable_by(|a, b| b.cmp(a));
        generations.dedup();
        generations.truncate(GENERATIONS);
        let now = Instant::now();
        metrics.silent.reset();
        for (generation, since) in silences(&sessions, &generations) {
            metrics
                .silent
                .with_label_values(&[&generation.to_string()])
                .set(now.duration_since(since).as_secs_f64());
        }
        let (mut subscriptions, mut behind, mut lag) = (0, 0, Duration::ZERO);
        metrics.sessions.reset();
        for session in &sessions {
            let generation = match session.profile().and_then(|p| p.generation) {
                None => "unknown".to_owned(),
                Some(g) if generations.contains(&g) => g.to_string(),
                Some(_) => "other".to_owned(),
            };
            metrics
                .sessions
                .with_label_values(&[session.wire.as_str(), &generation])
                .inc();
            subscriptions += session.subscriptions();
            if let (_, Some(since)) = session.behind() {
                let waits = now.duration_since(since);
                lag = lag.max(waits);
                behind += i64::from(waits > BEHIND);
            }
        }
        metrics.active_connections.set(count(sessions.len()));
        metrics.subscriptions.set(count(subscriptions));
        metrics.behind.set(behind);
        metrics.lag.set(lag.as_secs_f64());
    }
}

/// Since when each of these generations has published nothing, of which there
/// are sessions that may.
fn silences(sessions: &[Arc<Session>], generations: &[u64]) -> BTreeMap<u64, Instant> {
    let mut silences: BTreeMap<u64, (Option<Instant>, Instant)> = BTreeMap::new();
    for session in sessions {
        let generation = session.profile().and_then(|p| p.generation);
        let Some(generation) = generation.filter(|g| generations.contains(g)) else {
            continue;
        };
        if session.mode() == Mode::ReadWrite {
            let (published, came) = silences
                .entry(generation)
                .or_insert((None, session.began()));
            *published = session.published_at().max(*published);
            *came = session.began().min(*came);
        }
    }
    let since = |(published, came): (Option<Instant>, Instant)| published.unwrap_or(came);
    silences
        .into_iter()
        .map(|(generation, told)| (generation, since(told)))
        .collect()
}

/// Counts of things in memory are far below 2^63.
pub(crate) fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
