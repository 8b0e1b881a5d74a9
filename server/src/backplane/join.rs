//! How a subscription begins without a hole: NATS is told of the interest
//! first, then the other replicas are asked for what they have. On a
//! connection to NATS, and between its servers, the question travels behind
//! the interest: what a replica publishes after it has heard the question comes
//! by the subscription, and what it had before is in its answer.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Client, Subject};
use persist_pubsub_proto::backplane_v1::{ShardPart, ShardWanted, ShardsAnswer, ShardsQuestion};
use persist_pubsub_proto::{MAX_SEQNO, ShardId};
use prost::Message;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::answers::SHARDS_ASKED;
use super::heal::Healer;
use super::interest::{Held, Interests, Want};
use super::link::Link;
use super::presence::Peers;
use super::questions::{AskError, Questions, To};
use super::receive::{Listening, What};
use super::subjects::Subjects;
use super::target::Target;
use crate::environment::Environment;
use crate::frame::{self, Publication};
use crate::metrics::BackplaneMetrics;
use crate::registry::Registry;
use crate::topic::{Foreign, Start};

/// Questions about shards that are not answered yet; whoever comes next waits.
const ASKED_AT_A_TIME: usize = 64;

/// Subscriptions that are to be made.
pub(super) struct Join {
    pub(super) environment: Arc<Environment>,
    pub(super) shards: Vec<(ShardId, Start)>,
    /// Told when they can be.
    pub(super) done: oneshot::Sender<()>,
}

/// Asks other replicas about shards, and takes what they answer.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) registry: Arc<Registry>,
    pub(super) interests: Arc<Interests>,
    pub(super) questions: Arc<Questions>,
    pub(super) peers: Arc<Peers>,
    pub(super) healer: Arc<Healer>,
    pub(super) metrics: BackplaneMetrics,
    pub(super) timeout: Duration,
    pub(super) window: Duration,
}

/// Takes joins, one after the other, so that a question never goes before an
/// interest that it is about.
pub(super) struct Joiner {
    pub(super) client: Client,
    pub(super) link: Arc<Link>,
    pub(super) subjects: Subjects,
    pub(super) interests: Arc<Interests>,
    pub(super) asker: Arc<Asker>,
    pub(super) listening: mpsc::Sender<Listening>,
}

/// What the joiner is to do.
pub(super) enum Order {
    Join(Join),
    /// Subscribe at NATS to what is not heard yet, then tell.
    Listen(oneshot::Sender<()>),
}

impl Joiner {
    /// Runs until it is dropped.
    pub(super) async fn run(self, mut orders: mpsc::Receiver<Order>) {
        let asking = Arc::new(Semaphore::new(ASKED_AT_A_TIME));
        while let Some(order) = orders.recv().await {
            match order {
                Order::Join(join) => self.join(join, &asking).await,
                Order::Listen(done) => {
                    for environment in self.interests.undigested() {
                        self.listen_to_digests(&environment).await;
                    }
                    for target in self.interests.unheard() {
                        self.listen(target).await;
                    }
                    // Whoever does not wait any more needs no answer.
                    let _ = done.send(());
                }
            }
        }
    }

    async fn join(&self, join: Join, asking: &Arc<Semaphore>) {
        let environment = &join.environment;
        let (alive, done) = watch::channel(());
        let interests = &self.interests;
        let registry = &self.asker.registry;
        let steps = interests.plan(environment, &join.shards, registry, &done);
        if steps.digests {
            self.listen_to_digests(environment).await;
        }
        for target in steps.subscribe {
            self.listen(target).await;
        }
        let alive = Arc::new(alive);
        let mut questions = Vec::new();
        for wants in steps.ask.chunks(SHARDS_ASKED) {
            // Never closed.
            let permit = Arc::clone(asking).acquire_owned().await;
            let (asker, alive) = (Arc::clone(&self.asker), Arc::clone(&alive));
            let (environment, wants) = (Arc::clone(environment), wants.to_vec());
            let to = To::All(self.asker.peers.instances());
            questions.push(tokio::spawn(async move {
                let by_all = asker.ask(to, &environment, &wants).await;
                for (shard, want) in wants {
                    let key = (environment.id(), shard);
                    if let Some(target) = asker.interests.asked(&key, want, by_all) {
                        target.let_through(&asker.registry, &asker.metrics);
                    }
                }
                drop((permit, alive));
            }));
        }
        drop(alive);
        let (told, waits) = (join.done, steps.wait);
        if questions.is_empty() && waits.is_empty() {
            let _ = told.send(());
            return;
        }
        tokio::spawn(async move {
            for question in questions {
                // Fails only if it panicked: then nothing more comes of it.
                let _ = question.await;
            }
            for mut wait in waits {
                // Errs when it is done.
                while wait.changed().await.is_ok() {}
            }
            let _ = told.send(());
        });
    }

    /// Subscribes at NATS, if it is there; else that is done when it is.
    async fn listen(&self, target: Arc<Target>) {
        let (environment, shard) = (&target.environment, target.shard);
        let subject = self.subjects.diff(environment.name(), shard);
        let key = (environment.id(), shard);
        if let Some(stop) = self.subscribe(subject, What::Shard(target)).await {
            self.interests.heard(key, stop);
        }
    }

    async fn listen_to_digests(&self, environment: &Arc<Environment>) {
        let subject = self.subjects.heads(environment.name());
        let what = What::Digests(Arc::clone(environment));
        if let Some(stop) = self.subscribe(subject, what).await {
            self.interests.digests_heard(environment.id(), stop);
        }
    }

    async fn subscribe(&self, subject: Subject, what: What) -> Option<oneshot::Sender<()>> {
        if !self.link.is_up() {
            return None;
        }
        let (stop, stopped) = oneshot::channel();
        tokio::select! {
            biased;
            subscriber = self.client.subscribe(subject) => {
                let listening = Listening {
                    // Fails only when the client has ended.
                    subscriber: subscriber.ok()?,
                    what,
                    stop: stopped,
                };
                self.listening.send(listening).await.ok()?;
                Some(stop)
            }
            () = self.link.lost_again() => None,
        }
    }
}

impl Asker {
    /// Asks for shards, and takes what comes into their topics. True: all have
    /// answered.
    pub(super) async fn ask(
        self: &Arc<Self>,
        to: To,
        environment: &Arc<Environment>,
        wants: &[(ShardId, Want)],
    ) -> bool {
        let question = ShardsQuestion {
            environment: environment.name().to_owned(),
            shards: wants
                .iter()
                .map(|(shard, want)| ShardWanted {
                    shard_id: shard.to_bytes(),
                    after: want.after,
                    recent: want.recent,
                })
                .collect(),
            window_millis: u32::try_from(self.window.as_millis()).unwrap_or(u32::MAX),
        };
        let question = question.encode_to_vec().into();
        let heads: Arc<Mutex<Heads>> = Arc::default();
        let (asker, of, found) = (
            Arc::clone(self),
            Arc::clone(environment),
            Arc::clone(&heads),
        );
        let take = Box::new(
            move |instance: &str, answer: Result<bytes::Bytes, AskError>| {
                let Ok(answer) = answer else { return };
                let mut heads = found.lock().unwrap_or_else(PoisonError::into_inner);
                asker.take(&of, instance, answer, &mut heads);
            },
        );
        let asked = self
            .questions
            .ask(to, super::SHARDS, question, self.timeout, take);
        let by_all = match asked.await {
            Ok(missing) => {
                if !missing.is_empty() {
                    self.metrics.join_timeouts.inc();
                }
                missing.is_empty()
            }
            Err(_) => false,
        };
        let heads = std::mem::take(&mut *heads.lock().unwrap_or_else(PoisonError::into_inner));
        for (shard, (head, instance)) in heads {
            self.take_head(environment, shard, head, &instance);
        }
        by_all
    }

    /// Takes an answer, or a part of one.
    fn take(
        &self,
        environment: &Arc<Environment>,
        instance: &str,
        answer: bytes::Bytes,
        heads: &mut Heads,
    ) {
        let Ok(answer) = ShardsAnswer::decode(answer) else {
            return self.metrics.bad_messages.inc();
        };
        for part in answer.shards {
            let head = part.head;
            let shard = ShardId::from_slice(&part.shard_id);
            let Some(shard) = shard.ok().filter(|_| head <= MAX_SEQNO) else {
                self.metrics.bad_messages.inc();
                continue;
            };
            if self.take_part(environment, shard, part, instance) {
                let highest = heads.entry(shard).or_default();
                if head >= highest.0 {
                    *highest = (head, instance.to_owned());
                }
            }
        }
    }

    /// Takes the diffs of a shard. False: they are not believed now.
    fn take_part(
        &self,
        environment: &Arc<Environment>,
        shard: ShardId,
        part: ShardPart,
        instance: &str,
    ) -> bool {
        let count = part.diffs.len();
        let read = part.diffs.into_iter().map(frame::read_publishing);
        let read = read.map(|p| p.filter(|p| p.shard == shard));
        let diffs: Vec<Publication> = read.flatten().collect();
        let bad = count - diffs.len();
        self.metrics.bad_messages.inc_by(bad as u64);
        let low = diffs.first().map_or(part.head, |first| first.seqno);
        let how = self.weigh(environment, shard, (low, part.head), diffs.len(), instance);
        let Some(how) = how else { return false };
        for publication in diffs {
            self.metrics.received.inc();
            let registry = &self.registry;
            let taken = registry.take_foreign(environment, publication, how, Instant::now());
            if taken.is_none() {
                self.metrics.unwanted.inc();
            }
        }
        true
    }

    /// How to take what a replica has of a shard. None: later, when somebody
    /// is subscribed who is to be told of it.
    fn weigh(
        &self,
        environment: &Arc<Environment>,
        shard: ShardId,
        (low, head): (u64, u64),
        count: usize,
        instance: &str,
    ) -> Option<Foreign> {
        let key = (environment.id(), shard);
        let topic = self.registry.get(&key)?;
        let how = topic.weigh(low, head, count, self.registry.topic_limits());
        if how.is_none() {
            self.healer.behind(instance, [(key, head)]);
        }
        how
    }

    /// A shard stands there: what of it has not come will be a gap.
    fn take_head(&self, environment: &Arc<Environment>, shard: ShardId, head: u64, instance: &str) {
        let topic = self.registry.get(&(environment.id(), shard));
        if topic.is_none_or(|topic| topic.take_up(head)) {
            return;
        }
        let Some(how) = self.weigh(environment, shard, (head, head), 0, instance) else {
            return;
        };
        let publication = Publication {
            shard,
            seqno: head,
            diff: None,
        };
        let now = Instant::now();
        self.registry
            .take_foreign(environment, publication, how, now);
    }
}

/// The highest head of each shard, and whose it is.
type Heads = HashMap<ShardId, (u64, String)>;

/// Waits until shards that are held can be subscribed to.
pub(super) async fn joined(
    orders: &mpsc::Sender<Order>,
    link: &Link,
    environment: &Arc<Environment>,
    shards: &[(ShardId, Start)],
    timeout: Duration,
    held: Held,
) -> Held {
    let (done, told) = oneshot::channel();
    let join = Join {
        environment: Arc::clone(environment),
        shards: shards.to_vec(),
        done,
    };
    let joined = async {
        // Fails when the backplane has ended.
        if orders.send(Order::Join(join)).await.is_ok() {
            let _ = told.await;
        }
    };
    let mut joined = pin!(tokio::time::timeout(timeout, joined));
    tokio::select! {
        biased;
        _ = joined.as_mut() => {}
        // The order stands: what can be heard later, is.
        () = link.lost_again() => {}
    }
    held
}
