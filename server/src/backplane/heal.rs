//! What NATS may have lost is asked for again: after a connect, when messages
//! were dropped, of a replica that is new or was away, of what a digest tells,
//! and now and then of everything.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use persist_pubsub_proto::backplane_v1::Heads;
use persist_pubsub_proto::{MAX_SEQNO, ShardId};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::answers::SHARDS_ASKED;
use super::interest::{Interests, Want};
use super::join::{Asker, Order};
use super::link::Link;
use super::questions::To;
use crate::environment::Environment;
use crate::metrics::BackplaneMetrics;
use crate::registry::Registry;
use crate::retention::TopicKey;

/// How often all that is taken is asked for, whether anything was lost or not.
const AUDIT: Duration = Duration::from_secs(30);
/// How long what a digest tells of may take to come by itself: digests and
/// publications are read by different hands.
const GRACE: Duration = Duration::from_millis(100);

/// What is to be asked for.
#[derive(Debug, Default)]
struct Todo {
    /// Of everybody, all that is taken.
    everybody: Option<&'static str>,
    /// Of these, the same.
    replicas: HashSet<String>,
    /// Shards that a replica says it has more of. As many as are taken at most.
    told: HashMap<TopicKey, (String, u64)>,
    told_at: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Healer {
    registry: Arc<Registry>,
    interests: Arc<Interests>,
    metrics: BackplaneMetrics,
    todo: Mutex<Todo>,
    changed: Notify,
}

/// What the healing needs to ask.
pub(super) struct Means {
    pub(super) asker: Arc<Asker>,
    pub(super) link: Arc<Link>,
    pub(super) orders: mpsc::Sender<Order>,
    /// Over how long it is spread.
    pub(super) window: Duration,
    pub(super) linger: Duration,
}

impl Healer {
    pub(super) fn new(
        registry: Arc<Registry>,
        interests: Arc<Interests>,
        metrics: BackplaneMetrics,
    ) -> Arc<Self> {
        Arc::new(Self {
            registry,
            interests,
            metrics,
            todo: Mutex::default(),
            changed: Notify::new(),
        })
    }

    fn todo(&self) -> MutexGuard<'_, Todo> {
        self.todo.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is a connection to NATS, and was none, or another.
    pub(super) fn connected(&self) {
        self.everybody("connected");
    }

    fn everybody(&self, reason: &'static str) {
        self.todo().everybody.get_or_insert(reason);
        self.changed.notify_one();
    }

    /// A replica has come, or come back.
    pub(super) fn replica(&self, instance: String) {
        self.todo().replicas.insert(instance);
        self.changed.notify_one();
    }

    /// A replica says how far shards have come.
    pub(super) fn heads(&self, environment: &Arc<Environment>, heads: Heads) {
        let mut behind = Vec::new();
        for head in heads.heads {
            let shard = ShardId::from_slice(&head.shard_id);
            let Some(shard) = shard.ok().filter(|_| head.seqno <= MAX_SEQNO) else {
                self.metrics.bad_messages.inc();
                continue;
            };
            let key = (environment.id(), shard);
            if self.is_behind(&key, head.seqno) {
                behind.push((key, head.seqno));
            }
        }
        self.behind(&heads.instance, behind);
    }

    /// A replica has more of some shards: it is asked in a moment.
    pub(super) fn behind(&self, instance: &str, shards: impl IntoIterator<Item = (TopicKey, u64)>) {
        let mut shards = shards.into_iter().peekable();
        if shards.peek().is_none() {
            return;
        }
        let mut todo = self.todo();
        for (key, head) in shards {
            todo.told.insert(key, (instance.to_owned(), head));
        }
        todo.told_at.get_or_insert_with(Instant::now);
        drop(todo);
        self.changed.notify_one();
    }

    /// Whether somebody here wants the shard, and does not know of `head`.
    fn is_behind(&self, key: &TopicKey, head: u64) -> bool {
        let topic = self.registry.get(key);
        topic.is_some_and(|t| t.head().is_none_or(|known| known < head))
            && self.interests.environment(key).is_some()
    }

    /// Runs until it is dropped.
    pub(super) async fn run(self: Arc<Self>, means: Means) {
        let mut audits = tokio::time::interval_at(Instant::now() + AUDIT, AUDIT);
        audits.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sweeps = tokio::time::interval(means.linger / 4);
        sweeps.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let told_at = self.todo().told_at;
            let due = async {
                match told_at {
                    Some(at) => tokio::time::sleep_until(at + GRACE).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = means.link.slow.notified() => self.everybody("slow_consumer"),
                _ = audits.tick() => self.everybody("audit"),
                _ = sweeps.tick() => self.interests.sweep(&self.registry, means.linger).await,
                () = due => {
                    let told = self.take_told();
                    self.catch_up(told, &means).await;
                }
            }
            self.resync(&means).await;
        }
    }

    fn take_told(&self) -> HashMap<TopicKey, (String, u64)> {
        let mut todo = self.todo();
        todo.told_at = None;
        std::mem::take(&mut todo.told)
    }

    /// Asks for what was told of and has not come.
    async fn catch_up(&self, told: HashMap<TopicKey, (String, u64)>, means: &Means) {
        let mut by_replica: HashMap<(String, u64), Vec<(Arc<Environment>, ShardId)>> =
            HashMap::new();
        for (key, (instance, head)) in told {
            let environment = self.interests.environment(&key);
            let Some(environment) = environment.filter(|_| self.is_behind(&key, head)) else {
                continue;
            };
            let shards = by_replica.entry((instance, key.0)).or_default();
            shards.push((environment, key.1));
        }
        for ((instance, _), shards) in by_replica {
            self.metrics.resyncs.with_label_values(&["heads"]).inc();
            for shards in shards.chunks(SHARDS_ASKED) {
                self.ask(&To::One(instance.clone()), shards, means).await;
            }
        }
    }

    /// Whom to ask about all that is taken, and why; None: everybody.
    fn take_whom(&self) -> Vec<(&'static str, Option<String>)> {
        let mut todo = self.todo();
        let replicas = std::mem::take(&mut todo.replicas);
        match todo.everybody.take() {
            Some(reason) => vec![(reason, None)],
            None => replicas.into_iter().map(|r| ("replica", Some(r))).collect(),
        }
    }

    /// Asks everybody, or those who were away, about all that is taken.
    async fn resync(&self, means: &Means) {
        for (reason, instance) in self.take_whom() {
            if !means.link.is_up() {
                // Begun again when there is a connection.
                return;
            }
            self.metrics.resyncs.with_label_values(&[reason]).inc();
            if reason == "connected" {
                let (done, told) = oneshot::channel();
                if means.orders.send(Order::Listen(done)).await.is_ok() {
                    let _ = told.await;
                }
            }
            let all = self.interests.all();
            let batches: Vec<_> = batches(&all).collect();
            let pace = match u32::try_from(batches.len()) {
                Ok(batches) if batches > 1 => means.window / batches,
                _ => Duration::ZERO,
            };
            let mut next = Instant::now();
            for batch in batches {
                tokio::time::sleep_until(next).await;
                next += pace;
                let to = match &instance {
                    Some(instance) => To::One(instance.clone()),
                    None => To::All(means.asker.peers.instances()),
                };
                self.ask(&to, batch, means).await;
            }
        }
    }

    /// Asks for what is above what is here.
    async fn ask(&self, to: &To, shards: &[(Arc<Environment>, ShardId)], means: &Means) {
        let Some((environment, _)) = shards.first() else {
            return;
        };
        let wants: Vec<_> = shards
            .iter()
            .filter_map(|(_, shard)| {
                let topic = self.registry.get(&(environment.id(), *shard))?;
                let after = topic.head();
                let recent = after.is_none();
                Some((*shard, Want { after, recent }))
            })
            .collect();
        if !wants.is_empty() {
            means.asker.ask(to.clone(), environment, &wants).await;
        }
    }
}

/// Of one environment each, and few enough for a question.
fn batches(
    all: &[(Arc<Environment>, ShardId)],
) -> impl Iterator<Item = &[(Arc<Environment>, ShardId)]> {
    all.chunk_by(|a, b| a.0.id() == b.0.id())
        .flat_map(|shards| shards.chunks(SHARDS_ASKED))
}
