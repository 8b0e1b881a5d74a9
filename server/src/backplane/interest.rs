//! Which shards this replica takes from NATS, and what it has asked of each.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use persist_pubsub_proto::ShardId;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::target::Target;
use crate::environment::Environment;
use crate::metrics::BackplaneMetrics;
use crate::registry::Registry;
use crate::retention::TopicKey;
use crate::topic::{Start, Topic};

/// What is asked of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Want {
    /// The diffs above this seqno.
    pub(super) after: Option<u64>,
    /// The diffs of the replay window.
    pub(super) recent: bool,
}

impl Want {
    /// Whether who gets `self` gets `other` with it.
    fn covers(self, other: Self) -> bool {
        let after = match (self.after, other.after) {
            (_, None) => true,
            (Some(mine), Some(other)) => mine <= other,
            (None, Some(_)) => false,
        };
        after && (self.recent || !other.recent)
    }

    /// Both in one.
    fn with(self, other: Self) -> Self {
        Self {
            after: self.after.into_iter().chain(other.after).min(),
            recent: self.recent || other.recent,
        }
    }
}

/// What of a shard's past is here, as far as other replicas had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Covered {
    /// Everything above this seqno.
    after: u64,
    /// Everything of the replay window before it was asked.
    recent: bool,
}

/// What has to be asked before a subscription can begin at `start`; None:
/// nothing.
pub(super) fn wanted(covered: Option<Covered>, start: Start) -> Option<Want> {
    let (after, recent) = match start {
        Start::Now => (None, false),
        Start::Replay => (None, true),
        Start::After(have) => (Some(have), false),
    };
    let want = Want { after, recent };
    let Some(covered) = covered else {
        return Some(want);
    };
    let lacks_after = after.is_some_and(|after| after < covered.after);
    (lacks_after || (recent && !covered.recent)).then_some(want)
}

/// A shard that is taken from NATS.
#[derive(Debug)]
struct Interest {
    target: Arc<Target>,
    /// What is taken goes there. Replaced when the registry lets go of it.
    topic: Option<Arc<Topic>>,
    /// Subscribed at NATS; dropping it ends that.
    heard: Option<oneshot::Sender<()>>,
    /// Subscriptions that are being made.
    holds: u32,
    /// Since when nobody is subscribed, as far as it was looked at.
    unwatched: Option<Instant>,
    covered: Option<Covered>,
    /// What is being asked, and when it is done.
    asking: Option<(Want, watch::Receiver<()>)>,
}

/// What an environment's shards need together.
#[derive(Debug)]
struct Whole {
    environment: Arc<Environment>,
    shards: usize,
    /// Its digests are heard; dropping it ends that.
    heard: Option<oneshot::Sender<()>>,
}

/// All that is taken from NATS.
#[derive(Debug)]
pub(super) struct Interests {
    inner: Mutex<Inner>,
    metrics: BackplaneMetrics,
}

#[derive(Debug, Default)]
struct Inner {
    shards: HashMap<TopicKey, Interest>,
    environments: HashMap<u64, Whole>,
}

/// Keeps shards from being let go, until their subscriptions are made.
#[derive(Debug)]
pub(crate) struct Held {
    interests: Arc<Interests>,
    keys: Vec<TopicKey>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut inner = self.interests.lock();
        for key in &self.keys {
            if let Some(interest) = inner.shards.get_mut(key) {
                interest.holds -= 1;
            }
        }
    }
}

/// What has to be done for some shards.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// To subscribe at NATS.
    pub(super) subscribe: Vec<Arc<Target>>,
    /// The digests are not heard yet.
    pub(super) digests: bool,
    /// To ask for.
    pub(super) ask: Vec<(ShardId, Want)>,
    /// Asked for already: to be waited for.
    pub(super) wait: Vec<watch::Receiver<()>>,
}

impl Interests {
    pub(super) fn new(metrics: BackplaneMetrics) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::default(),
            metrics,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds shards that are to be subscribed to. They are the environment's,
    /// few enough for one hold of the lock.
    pub(super) fn hold(
        self: &Arc<Self>,
        environment: &Arc<Environment>,
        shards: impl Iterator<Item = ShardId>,
    ) -> Held {
        let mut keys = Vec::with_capacity(shards.size_hint().0);
        let mut inner = self.lock();
        let Inner {
            shards: interests,
            environments,
        } = &mut *inner;
        for shard in shards {
            let key = (environment.id(), shard);
            let interest = match interests.entry(key) {
                Entry::Occupied(interest) => interest.into_mut(),
                Entry::Vacant(vacant) => {
                    let whole = environments
                        .entry(environment.id())
                        .or_insert_with(|| Whole {
                            environment: Arc::clone(environment),
                            shards: 0,
                            heard: None,
                        });
                    whole.shards += 1;
                    self.metrics.interests.inc();
                    vacant.insert(Interest {
                        target: Target::new(Arc::clone(environment), shard),
                        topic: None,
                        heard: None,
                        holds: 0,
                        unwatched: None,
                        covered: None,
                        asking: None,
                    })
                }
            };
            interest.holds += 1;
            interest.unwatched = None;
            keys.push(key);
        }
        drop(inner);
        Held {
            interests: Arc::clone(self),
            keys,
        }
    }

    /// What has to be done before subscriptions can begin so. What is to be
    /// asked is taken for asked from now on, until `done` is dropped.
    pub(super) fn plan(
        &self,
        environment: &Arc<Environment>,
        shards: &[(ShardId, Start)],
        registry: &Registry,
        done: &watch::Receiver<()>,
    ) -> Steps {
        let mut steps = Steps::default();
        let mut inner = self.lock();
        let whole = inner.environments.get(&environment.id());
        steps.digests = whole.is_some_and(|whole| whole.heard.is_none());
        for &(shard, start) in shards {
            let key = (environment.id(), shard);
            // Let go meanwhile, by who does not wait any more.
            let Some(interest) = inner.shards.get_mut(&key) else {
                continue;
            };
            // Where the server takes no more shards, the subscription says so.
            let Ok(topic) = registry.expect(environment, shard) else {
                continue;
            };
            let same = |known: &Arc<Topic>| Arc::ptr_eq(known, &topic);
            if !interest.topic.as_ref().is_some_and(same) {
                interest.topic = Some(topic);
                interest.covered = None;
                interest.asking = None;
            }
            if interest.heard.is_none() {
                steps.subscribe.push(Arc::clone(&interest.target));
            }
            let Some(want) = wanted(interest.covered, start) else {
                continue;
            };
            match &interest.asking {
                Some((asked, done)) if asked.covers(want) && done.has_changed().is_ok() => {
                    steps.wait.push(done.clone());
                }
                asking => {
                    let before = asking.as_ref().map(|(asked, _)| *asked);
                    let want = before.map_or(want, |before| before.with(want));
                    interest.asking = Some((want, done.clone()));
                    let watched = interest.topic.as_ref().is_some_and(|t| t.is_watched());
                    if interest.covered.is_none() && !watched {
                        interest.target.hold_back();
                    }
                    steps.ask.push((shard, want));
                }
            }
        }
        steps
    }

    /// A shard is heard now; gives `stop` back if nobody wants it any more.
    pub(super) fn heard(&self, key: TopicKey, stop: oneshot::Sender<()>) {
        if let Some(interest) = self.lock().shards.get_mut(&key) {
            interest.heard = Some(stop);
        }
    }

    /// The digests of an environment are heard now.
    pub(super) fn digests_heard(&self, environment: u64, stop: oneshot::Sender<()>) {
        if let Some(whole) = self.lock().environments.get_mut(&environment) {
            whole.heard = Some(stop);
        }
    }

    /// A shard's question was answered by all, or not. Where what came
    /// meanwhile goes on to.
    pub(super) fn asked(&self, key: &TopicKey, want: Want, by_all: bool) -> Option<Arc<Target>> {
        let mut inner = self.lock();
        let interest = inner.shards.get_mut(key)?;
        if interest.asking.as_ref().is_some_and(|(w, _)| *w == want) {
            interest.asking = None;
        }
        let target = Some(Arc::clone(&interest.target));
        let Some(topic) = interest.topic.as_ref().filter(|_| by_all) else {
            return target;
        };
        let after = want.after.or_else(|| topic.head()).unwrap_or(0);
        let before = interest.covered;
        interest.covered = Some(Covered {
            after: before.map_or(after, |before| before.after.min(after)),
            recent: want.recent || before.is_some_and(|before| before.recent),
        });
        target
    }

    /// The environment of a shard that is taken, for who knows its id.
    pub(super) fn environment(&self, key: &TopicKey) -> Option<Arc<Environment>> {
        let inner = self.lock();
        inner
            .shards
            .get(key)
            .map(|i| Arc::clone(&i.target.environment))
    }

    /// All shards, those of an environment one after the other.
    pub(super) fn all(&self) -> Vec<(Arc<Environment>, ShardId)> {
        let inner = self.lock();
        let all = inner.shards.iter();
        let mut all: Vec<_> = all
            .map(|(key, interest)| (Arc::clone(&interest.target.environment), key.1))
            .collect();
        drop(inner);
        all.sort_unstable_by_key(|(environment, shard)| (environment.id(), *shard.as_bytes()));
        all
    }

    /// Those that are not heard, as when NATS was away.
    pub(super) fn unheard(&self) -> Vec<Arc<Target>> {
        let inner = self.lock();
        let unheard = inner.shards.values().filter(|i| i.heard.is_none());
        unheard.map(|i| Arc::clone(&i.target)).collect()
    }

    /// Environments whose digests are not heard.
    pub(super) fn undigested(&self) -> Vec<Arc<Environment>> {
        let inner = self.lock();
        let all = inner.environments.values();
        let undigested = all.filter(|whole| whole.heard.is_none());
        undigested.map(|w| Arc::clone(&w.environment)).collect()
    }

    /// Lets go of what nobody has been subscribed to for `linger`.
    pub(super) async fn sweep(&self, registry: &Registry, linger: Duration) {
        let keys: Vec<TopicKey> = self.lock().shards.keys().copied().collect();
        for keys in keys.chunks(256) {
            let now = Instant::now();
            let gone: Vec<Interest> = {
                let mut inner = self.lock();
                let look = |key| inner.look_at(key, registry, now, linger);
                keys.iter().filter_map(look).collect()
            };
            for interest in gone {
                self.metrics.interests.dec();
                if let Some(topic) = &interest.topic {
                    registry.expect_no_more(&topic.key());
                }
            }
            tokio::task::yield_now().await;
        }
    }
}

impl Inner {
    /// Takes an interest out that has not been wanted for `linger`.
    fn look_at(
        &mut self,
        key: &TopicKey,
        registry: &Registry,
        now: Instant,
        linger: Duration,
    ) -> Option<Interest> {
        let interest = self.shards.get_mut(key)?;
        // The order of locks is interests, then map, then topic.
        let watched = registry.get(key).is_some_and(|topic| topic.is_watched());
        if interest.holds > 0 || watched {
            interest.unwatched = None;
            return None;
        }
        let since = *interest.unwatched.get_or_insert(now);
        if now.duration_since(since) < linger {
            return None;
        }
        let gone = self.shards.remove(key);
        if let Entry::Occupied(mut whole) = self.environments.entry(key.0) {
            whole.get_mut().shards -= 1;
            if whole.get().shards == 0 {
                whole.remove();
            }
        }
        gone
    }
}

#[cfg(test)]
mod tests;
