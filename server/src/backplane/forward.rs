//! What this replica's sessions publish, on its way to NATS.
//!
//! A session's path puts it into a queue, and never waits; one task takes it
//! out. What the queue has no room for, and what NATS cannot be given now, is
//! not kept: the digest tells the other replicas how far its shard has come,
//! and they ask.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{Client, PublishErrorKind, Subject};
use bytes::Bytes;
use persist_pubsub_proto::backplane_v1::{Head, Heads};
use prost::Message;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::link::Link;
use super::subjects::Subjects;
use crate::environment::Environment;
use crate::frame::{self, Diff};
use crate::metrics::BackplaneMetrics;
use crate::retention::TopicKey;
use crate::topic::Topic;

/// How often the other replicas are told where shards stand.
const DIGEST: Duration = Duration::from_secs(1);
/// In how many digests a publication is told of: as long as it takes to notice
/// that NATS has gone, and more.
const TOLD: u8 = 6;
/// Shards that are remembered to be told of. Of what is beyond, the other
/// replicas learn when they ask about all of theirs, as they do now and then.
const REMEMBERED: usize = 65_536;
/// Shards in one digest: a message of at most 120 KiB.
const HEADS: usize = 4096;
/// What a publication in the queue takes beside its message.
const OVERHEAD: usize = 64;
/// Publications taken out of the queue at a time.
const AT_A_TIME: usize = 256;

/// Publications that wait to be forwarded.
#[derive(Debug)]
pub(crate) struct Outgoing {
    queue: Mutex<Queue>,
    waiting: Notify,
    /// The queue has been emptied.
    emptied: Notify,
    limit: usize,
    metrics: BackplaneMetrics,
}

#[derive(Debug, Default)]
struct Queue {
    publications: VecDeque<Publication>,
    bytes: usize,
    /// Of what had no place.
    missed: HashMap<TopicKey, Arc<Topic>>,
    /// Taken out, and not handed over yet.
    under_way: bool,
}

#[derive(Debug)]
struct Publication {
    topic: Arc<Topic>,
    seqno: u64,
    message: Bytes,
}

impl Publication {
    fn cost(&self) -> usize {
        OVERHEAD + self.message.len()
    }
}

impl Outgoing {
    pub(crate) fn new(limit: usize, metrics: BackplaneMetrics) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::default(),
            waiting: Notify::new(),
            emptied: Notify::new(),
            limit,
            metrics,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a session of this replica has published. `diff` is None
    /// where only the seqno was told.
    pub(crate) fn forward(&self, topic: &Arc<Topic>, seqno: u64, diff: Option<&Diff>) {
        let publication = Publication {
            topic: Arc::clone(topic),
            seqno,
            message: frame::publishing(topic.shard, seqno, diff),
        };
        let cost = publication.cost();
        let mut queue = self.lock();
        if queue.bytes + cost > self.limit {
            if queue.missed.len() < REMEMBERED {
                queue.missed.insert(topic.key(), publication.topic);
            }
            drop(queue);
            self.metrics.queue_full.inc();
            return;
        }
        queue.bytes += cost;
        let first = queue.publications.is_empty();
        queue.publications.push_back(publication);
        drop(queue);
        if first {
            self.waiting.notify_one();
        }
    }

    /// Takes the next ones out, and what had no place.
    fn take(&self, batch: &mut Vec<Publication>, missed: &mut HashMap<TopicKey, Arc<Topic>>) {
        let mut queue = self.lock();
        let few = queue.publications.len().min(AT_A_TIME);
        batch.extend(queue.publications.drain(..few));
        queue.bytes -= batch.iter().map(Publication::cost).sum::<usize>();
        missed.extend(queue.missed.drain());
        queue.under_way = !batch.is_empty();
        if !queue.under_way {
            drop(queue);
            self.emptied.notify_waiters();
        }
    }

    /// Completes when nothing waits to be forwarded.
    pub(super) async fn emptied(&self) {
        loop {
            let mut emptied = pin!(self.emptied.notified());
            // Before the look: no change in between is missed.
            emptied.as_mut().enable();
            {
                let queue = self.lock();
                if queue.publications.is_empty() && !queue.under_way {
                    return;
                }
            }
            emptied.await;
        }
    }
}

/// Hands publications and digests to NATS.
pub(super) struct Forwarder {
    pub(super) outgoing: Arc<Outgoing>,
    pub(super) client: Client,
    pub(super) link: Arc<Link>,
    pub(super) subjects: Subjects,
    pub(super) instance: String,
    pub(super) metrics: BackplaneMetrics,
    recent: HashMap<TopicKey, Recent>,
}

/// A shard that was published to a moment ago.
struct Recent {
    topic: Arc<Topic>,
    /// Digests that tell of it yet.
    left: u8,
}

impl Forwarder {
    pub(super) fn new(
        outgoing: Arc<Outgoing>,
        client: Client,
        link: Arc<Link>,
        subjects: Subjects,
        instance: String,
        metrics: BackplaneMetrics,
    ) -> Self {
        Self {
            outgoing,
            client,
            link,
            subjects,
            instance,
            metrics,
            recent: HashMap::new(),
        }
    }

    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        let outgoing = Arc::clone(&self.outgoing);
        let mut next_digest = Instant::now() + DIGEST;
        let mut batch = Vec::with_capacity(AT_A_TIME);
        let mut missed = HashMap::new();
        let (link, mut turn) = (Arc::clone(&self.link), 0);
        loop {
            tokio::select! {
                () = outgoing.waiting.notified() => {}
                // Nobody knows what has come through of what was told before.
                () = link.connected_again(&mut turn) => {
                    self.recent.values_mut().for_each(|r| r.left = TOLD);
                }
                () = tokio::time::sleep_until(next_digest) => {}
            }
            loop {
                outgoing.take(&mut batch, &mut missed);
                missed.drain().for_each(|(_, topic)| self.remember(topic));
                if batch.is_empty() {
                    break;
                }
                self.hand_over(&mut batch).await;
                if Instant::now() >= next_digest {
                    self.digest().await;
                    next_digest = Instant::now() + DIGEST;
                }
            }
            if Instant::now() >= next_digest {
                self.digest().await;
                next_digest = Instant::now() + DIGEST;
            }
        }
    }

    fn remember(&mut self, topic: Arc<Topic>) {
        let key = topic.key();
        if self.recent.len() >= REMEMBERED && !self.recent.contains_key(&key) {
            return;
        }
        self.recent.insert(key, Recent { topic, left: TOLD });
    }

    async fn hand_over(&mut self, batch: &mut Vec<Publication>) {
        let (link, client) = (Arc::clone(&self.link), self.client.clone());
        let mut lost = pin!(link.lost_again());
        let mut up = link.is_up();
        for publication in batch.drain(..) {
            let Publication {
                topic,
                seqno,
                message,
            } = publication;
            if up {
                let (shard, environment) = (topic.shard, topic.environment.name());
                let subject = self.subjects.diff(environment, shard);
                let message = if message.len() > client.max_payload() {
                    self.metrics.too_large.inc();
                    frame::publishing(shard, seqno, None)
                } else {
                    message
                };
                tokio::select! {
                    biased;
                    told = client.publish(subject, message) => match told {
                        Ok(()) => self.metrics.forwarded.inc(),
                        // The bound has just become smaller, with another NATS
                        // server.
                        Err(e) if e.kind() == PublishErrorKind::MaxPayloadExceeded => {
                            self.metrics.too_large.inc();
                        }
                        Err(_) => self.metrics.queue_full.inc(),
                    },
                    () = &mut lost => up = false,
                }
            }
            if !up {
                self.metrics.queue_full.inc();
            }
            self.remember(topic);
        }
    }

    /// Tells the other replicas where the shards stand that were published to.
    async fn digest(&mut self) {
        if !self.link.is_up() || self.recent.is_empty() {
            return;
        }
        let mut by_environment: HashMap<u64, (Arc<Environment>, Vec<Head>)> = HashMap::new();
        self.recent.retain(|_, recent| {
            let topic = &recent.topic;
            if let Some(seqno) = topic.head() {
                let environment = &topic.environment;
                let heads = by_environment
                    .entry(environment.id())
                    .or_insert_with(|| (Arc::clone(environment), Vec::new()));
                heads.1.push(Head {
                    shard_id: topic.shard.to_bytes(),
                    seqno,
                });
            }
            recent.left -= 1;
            recent.left > 0
        });
        let link = Arc::clone(&self.link);
        let mut lost = pin!(link.lost_again());
        for (environment, heads) in by_environment.into_values() {
            let subject = self.subjects.heads(environment.name());
            for heads in heads.chunks(HEADS) {
                let digest = Heads {
                    instance: self.instance.clone(),
                    heads: heads.to_vec(),
                };
                tokio::select! {
                    biased;
                    () = self.tell(subject.clone(), digest) => {}
                    () = &mut lost => return,
                }
            }
        }
    }

    async fn tell(&self, subject: Subject, digest: Heads) {
        // Fails only when the client has ended, or cannot send so much: the
        // other replicas ask now and then by themselves.
        let _ = self
            .client
            .publish(subject, digest.encode_to_vec().into())
            .await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use persist_pubsub_proto::ShardId;

    use super::*;
    use crate::environment::Environments;

    fn topic(n: u8) -> Arc<Topic> {
        let environment = Arc::new(Environments::default()).get("e");
        Arc::new(Topic::new(environment, ShardId::new([n; 16])))
    }

    /// What does not fit is known by its shard alone, each once, and takes no
    /// room; what is taken out makes room.
    #[test]
    fn the_queue_is_bounded_by_bytes() {
        let metrics = BackplaneMetrics::new(&prometheus::Registry::new()).unwrap();
        let message = frame::publishing(ShardId::new([0; 16]), 1, None);
        let fits = 3 * (OVERHEAD + message.len());
        let outgoing = Outgoing::new(fits, metrics.clone());
        let (a, b) = (topic(1), topic(2));
        for seqno in 1..=5 {
            outgoing.forward(&a, seqno, None);
        }
        outgoing.forward(&b, 1, None);
        outgoing.forward(&b, 2, None);
        assert_eq!(metrics.queue_full.get(), 4);
        let (mut batch, mut missed) = (Vec::new(), HashMap::new());
        outgoing.take(&mut batch, &mut missed);
        let taken: Vec<u64> = batch.drain(..).map(|p| p.seqno).collect();
        assert_eq!((taken, missed.len()), (vec![1, 2, 3], 2));
        assert_eq!(outgoing.lock().bytes, 0);
        outgoing.forward(&b, 3, None);
        outgoing.take(&mut batch, &mut missed);
        assert_eq!(batch.len(), 1);
    }

    #[tokio::test]
    async fn it_is_empty_when_all_is_handed_over() {
        let metrics = BackplaneMetrics::new(&prometheus::Registry::new()).unwrap();
        let outgoing = Outgoing::new(1024, metrics);
        outgoing.emptied().await;
        outgoing.forward(&topic(1), 1, None);
        let (mut batch, mut missed) = (Vec::new(), HashMap::new());
        outgoing.take(&mut batch, &mut missed);
        let at_once = outgoing.emptied().now_or_never();
        assert!(at_once.is_none(), "it is taken out, and not handed over");
        batch.clear();
        outgoing.take(&mut batch, &mut missed);
        outgoing.emptied().await;
    }
}
