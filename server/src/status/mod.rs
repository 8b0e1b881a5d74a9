//! How the server is: sampled once a second, told to whoever watches.
//!
//! Samples of counters are taken all the time, so that who begins to watch
//! sees the last minutes. What costs a look at every session and shard is
//! made only while somebody watches, once for all of them, and seldom enough
//! to take one part in twenty of one core.

mod findings;
mod generations;
mod people;
mod samples;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use persist_pubsub_proto::admin_v1 as pb;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::admin::Facts;
use crate::clock;
use crate::metrics::{ListenerMetrics, SessionMetrics, TopicMetrics};
use crate::registry::Registry;
use generations::Generations;
pub(crate) use generations::MAX_GROUPS;
use people::People;
pub(crate) use people::SESSIONS;
use samples::{Sampler, Samples};

/// How often a sample is taken.
const EVERY: Duration = Duration::from_secs(1);
/// The next look at everything comes after so many times as long as the last
/// one took.
const REST: u32 = 20;
/// Groups of sessions that are shown: peers name generations and roles as they
/// like.
pub(crate) const GROUPS: usize = 100;
/// Shards that are shown.
pub(crate) const SHARDS: usize = 50;
/// For so long after another replica has asked, looks are made: it asks each
/// second while somebody watches there.
const LINGER: Duration = Duration::from_secs(10);

/// Whose counters are sampled.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    pub(crate) sessions: SessionMetrics,
    pub(crate) topics: TopicMetrics,
    pub(crate) listener: ListenerMetrics,
}

/// How the server is, made once for all who watch.
#[derive(Debug)]
pub(crate) struct Status {
    /// Without samples: each watcher gets those that it has not seen.
    message: pb::WatchStatusResponse,
    generations: Generations,
    /// The number of the newest sample.
    newest: u64,
    json: OnceLock<String>,
}

impl Status {
    /// As the Admin call sends it.
    pub(crate) fn message(&self, samples: Vec<pb::StatusSample>) -> pb::WatchStatusResponse {
        pb::WatchStatusResponse {
            samples,
            ..self.message.clone()
        }
    }

    /// Who is connected of which generation, in an environment or in all.
    pub(crate) fn generations(&self, environment: &str) -> pb::GenerationCensus {
        self.generations.of(environment)
    }

    /// The number of the newest sample that it goes with; 0: there is none.
    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    /// Without samples, as the page takes it.
    pub(crate) fn json(&self) -> &str {
        self.json
            .get_or_init(|| crate::json::status(&self.message).to_string())
    }
}

/// Keeps looks going, and since when nobody asked for them.
type Kept = (watch::Receiver<Option<Arc<Status>>>, Instant);

/// Where the newest status stands.
#[derive(Debug)]
pub(crate) struct Board {
    facts: Facts,
    samples: Mutex<Samples>,
    status: watch::Sender<Option<Arc<Status>>>,
    /// Somebody began to watch.
    asked: Notify,
    /// Between the questions of another replica.
    kept: Mutex<Option<Kept>>,
}

/// One who watches.
#[derive(Debug)]
pub(crate) struct Watcher {
    board: Arc<Board>,
    status: watch::Receiver<Option<Arc<Status>>>,
    /// The number of the newest sample that it was given.
    seen: u64,
}

impl Board {
    pub(crate) fn new(facts: Facts) -> Arc<Self> {
        Arc::new(Self {
            facts,
            samples: Mutex::default(),
            status: watch::Sender::new(None),
            asked: Notify::new(),
            kept: Mutex::default(),
        })
    }

    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    pub(crate) fn watch(self: &Arc<Self>) -> Watcher {
        let mut status = self.status.subscribe();
        // What stands there may be of the time when somebody last watched.
        status.mark_unchanged();
        self.asked.notify_one();
        Watcher {
            board: Arc::clone(self),
            status,
            seen: 0,
        }
    }

    /// The next look, for who asks for one after the other: looks go on between
    /// its questions, so that there are rates from the second on. With the
    /// samples after `seen`. None: the server is gone.
    pub(crate) async fn next(
        self: &Arc<Self>,
        seen: u64,
    ) -> Option<(Arc<Status>, Vec<pb::StatusSample>)> {
        let mut watcher = self.watch();
        watcher.seen = seen;
        *self.kept() = Some((self.status.subscribe(), Instant::now()));
        watcher.next().await
    }

    /// The last look, of whenever. None: there was none.
    pub(crate) fn last(&self, seen: u64) -> Option<(Arc<Status>, Vec<pb::StatusSample>)> {
        let look = self.status.borrow().clone()?;
        let samples = self.samples().after(seen, look.newest);
        Some((look, samples))
    }

    /// Who is connected at present, in an environment or in all (empty), where
    /// a look at everything takes too long. Without rates.
    pub(crate) fn census(&self, environment: &str) -> pb::GenerationCensus {
        let shared = &self.facts.shared;
        let sessions = shared.census.all();
        let crowd = People::default().look(&sessions, Instant::now(), shared.clock.now());
        Generations::new(&self.facts, &crowd.groups).of(environment)
    }

    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn samples(&self) -> MutexGuard<'_, Samples> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Samples until it is aborted.
    pub(crate) async fn run(self: Arc<Self>, sources: Sources) {
        let shared = Arc::clone(&self.facts.shared);
        let mut sampler = Sampler::new(sources);
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut people = People::default();
        let mut next_look = Instant::now();
        loop {
            tokio::select! {
                now = ticks.tick() => {
                    let at = clock::timestamp(shared.clock.now());
                    let (sessions, bytes) = (shared.census.streams(), shared.registry.log_bytes());
                    if let Some(sample) = sampler.take(now, at, sessions, bytes) {
                        self.samples().push(sample);
                    }
                }
                () = self.asked.notified() => {}
            }
            let enough = |kept: &mut Kept| kept.1.elapsed() > LINGER;
            drop(self.kept().take_if(enough));
            if self.status.receiver_count() == 0 {
                // Who is gone needs no memory.
                people = People::default();
                continue;
            }
            let now = Instant::now();
            if now < next_look {
                continue;
            }
            let board = Arc::clone(&self);
            // Many shards take their time: not a worker's.
            let looked = tokio::task::spawn_blocking(move || {
                let status = board.look(&mut people, now);
                (people, status)
            });
            // Fails only if it panicked or the runtime ends.
            let Ok((after, status)) = looked.await else {
                return;
            };
            people = after;
            self.status.send_replace(Some(Arc::new(status)));
            next_look = Instant::now() + now.elapsed() * REST;
        }
    }

    fn look(&self, people: &mut People, now: Instant) -> Status {
        let clock = &self.facts.shared.clock;
        let crowd = people.look(&self.facts.shared.census.all(), now, clock.now());
        let shards = hottest(&self.facts.shared.registry, now);
        let server = self.facts.info();
        let samples = self.samples();
        let findings = findings::find(&server, &crowd, &shards, samples.latest());
        let newest = samples.newest();
        drop(samples);
        let generations = Generations::new(&self.facts, &crowd.groups);
        let mut groups = crowd.groups;
        let groups_left_out = groups.len().saturating_sub(GROUPS) as u64;
        groups.truncate(GROUPS);
        Status {
            message: pb::WatchStatusResponse {
                at: Some(clock::timestamp(clock.now())),
                server: Some(server),
                samples: Vec::new(),
                groups,
                groups_left_out,
                sessions: crowd.sessions,
                shards,
                findings,
                replicas: Vec::new(),
            },
            generations,
            newest,
            json: OnceLock::new(),
        }
    }
}

impl Watcher {
    /// The next status, and the samples that this watcher has not been given.
    /// None: the server is gone. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<(Arc<Status>, Vec<pb::StatusSample>)> {
        let status = loop {
            self.status.changed().await.ok()?;
            if let Some(status) = &*self.status.borrow_and_update() {
                break Arc::clone(status);
            }
        };
        let samples = self.board.samples().after(self.seen, status.newest);
        self.seen = status.newest;
        Some((status, samples))
    }
}

/// Whether a shard comes before another: the busiest, then those with the most
/// subscribers.
pub(crate) fn hotter(a: &pb::Shard, b: &pb::Shard) -> std::cmp::Ordering {
    b.diffs_per_second
        .total_cmp(&a.diffs_per_second)
        .then(b.subscribers.cmp(&a.subscribers))
        .then_with(|| a.shard_id.cmp(&b.shard_id))
}

/// The busiest shards, then those with the most subscribers.
fn hottest(registry: &Registry, now: Instant) -> Vec<pb::Shard> {
    let mut shards = Vec::new();
    registry.for_each(|topic| {
        shards.push(crate::admin::show_shard(topic, now));
        // Never more than twice what is shown.
        if shards.len() >= 2 * SHARDS {
            shards.select_nth_unstable_by(SHARDS, hotter);
            shards.truncate(SHARDS);
        }
    });
    shards.sort_unstable_by(hotter);
    shards.truncate(SHARDS);
    shards
}

/// What is done per second, of what was done within `covers`.
fn per_second(count: u64, covers: Duration) -> f64 {
    // Counts of a second or so: exact.
    count as f64 / covers.as_secs_f64().max(1e-3)
}
