//! Questions between replicas, and their answers.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{Client, PublishErrorKind, Subject};
use bytes::Bytes;
use persist_pubsub_proto::backplane_v1::{Answer, Question};
use prost::Message;
use tokio::sync::Notify;

use super::link::Link;
use super::subjects::Subjects;
use crate::metrics::BackplaneMetrics;

/// Why a replica has not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskError {
    /// NATS cannot be reached now.
    #[error("not asked: NATS cannot be reached")]
    NotConnected,
    /// Not in time.
    #[error("no answer in time")]
    TimedOut,
    /// Nobody of that name is connected, or any more.
    #[error("the replica is gone")]
    Gone,
    /// The question is larger than NATS takes.
    #[error("the question is larger than NATS' max_payload")]
    TooLarge,
    /// It has answered that it cannot.
    #[error("{0}")]
    Refused(String),
}

/// Whom a question is put to.
#[derive(Clone, Debug)]
pub(super) enum To {
    /// Everybody; these are waited for. With none, the first that answers.
    All(HashSet<String>),
    One(String),
}

/// Whoever waits for answers.
type Take = Box<dyn FnMut(&str, Result<Bytes, AskError>) + Send>;

/// Answers questions of one kind.
pub(crate) type Handler =
    Arc<dyn Fn(Bytes) -> Pin<Box<dyn Future<Output = Bytes> + Send>> + Send + Sync>;

/// Puts questions, and takes the answers.
pub(crate) struct Questions {
    client: Client,
    link: Arc<Link>,
    pub(super) subjects: Subjects,
    pub(super) instance: String,
    next: AtomicU64,
    pending: Mutex<HashMap<u64, Arc<Pending>>>,
    handlers: Mutex<HashMap<&'static str, Handler>>,
    metrics: BackplaneMetrics,
}

impl fmt::Debug for Questions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Questions")
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

/// A question that is not answered by all.
struct Pending {
    state: Mutex<Waiting>,
    done: Notify,
}

struct Waiting {
    /// Who has not given its last answer.
    instances: HashSet<String>,
    /// The first that answers is enough: nobody was known.
    anybody: bool,
    /// Nobody was there to hear it.
    unheard: bool,
    take: Take,
}

impl Waiting {
    fn is_over(&self) -> bool {
        self.unheard || (self.instances.is_empty() && !self.anybody)
    }
}

/// Forgets a question whose asker does not wait any more.
struct Forget<'a>(&'a Questions, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.pending().remove(&self.1);
    }
}

impl Questions {
    pub(super) fn new(
        client: Client,
        link: Arc<Link>,
        subjects: Subjects,
        instance: String,
        metrics: BackplaneMetrics,
    ) -> Arc<Self> {
        Arc::new(Self {
            client,
            link,
            subjects,
            instance,
            next: AtomicU64::new(0),
            pending: Mutex::default(),
            handlers: Mutex::default(),
            metrics,
        })
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<u64, Arc<Pending>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a question. `take` is given each answer, and each part of one, as
    /// it comes. Returns when all whom it waits for have given their last, or
    /// `timeout` has passed; with who has not answered. Cancel safe.
    pub(super) async fn ask(
        &self,
        to: To,
        kind: &str,
        payload: Bytes,
        timeout: Duration,
        take: Take,
    ) -> Result<HashSet<String>, AskError> {
        if !self.link.is_up() {
            return Err(AskError::NotConnected);
        }
        let question = Question {
            instance: self.instance.clone(),
            kind: kind.to_owned(),
            payload,
        };
        let message: Bytes = question.encode_to_vec().into();
        if message.len() > self.client.max_payload() {
            return Err(AskError::TooLarge);
        }
        let (subject, instances) = match to {
            To::All(known) => (self.subjects.ask(), known),
            To::One(instance) => {
                let subject = self.subjects.ask_one(&instance).ok_or(AskError::Gone)?;
                (subject, HashSet::from([instance]))
            }
        };
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let pending = Arc::new(Pending {
            state: Mutex::new(Waiting {
                anybody: instances.is_empty(),
                instances,
                unheard: false,
                take,
            }),
            done: Notify::new(),
        });
        self.pending().insert(number, Arc::clone(&pending));
        let _forget = Forget(self, number);
        self.metrics.asked.inc();
        let answered = async {
            let reply = self.subjects.reply(number);
            let told = self.client.publish_with_reply(subject, reply, message);
            told.await.map_err(|e| match e.kind() {
                PublishErrorKind::MaxPayloadExceeded => AskError::TooLarge,
                PublishErrorKind::InvalidSubject | PublishErrorKind::Send => AskError::NotConnected,
            })?;
            // Whoever has answered before this has left a permit.
            pending.done.notified().await;
            Ok(())
        };
        tokio::select! {
            biased;
            told = tokio::time::timeout(timeout, answered) => {
                // A timeout is seen by who is still waited for.
                told.unwrap_or(Ok(()))?;
            }
            () = self.link.lost_again() => return Err(AskError::NotConnected),
        }
        Ok(std::mem::take(&mut pending.lock().instances))
    }

    /// Takes an answer to this replica's question `number`, if it is still
    /// waited for. False: it is not.
    pub(super) fn answered(&self, number: u64, answer: Answer) -> bool {
        let Some(pending) = self.pending().get(&number).cloned() else {
            return false;
        };
        let mut waiting = pending.lock();
        let given = if answer.error.is_empty() {
            Ok(answer.payload)
        } else {
            Err(AskError::Refused(answer.error))
        };
        (waiting.take)(&answer.instance, given);
        if !answer.more {
            waiting.instances.remove(&answer.instance);
            waiting.anybody = false;
        }
        pending.look(&waiting);
        true
    }

    /// Nobody was there to hear the question.
    pub(super) fn unheard(&self, number: u64) {
        if let Some(pending) = self.pending().get(&number).cloned() {
            let mut waiting = pending.lock();
            waiting.unheard = true;
            for instance in std::mem::take(&mut waiting.instances) {
                (waiting.take)(&instance, Err(AskError::Gone));
            }
            pending.look(&waiting);
        }
    }

    /// A replica has gone: nobody waits for it.
    pub(super) fn gone(&self, instance: &str) {
        let all: Vec<_> = self.pending().values().cloned().collect();
        for pending in all {
            let mut waiting = pending.lock();
            if waiting.instances.remove(instance) {
                (waiting.take)(instance, Err(AskError::Gone));
                pending.look(&waiting);
            }
        }
    }

    /// Answers questions of a kind from now on.
    pub(crate) fn serve(&self, kind: &'static str, handler: Handler) {
        let mut handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        handlers.insert(kind, handler);
    }

    /// Answers a question of a kind that is served.
    pub(super) async fn answer(&self, question: Question, reply: Subject) {
        let handler = {
            let handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
            handlers.get(question.kind.as_str()).map(Arc::clone)
        };
        let answer = match handler {
            Some(handler) => Answer {
                payload: handler(question.payload).await,
                ..Answer::default()
            },
            None => Answer {
                error: "this replica does not know that question".to_owned(),
                ..Answer::default()
            },
        };
        self.send(answer, reply).await;
    }

    /// Sends an answer, or that it is too large.
    pub(super) async fn send(&self, answer: Answer, reply: Subject) {
        let mut answer = Answer {
            instance: self.instance.clone(),
            ..answer
        };
        if answer.encoded_len() > self.client.max_payload() {
            answer.payload = Bytes::new();
            answer.more = false;
            answer.error = "the answer is larger than NATS' max_payload".to_owned();
        }
        let message = answer.encode_to_vec().into();
        tokio::select! {
            biased;
            _ = self.client.publish(reply, message) => self.metrics.answered.inc(),
            () = self.link.lost_again() => {}
        }
    }

    /// Bytes that an answer may have beside what every answer has.
    pub(super) fn room(&self) -> usize {
        self.client.max_payload().saturating_sub(1024)
    }
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, waiting: &Waiting) {
        if waiting.is_over() {
            self.done.notify_one();
        }
    }
}

/// Puts a question, and gathers the answers: one of each replica.
pub(super) async fn gather(
    questions: &Questions,
    to: To,
    kind: &str,
    payload: Bytes,
    timeout: Duration,
) -> Result<HashMap<String, Result<Bytes, AskError>>, AskError> {
    let answers = Arc::new(Mutex::new(HashMap::new()));
    let gathered = Arc::clone(&answers);
    let take: Take = Box::new(move |instance, answer| {
        let mut answers = gathered.lock().unwrap_or_else(PoisonError::into_inner);
        answers.insert(instance.to_owned(), answer);
    });
    let asked = pin!(questions.ask(to, kind, payload, timeout, take));
    let missing = asked.await?;
    let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
    let mut answers = std::mem::take(&mut *answers);
    for instance in missing {
        answers.entry(instance).or_insert(Err(AskError::TimedOut));
    }
    Ok(answers)
}
