//! One fence for an environment, whichever replica it is raised on.
//!
//! Who raises one changes it in JetStream first, where one change follows the
//! other; then holds it itself, and tells every other replica, which answers
//! when it holds it, too. Where there is no JetStream, the replicas alone agree:
//! what two of them come to that were raised apart is `Token::join`.
//!
//! Whatever was lost on the way is made good: replicas compare what they hold
//! when they meet and every few seconds, and JetStream with what they hold each
//! time that they begin to watch it. What a replica knows it keeps, with or
//! without a connection.

mod keep;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use persist_pubsub_proto::backplane_v1 as wire;
use persist_pubsub_proto::backplane_v1::operator_answer::Answer;
use persist_pubsub_proto::backplane_v1::operator_question::Question;
use prost::Message;
use tokio::sync::{Mutex, Notify, watch};
use tonic::Status;

use super::bucket::{Bucket, NotKept};
use super::gather::{ask, strange};
use super::{Fleet, Peer, Peers};
use crate::fence::{FenceError, Order, Raised, Token};
use crate::session::Shared;

/// How long a replica may take to confirm that it holds a fence.
const CONFIRM_WITHIN: Duration = Duration::from_secs(5);

/// Agrees.
#[derive(Debug)]
pub(crate) struct Agreement {
    shared: Arc<Shared>,
    fleet: Fleet,
    bucket: Option<Bucket>,
    /// Held by who sets a fence here: one after the other.
    setting: Mutex<()>,
    /// The connection to the backplane has come back.
    connected: Notify,
    /// Whether the fences that JetStream has, or the others, are held here.
    caught_up: watch::Sender<CaughtUp>,
}

#[derive(Clone, Copy, Debug, Default)]
struct CaughtUp {
    bucket: bool,
    others: bool,
}

/// A fence that stands, and where.
#[derive(Debug)]
pub(crate) struct Agreed {
    pub(crate) raised: Raised,
    /// All replicas, by name. Empty: there is no backplane.
    pub(crate) holders: Vec<Holder>,
    /// Or why not, for people.
    pub(crate) in_jetstream: Result<(), String>,
    /// This replica reaches the backplane, and every replica that it knows of
    /// holds the fence.
    pub(crate) by_all: bool,
}

/// A replica, and whether it holds a fence.
#[derive(Debug)]
pub(crate) struct Holder {
    pub(crate) peer: Peer,
    /// What it holds, and the sessions that it ended; or why it is not known,
    /// for people.
    pub(crate) holds: Result<(Token, usize), String>,
}

impl Holder {
    /// Whether it lets nobody in whom `token` keeps out.
    pub(crate) fn confirms(&self, token: Token) -> bool {
        matches!(self.holds, Ok((held, _)) if held.covers(token))
    }
}

impl Agreement {
    pub(crate) fn new(shared: Arc<Shared>, fleet: Fleet, bucket: Option<Bucket>) -> Arc<Self> {
        Arc::new(Self {
            shared,
            fleet,
            bucket,
            setting: Mutex::default(),
            connected: Notify::new(),
            caught_up: watch::Sender::default(),
        })
    }

    /// Sets a fence on all replicas. On the return it is in the state file, and
    /// on each replica that confirmed it nothing that a session below it
    /// publishes is accepted. An error: nothing has changed.
    ///
    /// To be called in a task of its own: a caller that goes must not cut it
    /// off between one replica and the next.
    pub(crate) async fn set(&self, environment: &str, order: Order) -> Result<Agreed, FenceError> {
        self.shared.fences.may_hold(environment)?;
        let _alone = self.setting.lock().await;
        let before = self.shared.fences.get(environment).unwrap_or_default();
        let in_jetstream = match &self.bucket {
            None => Err(String::new()),
            Some(bucket) => {
                // What is known here may be more than what stands there.
                let decide = |stands: Option<Token>| {
                    order.over(stands.map_or(before, |stands| stands.join(before)))
                };
                match bucket.change(environment, decide).await {
                    Ok(kept) => Ok(kept),
                    Err(NotKept::Refused(why)) => return Err(why),
                    Err(NotKept::Lost(why)) => Err(why),
                }
            }
        };
        let raised = match in_jetstream {
            Ok((token, changed)) => {
                let held = self.adopt(environment, token).await?;
                // It may have been heard of before JetStream's answer came.
                let sessions = match changed {
                    true => held.sessions_so_far,
                    false => held.sessions,
                };
                Raised {
                    changed,
                    sessions,
                    ..held
                }
            }
            Err(_) => self.set_here(environment, order).await?,
        };
        let mut agreed = Agreed {
            raised,
            holders: Vec::new(),
            in_jetstream: in_jetstream.map(|_| ()),
            by_all: true,
        };
        if let Some(others) = &self.fleet.others {
            agreed.holders.push(Holder {
                peer: self.fleet.me.clone(),
                holds: Ok((raised.token, raised.sessions)),
            });
            let told = self.tell(&**others, environment, raised).await;
            agreed.holders.extend(told);
            agreed.holders.sort_by(|a, b| a.peer.name.cmp(&b.peer.name));
            let unconfirmed = agreed.holders.iter();
            let unconfirmed = unconfirmed.filter(|holder| !holder.confirms(raised.token));
            let unconfirmed: Vec<_> = unconfirmed.map(|h| h.peer.name.as_str()).collect();
            agreed.by_all = unconfirmed.is_empty();
            if !agreed.by_all {
                tracing::warn!(
                    environment,
                    generation = raised.token.generation,
                    epoch = raised.token.epoch,
                    replicas = unconfirmed.join(", "),
                    "a fence is not confirmed by all replicas: those that are named may let in whom it keeps out until they are reached"
                );
            }
        }
        Ok(agreed)
    }

    /// Tells all others of a fence that was set here: what each holds then.
    async fn tell(&self, others: &dyn Peers, environment: &str, raised: Raised) -> Vec<Holder> {
        let roll = others.roll();
        let told = roll.present.iter().map(async |peer| {
            let question = Question::Fence(wire::FenceTold {
                fence: Some(show(environment, raised.token)),
                changed: raised.changed,
            });
            let holds = match ask(others, peer, question, CONFIRM_WITHIN).await {
                Ok(Answer::Fence(held)) => {
                    let ended = usize::try_from(held.sessions_ended).unwrap_or(usize::MAX);
                    let fence = held.fence.and_then(parse);
                    let fence = fence.ok_or_else(|| "its answer names no fence".to_owned());
                    fence.map(|(_, token)| (token, ended))
                }
                Ok(_) => Err(strange().message().to_owned()),
                Err(status) => Err(status.message().to_owned()),
            };
            Holder {
                peer: peer.clone(),
                holds,
            }
        });
        let mut holders = join_all(told).await;
        holders.extend(roll.missing().map(|replica| Holder {
            peer: Peer::new(&replica.name, &replica.instance_id),
            holds: Err(replica.missing),
        }));
        holders
    }

    /// Whether there are others to agree with.
    pub(crate) fn has_others(&self) -> bool {
        self.fleet.others.is_some()
    }

    /// A fence has been set here without a word to the others: tells them.
    pub(crate) async fn spread(&self, environment: &str, raised: Raised) {
        let raise = |stands: Option<Token>| {
            Ok(stands.map_or(raised.token, |stands| stands.join(raised.token)))
        };
        if let Some(bucket) = &self.bucket {
            // What it does not take it is given when it can be had again.
            let _ = bucket.change(environment, raise).await;
        }
        if let Some(others) = &self.fleet.others {
            self.tell(&**others, environment, raised).await;
        }
    }

    async fn set_here(&self, environment: &str, order: Order) -> Result<Raised, FenceError> {
        let (shared, environment) = (Arc::clone(&self.shared), environment.to_owned());
        self.blocking(move || shared.fences.set(&environment, order, &shared.census))
            .await
    }

    async fn adopt(&self, environment: &str, token: Token) -> Result<Raised, FenceError> {
        let (shared, environment) = (Arc::clone(&self.shared), environment.to_owned());
        self.blocking(move || shared.fences.adopt(&environment, token, &shared.census))
            .await
    }

    /// What may write the state file is not a worker's.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        if !self.shared.fences.survive() {
            return work();
        }
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
            // The runtime ends, and this task with it.
            Err(_) => std::future::pending().await,
        }
    }

    /// Takes in a fence that was heard of, if it is news.
    async fn learn(&self, environment: &str, token: Token) {
        let held = self.shared.fences.get(environment);
        if held.is_some_and(|held| held.covers(token)) {
            return;
        }
        if let Err(error) = self.adopt(environment, token).await {
            tracing::error!(environment, %error, "a fence of another replica cannot be held");
        }
    }

    /// Another replica tells of a fence: holds it from the return on.
    pub(super) async fn told(&self, told: wire::FenceTold) -> Result<wire::FenceHeld, Status> {
        let fence = told.fence.and_then(parse);
        let (environment, token) =
            fence.ok_or_else(|| Status::invalid_argument("it names no fence"))?;
        let raised = self.adopt(&environment, token).await;
        let raised = raised.map_err(|e| Status::resource_exhausted(e.to_string()))?;
        let ended = match told.changed {
            true => raised.sessions_so_far,
            false => raised.sessions,
        };
        Ok(wire::FenceHeld {
            fence: Some(show(&environment, raised.token)),
            sessions_ended: ended as u64,
        })
    }

    /// Which fences this replica holds, for one that holds others.
    pub(super) fn hold(&self, asked: &wire::FencesAsked) -> wire::FencesHeld {
        let held = held(&self.shared.fences.all());
        if digest(&held) == asked.digest[..] {
            return wire::FencesHeld {
                same: true,
                fences: Vec::new(),
            };
        }
        held
    }
}

fn show(environment: &str, token: Token) -> wire::Fence {
    wire::Fence {
        environment: environment.to_owned(),
        generation: token.generation,
        epoch: token.epoch,
        unknown_v0: token.unknown_v0,
        forced: token.forced,
    }
}

/// None: it names no environment, or one that cannot be.
fn parse(fence: wire::Fence) -> Option<(String, Token)> {
    let token = Token {
        generation: fence.generation,
        epoch: fence.epoch,
        unknown_v0: fence.unknown_v0,
        forced: fence.forced,
    };
    let names = (1..=crate::fence::MAX_NAME).contains(&fence.environment.len());
    names.then_some((fence.environment, token))
}

fn held(fences: &[(String, Token)]) -> wire::FencesHeld {
    wire::FencesHeld {
        same: false,
        fences: fences.iter().map(|(e, t)| show(e, *t)).collect(),
    }
}

fn digest(held: &wire::FencesHeld) -> Vec<u8> {
    let digest = ring::digest::digest(&ring::digest::SHA256, &held.encode_to_vec());
    digest.as_ref().to_vec()
}

#[cfg(test)]
mod tests;
