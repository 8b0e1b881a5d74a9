//! Finds the topic of a shard, and keeps all topics within their bounds.

mod eviction;
mod foreign;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry as MapEntry;
use persist_pubsub_proto::{MAX_SEQNO, ShardId};
use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::backplane::Outgoing;
use crate::environment::{Environment, Environments};
use crate::error::{Refusal, RefusalCode};
use crate::frame::Publication;
use crate::happening::{Happening, What};
use crate::mailbox::Mailbox;
use crate::metrics::TopicMetrics;
use crate::retention::{Retention, TopicKey};
use crate::session::SessionId;
use crate::topic::{Closed, Joined, Left, Published, Start, Topic, TopicLimits, Verdict};
use crate::unwatched::Unwatched;

/// Bounds of the registry as a whole; those of each topic are in
/// [`TopicLimits`].
#[derive(Clone, Debug)]
pub(crate) struct RegistryLimits {
    pub(crate) topic: TopicLimits,
    /// Diffs older than this are evicted.
    pub(crate) log_age: Duration,
    /// Bytes in all logs.
    pub(crate) log_bytes_total: usize,
    /// Topics.
    pub(crate) max_topics: usize,
    /// A larger diff is not relayed: the log keeps that it was there.
    pub(crate) max_diff_bytes: usize,
}

/// All topics.
#[derive(Debug)]
pub(crate) struct Registry {
    topics: DashMap<TopicKey, Arc<Topic>>,
    count: AtomicUsize,
    environments: Arc<Environments>,
    retention: Retention,
    unwatched: Unwatched,
    limits: RegistryLimits,
    metrics: TopicMetrics,
    happenings: broadcast::Sender<Happening>,
    /// Empty: there are no other replicas.
    outgoing: OnceLock<Arc<Outgoing>>,
}

/// Who subscribes, and how it is told that there is something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subscriber<'a> {
    pub(crate) session: SessionId,
    pub(crate) mailbox: &'a Arc<Mailbox>,
    /// The session's name for the subscription.
    pub(crate) slot: u32,
}

/// A subscription as a session holds it.
#[derive(Debug)]
pub(crate) struct Subscribed {
    pub(crate) topic: Arc<Topic>,
    pub(crate) joined: Joined,
}

impl Registry {
    pub(crate) fn new(limits: RegistryLimits, metrics: TopicMetrics) -> Arc<Self> {
        Arc::new(Self {
            topics: DashMap::new(),
            count: AtomicUsize::new(0),
            environments: Arc::default(),
            retention: Retention::new(limits.log_bytes_total),
            unwatched: Unwatched::default(),
            limits,
            metrics,
            // A watcher further behind than this loses events, and is told.
            happenings: broadcast::channel(4096).0,
            outgoing: OnceLock::new(),
        })
    }

    pub(crate) fn environment(&self, name: &str) -> Arc<Environment> {
        self.environments.get(name)
    }

    pub(crate) fn topic_limits(&self) -> &TopicLimits {
        &self.limits.topic
    }

    pub(crate) fn topics(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(crate) fn log_bytes(&self) -> usize {
        self.retention.bytes()
    }

    pub(crate) fn log_bytes_limit(&self) -> usize {
        self.limits.log_bytes_total
    }

    /// Every topic, in no order.
    pub(crate) fn for_each(&self, mut f: impl FnMut(&Arc<Topic>)) {
        for topic in &self.topics {
            f(topic.value());
        }
    }

    /// What happens on shards from now on.
    pub(crate) fn watch(&self) -> broadcast::Receiver<Happening> {
        self.happenings.subscribe()
    }

    fn happened(&self, happening: impl FnOnce() -> Happening) {
        if self.happenings.receiver_count() > 0 {
            // Fails when the last watcher has just left.
            let _ = self.happenings.send(happening());
        }
    }

    /// The topic of a shard, made if need be. When there are too many, that goes
    /// which has been without a subscriber for the longest: what a flood
    /// publishes to shards of its own keeps no room from who subscribes. A
    /// reader who comes back to what went is told that nothing is known, as
    /// after a restart. Fails when all have subscribers.
    fn topic(&self, environment: &Arc<Environment>, shard: ShardId) -> Result<Arc<Topic>, Refusal> {
        let key = (environment.id(), shard);
        if let Some(topic) = self.topics.get(&key) {
            return Ok(Arc::clone(&topic));
        }
        if self.is_full() {
            self.make_room();
        }
        match self.topics.entry(key) {
            MapEntry::Occupied(topic) => Ok(Arc::clone(topic.get())),
            MapEntry::Vacant(vacant) => {
                // Counted under this entry's lock alone: as many makers as
                // there are threads may pass the bound together.
                if self.is_full() {
                    self.metrics.shards_refused.inc();
                    return Err(Refusal::new(
                        RefusalCode::TooManyTopics,
                        format!(
                            "the server holds {} shards with subscribers already (--max-shards)",
                            self.limits.max_topics
                        ),
                    )
                    .shard(shard));
                }
                let topic = Arc::new(Topic::new(Arc::clone(environment), shard));
                // Counted before it is there to be forgotten by another: else
                // the count could pass below 0.
                self.count.fetch_add(1, Ordering::Relaxed);
                vacant.insert(Arc::clone(&topic));
                Ok(topic)
            }
        }
    }

    /// Takes what `session` published. `own` is the session's own
    /// subscription of the shard, if it has one.
    pub(crate) fn publish(
        self: &Arc<Self>,
        environment: &Arc<Environment>,
        publication: Publication,
        session: SessionId,
        own: Option<(&Arc<Topic>, u32)>,
        now: Instant,
    ) -> Result<Verdict, Refusal> {
        let Publication { shard, seqno, diff } = publication;
        if seqno > MAX_SEQNO {
            return Err(Refusal::new(
                RefusalCode::InvalidSeqno,
                format!("seqno {seqno} is above 2^63 - 1"),
            )
            .shard(shard)
            .seqno(seqno));
        }
        let (diff_bytes, stamp) = diff
            .as_ref()
            .map_or((0, None), |d| (d.len(), d.committed_unix_nanos()));
        let announced = diff.is_none();
        let diff = diff.filter(|d| d.len() <= self.limits.max_diff_bytes);
        if diff.is_none() && !announced {
            self.metrics.diffs_too_large.inc();
        }
        let diff = diff.map(Arc::new);
        let index = own.map(|(_, index)| index);
        let mut topic = match own {
            Some((topic, _)) => Arc::clone(topic),
            None => self.topic(environment, shard)?,
        };
        let published = loop {
            match topic.publish(seqno, diff.clone(), session, index, now, &self.limits.topic) {
                Ok(published) => break published,
                // Closed between the look-up and the lock; a topic with a
                // subscriber of ours is never closed.
                Err(Closed) => topic = self.topic(environment, shard)?,
            }
        };
        self.account(&topic, &published);
        if published.unwatched {
            self.unwatched.list(&topic);
        }
        let verdict = published.verdict;
        if let Some(outgoing) = self.outgoing.get()
            && !verdict.is_old()
        {
            outgoing.forward(&topic, seqno, diff.as_deref());
        }
        if let Some(deadline) = published.arm {
            self.release_at(topic, deadline);
        }
        self.happened(|| Happening {
            environment: Arc::clone(environment),
            shard,
            what: if announced && !verdict.is_old() {
                What::Announced
            } else {
                What::Published(verdict)
            },
            seqno: Some(seqno),
            diff_bytes,
            committed_unix_nanos: stamp,
            session: Some(session),
        });
        if let Verdict::Gapped(last) = verdict {
            self.gapped(environment, shard, last);
        }
        Ok(verdict)
    }

    fn account(&self, topic: &Topic, published: &Published) {
        let metrics = &self.metrics;
        match published.verdict {
            Verdict::InOrder => {}
            Verdict::Held => metrics.held_back.inc(),
            Verdict::Gapped(_) => metrics.gapped.inc(),
            Verdict::FilledLate => metrics.filled_late.inc(),
            Verdict::Duplicate | Verdict::DoubtedAgain => metrics.duplicates.inc(),
            Verdict::Doubted => metrics.doubted.inc(),
            Verdict::Adopted => metrics.adopted.inc(),
            Verdict::Backfilled => {}
        }
        if published.evicted > 0 {
            metrics.evicted_shard.inc_by(published.evicted as u64);
        }
        if let Some(age) = published.age {
            self.retention.enter(age, topic.key());
        }
        self.grew(published.grown);
    }

    /// Counts bytes that logs have gained; evicts if they are too many.
    pub(crate) fn grew(&self, bytes: isize) {
        if bytes != 0 && self.retention.grew(bytes) {
            self.relieve();
        }
    }

    fn gapped(&self, environment: &Arc<Environment>, shard: ShardId, last: u64) {
        self.happened(|| Happening {
            environment: Arc::clone(environment),
            shard,
            what: What::Gapped,
            seqno: Some(last),
            diff_bytes: 0,
            committed_unix_nanos: None,
            session: None,
        });
    }

    /// Lets through, in time, what waits for its predecessor. One task for a
    /// topic that holds something back, for as long as it does.
    fn release_at(self: &Arc<Self>, topic: Arc<Topic>, deadline: Instant) {
        let registry = Arc::clone(self);
        tokio::spawn(async move {
            let mut next = Some(deadline);
            while let Some(deadline) = next {
                tokio::time::sleep_until(deadline).await;
                let passed;
                (passed, next) = topic.release_due(Instant::now(), &registry.limits.topic);
                if let Some(last) = passed {
                    registry.metrics.gapped.inc();
                    registry.gapped(&topic.environment, topic.shard, last);
                }
            }
        });
    }

    /// Subscribes a session.
    pub(crate) fn subscribe(
        &self,
        environment: &Arc<Environment>,
        shard: ShardId,
        subscriber: Subscriber<'_>,
        start: Start,
        now: Instant,
    ) -> Result<Subscribed, Refusal> {
        let Subscriber {
            session,
            mailbox,
            slot,
        } = subscriber;
        loop {
            let topic = self.topic(environment, shard)?;
            // A topic closed between the look-up and its lock is looked up
            // again: the subscription is never left with the dead one.
            if let Ok(joined) = topic.subscribe(mailbox, slot, start, now, &self.limits.topic) {
                self.unwatched.watched(&topic);
                self.happened(|| Happening {
                    environment: Arc::clone(environment),
                    shard,
                    what: What::Subscribed,
                    seqno: joined.head,
                    diff_bytes: 0,
                    committed_unix_nanos: None,
                    session: Some(session),
                });
                return Ok(Subscribed { topic, joined });
            }
        }
    }

    /// Gives a subscription back.
    pub(crate) fn unsubscribe(&self, topic: &Topic, index: u32, session: SessionId) {
        match topic.unsubscribe(index) {
            Left::Watched => {}
            Left::Unwatched => self.unwatched.list(topic),
            Left::Idle => self.forget_idle(&topic.key()),
        }
        self.happened(|| Happening {
            environment: Arc::clone(&topic.environment),
            shard: topic.shard,
            what: What::Unsubscribed,
            seqno: None,
            diff_bytes: 0,
            committed_unix_nanos: None,
            session: Some(session),
        });
    }

    /// Counts the bytes of diffs' frames that were encoded on first need, less
    /// what was evicted for them, and so many entries of it.
    pub(crate) fn encoded(&self, grown: isize, evicted: usize) {
        if evicted > 0 {
            self.metrics.evicted_shard.inc_by(evicted as u64);
        }
        self.grew(grown);
    }
}

#[cfg(test)]
mod tests;
