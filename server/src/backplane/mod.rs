//! Other replicas of the service, through NATS; absent unless it is asked for.
//!
//! Every replica keeps its own topics: log, order, cursors. To a topic the
//! backplane is one more publisher, and one who hears of each publication of
//! this replica's sessions.
//!
//! ```text
//! session -> registry -> topic
//!               |            ^
//!            outgoing     receiver   joiner: interest, then questions
//!               v            |          |
//!           forwarder        |          v            healer: what may have been lost
//!               +-----------NATS------ hub: presence, questions, answers
//! ```
//!
//! `backplane.proto` has the subjects and the messages.

mod answers;
mod connect;
mod forward;
mod heal;
mod hub;
mod interest;
mod join;
mod link;
mod presence;
mod questions;
mod receive;
mod spread;
mod subjects;
mod target;

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::backplane_v1::Presence;
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::app::StartError;
use crate::config::Config;
use crate::drain::Drain;
use crate::environment::Environment;
use crate::generation::Census;
use crate::metrics::BackplaneMetrics;
use crate::registry::Registry;
use crate::topic::Start;
use answers::Answers;
pub use connect::BackplaneError;
use connect::{Reach, Trouble};
use forward::Forwarder;
pub(crate) use forward::Outgoing;
use heal::{Healer, Means};
use hub::{Ears, Hub, Me};
pub(crate) use interest::Held;
use interest::Interests;
use join::{Asker, Joiner, Order};
use link::Link;
pub(crate) use link::LinkStatus;
pub(crate) use presence::Peer;
use presence::Peers;
pub(crate) use questions::AskError;
use questions::{Questions, To};
use receive::Receiver;
use spread::Spread;
use subjects::Subjects;

/// The kind of a `ShardsQuestion`.
const SHARDS: &str = "shards";
/// The kind of the question how a replica is; answered by a `Presence`.
const PRESENCE: &str = "presence";
/// Joins that wait for the joiner; whoever comes next waits to be one of them.
const JOINS: usize = 1024;
/// Subscriptions that wait for the receiver.
const LISTENING: usize = 256;
/// What of the drain's time is kept for the goodbye, at least.
const GOODBYE: Duration = Duration::from_secs(1);

/// The link to the other replicas.
#[derive(Debug)]
pub(crate) struct Backplane {
    me: Arc<Me>,
    client: Client,
    link: Arc<Link>,
    peers: Arc<Peers>,
    interests: Arc<Interests>,
    questions: Arc<Questions>,
    outgoing: Arc<Outgoing>,
    orders: mpsc::Sender<Order>,
    metrics: BackplaneMetrics,
    join_timeout: Duration,
    tasks: Vec<AbortHandle>,
}

impl Drop for Backplane {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whose backplane it is.
pub(crate) struct Owner {
    pub(crate) registry: Arc<Registry>,
    pub(crate) census: Arc<Census>,
    pub(crate) drain: Drain,
    pub(crate) instance: String,
}

impl Backplane {
    /// Links the registry to the other replicas. Waits for NATS, and for the
    /// other replicas to say that they are here, but not for long: what is not
    /// there is joined when it comes.
    ///
    /// # Errors
    /// Where it can never come about as it was asked for: files, logins, TLS,
    /// permissions.
    pub(crate) async fn start(
        config: &Config,
        owner: Owner,
        registry: &prometheus::Registry,
    ) -> Result<Arc<Self>, StartError> {
        let settings = &config.backplane;
        let metrics = BackplaneMetrics::new(registry);
        let metrics = metrics.map_err(|e| StartError::Internal(e.to_string()))?;
        let name = config.replica_name();
        let subjects = Subjects::new(&settings.backplane_prefix, &owner.instance);
        let reach = Reach::new(settings, &name)?;
        let link = Link::new(metrics.clone());
        let needs = format!("{}.v1.>", settings.backplane_prefix);
        match reach.try_out(&subjects, &needs).await {
            Ok(()) => {}
            Err(Trouble::Wrong(error)) => return Err(error.into()),
            Err(Trouble::Away(why)) => link.failed(why),
        }
        let away = |e: String| StartError::Internal(format!("no client of NATS: {e}"));
        let inbox = format!("{}.v1.inbox.{}", settings.backplane_prefix, owner.instance);
        let events = Arc::clone(&link);
        let connecting = reach.connect(inbox, move |event| events.happened(event));
        let client = connecting.await.map_err(away)?;
        let me = Arc::new(Me {
            instance: owner.instance,
            name,
            census: owner.census,
            drain: owner.drain,
            left: AtomicBool::new(false),
        });
        let questions = Questions::new(
            client.clone(),
            Arc::clone(&link),
            subjects.clone(),
            me.instance.clone(),
            metrics.clone(),
        );
        let interests = Interests::new(metrics.clone());
        let peers = Arc::new(Peers::default());
        let healer = Healer::new(
            Arc::clone(&owner.registry),
            Arc::clone(&interests),
            metrics.clone(),
        );
        let asker = Arc::new(Asker {
            registry: Arc::clone(&owner.registry),
            interests: Arc::clone(&interests),
            questions: Arc::clone(&questions),
            peers: Arc::clone(&peers),
            healer: Arc::clone(&healer),
            metrics: metrics.clone(),
            timeout: settings.backplane_join_timeout,
            window: config.v0_replay_window,
        });
        let answers = Arc::new(Answers {
            registry: Arc::clone(&owner.registry),
            questions: Arc::clone(&questions),
        });
        let outgoing = Outgoing::new(settings.backplane_queue_bytes, metrics.clone());
        let (orders, taken_orders) = mpsc::channel(JOINS);
        let (listening, added) = mpsc::channel(LISTENING);
        let listen = async |subject| client.subscribe(subject).await;
        let ended = |e: async_nats::SubscribeError| away(e.to_string());
        let ears = Ears {
            questions: listen(subjects.ask()).await.map_err(ended)?,
            presence: listen(subjects.presence()).await.map_err(ended)?,
            to_me: listen(subjects.to_me()).await.map_err(ended)?,
        };
        let myself = Arc::clone(&me);
        questions.serve(
            PRESENCE,
            Arc::new(move |_| {
                let presence = myself.presence().encode_to_vec();
                Box::pin(std::future::ready(presence.into()))
            }),
        );
        let hub = Hub {
            me: Arc::clone(&me),
            client: client.clone(),
            link: Arc::clone(&link),
            peers: Arc::clone(&peers),
            questions: Arc::clone(&questions),
            answers,
            healer: Arc::clone(&healer),
            metrics: metrics.clone(),
            max_diff_bytes: config.max_diff_bytes,
        };
        let joiner = Joiner {
            client: client.clone(),
            link: Arc::clone(&link),
            subjects: subjects.clone(),
            interests: Arc::clone(&interests),
            asker: Arc::clone(&asker),
            listening,
        };
        let receiver = Receiver {
            registry: Arc::clone(&owner.registry),
            healer: Arc::clone(&healer),
            metrics: metrics.clone(),
        };
        let forwarder = Forwarder::new(
            Arc::clone(&outgoing),
            client.clone(),
            Arc::clone(&link),
            subjects,
            me.instance.clone(),
            metrics.clone(),
        );
        let means = Means {
            asker,
            link: Arc::clone(&link),
            orders: orders.clone(),
            window: settings.backplane_resync_window,
            linger: settings.backplane_linger,
        };
        let mut tasks = vec![
            spawn(hub.run(ears)),
            spawn(joiner.run(taken_orders)),
            spawn(receiver.run(added)),
            spawn(forwarder.run()),
            spawn(healer.run(means)),
        ];
        if !settings.rebalance_interval.is_zero() {
            let spread = Spread {
                me: Arc::clone(&me),
                link: Arc::clone(&link),
                peers: Arc::clone(&peers),
                metrics: metrics.clone(),
                every: settings.rebalance_interval,
                window: config.drain_window,
            };
            tasks.push(spawn(spread.run()));
        }
        owner.registry.forward_to(Arc::clone(&outgoing));
        let backplane = Arc::new(Self {
            me,
            client,
            link,
            peers,
            interests,
            questions,
            outgoing,
            orders,
            metrics,
            join_timeout: settings.backplane_join_timeout,
            tasks,
        });
        if !matches!(backplane.status(), LinkStatus::Lost(_, why) if why != link::NOT_YET) {
            backplane.meet().await;
        }
        Ok(backplane)
    }

    /// Waits until the first of the other replicas has said that it is here,
    /// or NATS that there is none: so that the first sessions ask them.
    async fn meet(&self) {
        let met = async {
            let mut turn = 0;
            self.link.connected_again(&mut turn).await;
            let nobody = To::All(std::collections::HashSet::new());
            let question = Bytes::new();
            let timeout = self.join_timeout;
            questions::gather(&self.questions, nobody, PRESENCE, question, timeout).await
        };
        let Ok(Ok(met)) = tokio::time::timeout(self.join_timeout, met).await else {
            return;
        };
        for answer in met.into_values().flatten() {
            if let Ok(presence) = Presence::decode(answer) {
                self.peers.heard(presence, Instant::now());
            }
        }
    }

    /// Waits until subscriptions that begin so can be made without a hole, or
    /// as nearly as it can be had in `--backplane-join-timeout`: until NATS
    /// knows that the shards are wanted, and the other replicas have said what
    /// they have of them. They are to be made before `Held` is dropped.
    pub(crate) async fn join(
        &self,
        environment: &Arc<Environment>,
        shards: &[(ShardId, Start)],
    ) -> Held {
        let began = Instant::now();
        let of = shards.iter().map(|&(shard, _)| shard);
        let held = self.interests.hold(environment, of);
        let timeout = self.join_timeout;
        let held = join::joined(&self.orders, &self.link, environment, shards, timeout, held).await;
        self.metrics.joins.observe(began.elapsed().as_secs_f64());
        held
    }

    /// The other replicas, and when each was heard of last.
    pub(crate) fn heard(&self) -> Vec<(Peer, Instant)> {
        self.peers.heard_of()
    }

    /// The instances that said goodbye since this was asked last.
    pub(crate) fn take_left(&self) -> Vec<String> {
        self.peers.take_left()
    }

    /// The other replicas, by name.
    pub(crate) fn peers(&self) -> Vec<Peer> {
        self.peers.all()
    }

    /// This replica's `--replica-name`.
    pub(crate) fn name(&self) -> &str {
        &self.me.name
    }

    /// Names this run of the replica.
    pub(crate) fn instance(&self) -> &str {
        &self.me.instance
    }

    /// Whether NATS is reached.
    pub(crate) fn status(&self) -> LinkStatus {
        self.link.status()
    }

    /// The connection to NATS, for what is kept there.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Puts a question of a kind that is served to all other replicas that are
    /// known, and gives what each has answered, in `peers`' order. An answer
    /// has to fit into one message of NATS. Waits for `timeout` at most.
    /// Cancel safe.
    pub(crate) async fn ask_all(
        &self,
        kind: &str,
        payload: Bytes,
        timeout: Duration,
    ) -> Vec<(Peer, Result<Bytes, AskError>)> {
        let peers = self.peers.all();
        if peers.is_empty() {
            return Vec::new();
        }
        let to = To::All(peers.iter().map(|peer| peer.instance.clone()).collect());
        let gathered = questions::gather(&self.questions, to, kind, payload, timeout).await;
        let (mut answers, failed) = match gathered {
            Ok(answers) => (answers, AskError::TimedOut),
            Err(error) => (HashMap::new(), error),
        };
        let answer = |peer: Peer| {
            let answer = answers.remove(&peer.instance);
            let answer = answer.unwrap_or_else(|| Err(failed.clone()));
            (peer, answer)
        };
        peers.into_iter().map(answer).collect()
    }

    /// Puts a question to one replica. As `ask_all`.
    ///
    /// # Errors
    /// See [`AskError`].
    pub(crate) async fn ask_one(
        &self,
        instance: &str,
        kind: &str,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, AskError> {
        let to = To::One(instance.to_owned());
        let gathered = questions::gather(&self.questions, to, kind, payload, timeout).await;
        let answer = gathered?.remove(instance);
        answer.unwrap_or(Err(AskError::TimedOut))
    }

    /// Answers the other replicas' questions of a kind from now on; replaces
    /// who did before. At most 64 questions are answered at a time.
    pub(crate) fn serve<F>(
        &self,
        kind: &'static str,
        handler: impl Fn(Bytes) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = Bytes> + Send + 'static,
    {
        let handler = move |payload| -> std::pin::Pin<Box<dyn Future<Output = Bytes> + Send>> {
            Box::pin(handler(payload))
        };
        self.questions.serve(kind, Arc::new(handler));
    }

    /// Says goodbye, behind everything that was published here: within what
    /// is left until `deadline`, and a moment.
    pub(crate) async fn leave(&self, deadline: Instant) {
        let goodbye = async {
            self.outgoing.emptied().await;
            self.me.left.store(true, Ordering::Relaxed);
            let presence = self.me.presence().encode_to_vec();
            let subject = self.questions.subjects.presence();
            // Fails when the connection's task has ended: so has everything.
            let _ = self.client.publish(subject, presence.into()).await;
            // NATS says that nobody is there, behind all that was said before:
            // a connection that is closed with something unread may lose what
            // was sent over it.
            let nowhere = self.questions.subjects.nowhere();
            let _ = self.client.request(nowhere, Bytes::new()).await;
        };
        let mut goodbye = pin!(goodbye);
        let deadline = deadline.max(Instant::now() + GOODBYE);
        let said = async {
            tokio::select! {
                biased;
                () = goodbye.as_mut() => {}
                () = self.link.lost_again() => {}
            }
        };
        if tokio::time::timeout_at(deadline, said).await.is_err() {
            tracing::warn!("backplane: NATS has not taken all that was published, in time");
        }
    }

    /// Ends what runs for it.
    pub(crate) fn end(&self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

fn spawn(task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    tokio::spawn(task).abort_handle()
}
