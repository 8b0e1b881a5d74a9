//! What replicas say to each other beside publications: who is here, questions
//! and answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_nats::connection::State;
use async_nats::{Client, Message as Heard, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use persist_pubsub_proto::backplane_v1::{Answer, Presence, Question};
use prost::Message;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::answers::Answers;
use super::heal::Healer;
use super::link::Link;
use super::presence::{self, News, Peers};
use super::questions::Questions;
use super::spread::is_movable;
use super::subjects::ToMe;
use crate::drain::Drain;
use crate::generation::Census;
use crate::metrics::BackplaneMetrics;

/// Questions of other replicas that are answered at a time.
const ANSWERED_AT_A_TIME: usize = 64;
/// Those that wait for that, besides: each replica puts at most 64 at a time.
/// More are left unanswered, and put again.
const WAITING_QUESTIONS: usize = 4096;

/// Who this replica is, and how it is.
#[derive(Debug)]
pub(super) struct Me {
    pub(super) instance: String,
    pub(super) name: String,
    pub(super) census: Arc<Census>,
    pub(super) drain: Drain,
    /// It has said goodbye.
    pub(super) left: AtomicBool,
}

impl Me {
    pub(super) fn presence(&self) -> Presence {
        let sessions = self.census.all();
        let movable = sessions.iter().filter(|s| is_movable(s)).count();
        Presence {
            instance: self.instance.clone(),
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            sessions: sessions.len() as u64,
            state: self.drain.state().as_str().to_owned(),
            begins: false,
            leaves: self.left.load(Ordering::Relaxed),
            movable_sessions: movable as u64,
        }
    }
}

/// See the module.
pub(super) struct Hub {
    pub(super) me: Arc<Me>,
    pub(super) client: Client,
    pub(super) link: Arc<Link>,
    pub(super) peers: Arc<Peers>,
    pub(super) questions: Arc<Questions>,
    pub(super) answers: Arc<Answers>,
    pub(super) healer: Arc<Healer>,
    pub(super) metrics: BackplaneMetrics,
    /// The largest diff that is relayed.
    pub(super) max_diff_bytes: usize,
}

/// Bounds what is done for other replicas.
struct Answering {
    admitted: Arc<Semaphore>,
    begun: Semaphore,
}

/// What the hub listens to.
pub(super) struct Ears {
    pub(super) questions: Subscriber,
    pub(super) presence: Subscriber,
    pub(super) to_me: Subscriber,
}

impl Hub {
    /// Runs until it is dropped, or the client has ended.
    pub(super) async fn run(self, mut ears: Ears) {
        let answering = Arc::new(Answering {
            admitted: Arc::new(Semaphore::new(WAITING_QUESTIONS)),
            begun: Semaphore::new(ANSWERED_AT_A_TIME),
        });
        let mut ticks = tokio::time::interval(presence::EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut turn, mut doubts) = (0, 0);
        loop {
            tokio::select! {
                heard = ears.presence.next() => match heard {
                    Some(heard) => self.presence(heard).await,
                    None => return,
                },
                heard = ears.to_me.next() => match heard {
                    Some(heard) => self.to_me(heard, &answering),
                    None => return,
                },
                heard = ears.questions.next() => match heard {
                    Some(heard) => self.question(heard, &answering),
                    None => return,
                },
                now = ticks.tick() => {
                    self.look_at_link(&mut doubts);
                    self.tick(now).await;
                }
                // Behind the subscriptions, which the client has made again.
                () = self.link.connected_again(&mut turn) => {
                    let begins = Presence { begins: true, ..self.me.presence() };
                    self.say(begins, None).await;
                    self.healer.connected();
                    self.compare_bounds();
                }
            }
        }
    }

    fn compare_bounds(&self) {
        let max_payload = self.client.max_payload();
        if max_payload < self.max_diff_bytes
            && let Some(unlogged) = self.link.may_log()
        {
            tracing::warn!(
                max_payload,
                max_diff_bytes = self.max_diff_bytes,
                unlogged,
                "backplane: larger diffs than NATS takes are told as gaps to the sessions of other replicas (max_payload of NATS, --max-diff-bytes)"
            );
        }
    }

    /// The client tells of its connection by events, of which it drops those
    /// that come too fast: whatever it says for a second or more is so.
    fn look_at_link(&self, doubts: &mut u32) {
        let connected = self.client.connection_state() == State::Connected;
        *doubts = if connected == self.link.is_up() {
            0
        } else {
            *doubts + 1
        };
        if *doubts > 1 {
            self.link.is_now(connected);
        }
    }

    async fn tick(&self, now: Instant) {
        for gone in self.peers.lapse(now) {
            if let Some(unlogged) = self.link.may_log() {
                tracing::warn!(
                    replica = gone.name,
                    instance = gone.instance,
                    unlogged,
                    "backplane: nothing is heard of a replica any more"
                );
            }
            self.questions.gone(&gone.instance);
        }
        self.count();
        if !self.me.left.load(Ordering::Relaxed) {
            self.say(self.me.presence(), None).await;
        }
    }

    fn count(&self) {
        self.metrics
            .replicas
            .set(crate::generation::count(self.peers.len()));
    }

    /// Says that this replica is here: to all, or to who has asked.
    async fn say(&self, presence: Presence, to: Option<Subject>) {
        if !self.link.is_up() {
            return;
        }
        let message: Bytes = presence.encode_to_vec().into();
        let said = async {
            match to {
                Some(reply) => self.client.publish(reply, message).await,
                None => {
                    let subject = self.questions.subjects.presence();
                    self.client.publish(subject, message).await
                }
            }
        };
        tokio::select! {
            biased;
            _ = said => {}
            () = self.link.lost_again() => {}
        }
    }

    async fn presence(&self, heard: Heard) {
        if heard.payload.is_empty() {
            return;
        }
        let Ok(presence) = Presence::decode(heard.payload) else {
            return self.metrics.bad_messages.inc();
        };
        if presence.instance == self.me.instance {
            return;
        }
        let (instance, name) = (presence.instance.clone(), presence.name.clone());
        let begins = presence.begins;
        match self.peers.heard(presence, Instant::now()) {
            News::Came => {
                if let Some(unlogged) = self.link.may_log() {
                    tracing::info!(
                        replica = name,
                        instance,
                        unlogged,
                        "backplane: a replica is here"
                    );
                }
                self.healer.replica(instance);
            }
            News::Left => {
                if let Some(unlogged) = self.link.may_log() {
                    tracing::info!(
                        replica = name,
                        instance,
                        unlogged,
                        "backplane: a replica has gone"
                    );
                }
                self.questions.gone(&instance);
            }
            News::Stays => {}
            News::Nothing => return self.metrics.bad_messages.inc(),
        }
        self.count();
        if begins && !self.me.left.load(Ordering::Relaxed) {
            self.say(self.me.presence(), None).await;
        }
    }

    fn to_me(&self, heard: Heard, answering: &Arc<Answering>) {
        match self.questions.subjects.read_to_me(&heard.subject) {
            Some(ToMe::Question) => self.question(heard, answering),
            Some(ToMe::Answer(number)) if heard.status == Some(StatusCode::NO_RESPONDERS) => {
                self.questions.unheard(number);
            }
            Some(ToMe::Answer(number)) => match Answer::decode(heard.payload) {
                // One that comes too late brings what the digests and the
                // audit will find again.
                Ok(answer) => _ = self.questions.answered(number, answer),
                Err(_) => self.metrics.bad_messages.inc(),
            },
            None => self.metrics.bad_messages.inc(),
        }
    }

    fn question(&self, heard: Heard, answering: &Arc<Answering>) {
        if heard.payload.is_empty() {
            return;
        }
        let (Ok(question), Some(reply)) = (Question::decode(heard.payload), heard.reply) else {
            return self.metrics.bad_messages.inc();
        };
        if question.instance == self.me.instance || self.me.left.load(Ordering::Relaxed) {
            return;
        }
        let Ok(admitted) = Arc::clone(&answering.admitted).try_acquire_owned() else {
            return self.metrics.refused.inc();
        };
        let answering = Arc::clone(answering);
        let (questions, answers) = (Arc::clone(&self.questions), Arc::clone(&self.answers));
        tokio::spawn(async move {
            // Never closed.
            let begun = answering.begun.acquire().await;
            if question.kind == super::SHARDS {
                answers.answer(question.payload, &reply).await;
            } else {
                questions.answer(question, reply).await;
            }
            drop((begun, admitted));
        });
    }
}
