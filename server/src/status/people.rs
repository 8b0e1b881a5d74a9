//! Who is connected and what they do, in groups and one by one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use persist_pubsub_proto::admin_v1::{StatusGroup, StatusSession};
use tokio::time::Instant;

use super::per_second;
use crate::admin::show_session;
use crate::clock;
use crate::generation::BEHIND;
use crate::session::{Mode, Session, SessionId};

/// Sessions that are shown.
pub(crate) const SESSIONS: usize = 100;

/// Remembers what sessions had done when they were last looked at.
#[derive(Debug, Default)]
pub(super) struct People {
    at: Option<Instant>,
    before: HashMap<SessionId, Done>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Done {
    publishes: u64,
    deliveries: u64,
}

/// Who is connected.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    /// All: as many as there are sessions, at most.
    pub(super) groups: Vec<StatusGroup>,
    /// Those behind, longest first, then the busiest.
    pub(super) sessions: Vec<StatusSession>,
    pub(super) sessions_behind: u64,
}

/// What makes sessions one of a kind, in the order in which they are shown:
/// the newest generation first, the unknown last; role, mode, version.
type Kind = (
    String,
    std::cmp::Reverse<Option<u64>>,
    &'static str,
    String,
    Mode,
    String,
);

impl People {
    /// Looks at all sessions. Rates are those since the last look; of what
    /// was not there then, they are 0.
    pub(super) fn look(
        &mut self,
        sessions: &[Arc<Session>],
        now: Instant,
        time_of_day: SystemTime,
    ) -> Crowd {
        let covers = self.at.map(|at| now.duration_since(at));
        self.at = Some(now);
        let mut after = HashMap::with_capacity(sessions.len());
        let mut kinds: BTreeMap<Kind, (StatusGroup, Option<Instant>)> = BTreeMap::new();
        let mut rows: Vec<(Rank, &Arc<Session>, Rates)> = Vec::new();
        let mut sessions_behind = 0;
        for session in sessions {
            let Some(profile) = session.profile() else {
                continue;
            };
            let done = Done {
                publishes: session.traffic.diffs_in.load(Relaxed),
                deliveries: session.traffic.diffs_out.load(Relaxed),
            };
            after.insert(session.id, done);
            let rates = Rates::between(self.before.get(&session.id), done, covers);
            let waits = session.behind().1.map(|since| now.duration_since(since));
            let behind = waits.is_some_and(|waits| waits > BEHIND);
            sessions_behind += u64::from(behind);
            let kind = (
                profile.environment.name().to_owned(),
                std::cmp::Reverse(profile.generation),
                session.wire.as_str(),
                profile.role.clone(),
                session.mode(),
                profile.client_version.clone(),
            );
            let (group, published) = kinds.entry(kind).or_default();
            group.sessions += 1;
            group.sessions_behind += u64::from(behind);
            group.subscriptions += session.subscriptions() as u64;
            group.publishes_per_second += rates.publishes;
            group.deliveries_per_second += rates.deliveries;
            group.diffs_missed += session.traffic.missed.load(Relaxed);
            *published = session.published_at().max(*published);
            let rank = Rank {
                waits: waits.filter(|_| behind).unwrap_or_default(),
                busy: rates.publishes + rates.deliveries,
            };
            rows.push((rank, session, rates));
        }
        self.before = after;
        rows.sort_unstable_by(|(a, s, _), (b, t, _)| b.cmp(a).then(s.id.cmp(&t.id)));
        let shown = rows.into_iter().filter_map(|(_, session, rates)| {
            Some(StatusSession {
                session: Some(show_session(session, now)?),
                publishes_per_second: rates.publishes,
                deliveries_per_second: rates.deliveries,
            })
        });
        Crowd {
            sessions: shown.take(SESSIONS).collect(),
            sessions_behind,
            groups: kinds
                .into_iter()
                .map(|(kind, (group, published))| {
                    let (environment, std::cmp::Reverse(generation), wire, role, mode, version) =
                        kind;
                    let ago = published.map(|at| now.duration_since(at));
                    StatusGroup {
                        environment,
                        generation,
                        wire_version: wire.to_owned(),
                        role,
                        mode: mode.as_str().to_owned(),
                        client_version: version,
                        last_publish: ago
                            .and_then(|ago| time_of_day.checked_sub(ago))
                            .map(clock::timestamp),
                        ..group
                    }
                })
                .collect(),
        }
    }
}

/// Diffs a second.
#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    publishes: f64,
    deliveries: f64,
}

impl Rates {
    fn between(before: Option<&Done>, done: Done, covers: Option<Duration>) -> Self {
        let (Some(before), Some(covers)) = (before, covers) else {
            return Self::default();
        };
        Self {
            publishes: per_second(done.publishes - before.publishes, covers),
            deliveries: per_second(done.deliveries - before.deliveries, covers),
        }
    }
}

/// How much a session deserves to be seen.
struct Rank {
    waits: Duration,
    busy: f64,
}

impl Rank {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let by_waiting = self.waits.cmp(&other.waits);
        by_waiting.then(self.busy.total_cmp(&other.busy))
    }
}
