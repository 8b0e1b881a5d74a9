//! Asks the replicas that a call is about, and makes one answer of theirs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use persist_pubsub_proto::admin_v1 as pb;
use persist_pubsub_proto::backplane_v1 as wire;
use persist_pubsub_proto::backplane_v1::operator_answer::Answer;
use persist_pubsub_proto::backplane_v1::operator_question::Question;
use prost::Message;
use tonic::{Code, Status};

use super::merge::{self, Mixer};
use super::{Call, Fleet, Paged, Peer, Peers, Scope, THIS, show_replica};
use crate::admin::{Facts, listing};
use crate::status::{Board, Status as Look, Watcher};

/// How long a replica may take to answer a call. It answers what it holds at
/// once, and what it looks at each second with the next look.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);
/// Between the replica and the row in a page's token.
const OF: char = ':';

/// Asks the replicas.
#[derive(Clone, Debug)]
pub(crate) struct Gather {
    facts: Facts,
    board: Arc<Board>,
}

/// Puts a question to one replica.
pub(super) async fn ask(
    peers: &dyn Peers,
    peer: &Peer,
    question: Question,
    within: Duration,
) -> Result<Answer, Status> {
    let question = wire::OperatorQuestion {
        question: Some(question),
    };
    let question = Bytes::from(question.encode_to_vec());
    let answer = peers.ask(&peer.instance, question, within).await;
    let answer = answer.map_err(Status::unavailable)?;
    let answer = wire::OperatorAnswer::decode(answer)
        .map_err(|e| Status::internal(format!("its answer is none: {e}")))?;
    match answer.answer {
        Some(Answer::Refusal(refusal)) => {
            let code = i32::try_from(refusal.code).map_or(Code::Unknown, Code::from_i32);
            Err(Status::new(code, refusal.why))
        }
        Some(answer) => Ok(answer),
        None => Err(strange()),
    }
}

/// What answers another question, or one of a release that this one is not
/// next to.
pub(super) fn strange() -> Status {
    Status::internal("its answer is to something else")
}

/// What a replica answered.
type Part<A> = (Peer, Result<A, Status>);

impl Gather {
    pub(crate) fn new(facts: Facts, board: Arc<Board>) -> Self {
        Self { facts, board }
    }

    pub(super) fn fleet(&self) -> &Fleet {
        &self.facts.fleet
    }

    /// Puts a call to one replica: its answer, and the number of the newest
    /// sample in it.
    async fn call<C: Call>(
        &self,
        peer: &Peer,
        mut call: C,
        seen: u64,
    ) -> Result<(C::Answer, u64), Status> {
        let Some(peers) = &self.fleet().others else {
            return Err(Status::internal("there are no replicas"));
        };
        THIS.clone_into(call.replica());
        let question = Question::Call(wire::ForwardedCall {
            name: C::NAME.to_owned(),
            request: call.encode_to_vec().into(),
            seen,
        });
        match ask(&**peers, peer, question, ANSWER_WITHIN).await? {
            Answer::Call(answer) => {
                let decoded = C::Answer::decode(answer.response);
                let decoded =
                    decoded.map_err(|e| Status::internal(format!("its answer is none: {e}")))?;
                Ok((decoded, answer.newest))
            }
            _ => Err(strange()),
        }
    }

    /// Puts a call to one replica.
    pub(crate) async fn one<C: Call>(&self, peer: &Peer, call: C) -> Result<C::Answer, Status> {
        let (answer, _) = self.call(peer, call, 0).await?;
        Ok(answer)
    }

    /// Puts a call to all others at the same time: what each answered, and who
    /// could not be asked.
    async fn others<C: Call>(
        &self,
        call: &C,
        seen: impl Fn(&Peer) -> u64,
    ) -> (Vec<Part<(C::Answer, u64)>>, Vec<pb::Replica>) {
        let Some(peers) = &self.fleet().others else {
            return (Vec::new(), Vec::new());
        };
        let roll = peers.roll();
        let asked = roll.present.iter().map(async |peer| {
            let answer = self.call(peer, call.clone(), seen(peer)).await;
            (peer.clone(), answer)
        });
        let parts = join_all(asked).await;
        (parts, roll.missing().collect())
    }

    /// The fence that each of the other replicas holds.
    pub(crate) async fn fences(
        &self,
        environment: &str,
    ) -> (Vec<Part<pb::GetFenceResponse>>, Vec<pb::Replica>) {
        let call = pb::GetFenceRequest {
            environment: environment.to_owned(),
            ..pb::GetFenceRequest::default()
        };
        let (parts, missing) = self.others(&call, |_| 0).await;
        let parts = parts.into_iter();
        let parts = parts.map(|(peer, answer)| (peer, answer.map(|(answer, _)| answer)));
        (parts.collect(), missing)
    }

    /// A page of rows; of all replicas, one replica after the other. `local`
    /// makes a page of this one's.
    pub(crate) async fn page<C: Paged>(
        &self,
        mut call: C,
        local: impl Fn(&Facts, C) -> Result<C::Answer, Status>,
    ) -> Result<C::Answer, Status> {
        match self.fleet().scope(call.replica())? {
            Scope::This => {
                let answer = local(&self.facts, call)?;
                Ok(self.of_one::<C>(&self.fleet().me, answer))
            }
            Scope::One(peer) => {
                let answer = self.one(&peer, call).await?;
                Ok(self.of_one::<C>(&peer, answer))
            }
            Scope::All => self.page_of_all(call, local).await,
        }
    }

    fn of_one<C: Paged>(&self, peer: &Peer, answer: C::Answer) -> C::Answer {
        if self.fleet().others.is_none() {
            return answer;
        }
        let (mut rows, token) = C::rows(answer);
        rows.iter_mut().for_each(|row| C::name(row, &peer.name));
        C::answer(rows, token, vec![show_replica(peer, "")])
    }

    async fn page_of_all<C: Paged>(
        &self,
        mut call: C,
        local: impl Fn(&Facts, C) -> Result<C::Answer, Status>,
    ) -> Result<C::Answer, Status> {
        let (size, token) = call.page();
        let limit = listing::page_size(*size)?;
        let token = std::mem::take(token);
        let (from, mut inner) = match token.split_once(OF) {
            Some(place) => place,
            None if token.is_empty() => ("", ""),
            None => return Err(listing::strange_token()),
        };
        let me = &self.fleet().me;
        let roll = self.fleet().others.as_ref().map(|others| others.roll());
        let roll = roll.unwrap_or_default();
        let mut replicas: Vec<_> = roll.present.iter().chain([me]).collect();
        replicas.sort_unstable_by(|a, b| a.instance.cmp(&b.instance));
        let mut rows = Vec::new();
        let mut asked: Vec<pb::Replica> = Vec::new();
        for peer in replicas.into_iter().filter(|p| p.instance.as_str() >= from) {
            // Who calls waits for one silent replica at a time.
            let silent = asked.last().is_some_and(|last| !last.missing.is_empty());
            if rows.len() == limit || silent {
                return Ok(C::answer(rows, format!("{}{OF}", peer.instance), asked));
            }
            if peer.instance != from {
                inner = "";
            }
            let mut token = inner.to_owned();
            loop {
                let mut part = call.clone();
                let (size, page) = part.page();
                // At most the largest page.
                *size = u32::try_from(limit - rows.len()).unwrap_or(u32::MAX);
                *page = token;
                let answer = if peer == me {
                    local(&self.facts, part)
                } else {
                    self.one(peer, part).await
                };
                let answer = match answer {
                    Ok(answer) => answer,
                    Err(status) if status.code() == Code::InvalidArgument => return Err(status),
                    Err(status) => {
                        asked.push(show_replica(peer, status.message()));
                        break;
                    }
                };
                let (mut more, next) = C::rows(answer);
                more.iter_mut().for_each(|row| C::name(row, &peer.name));
                rows.append(&mut more);
                if next.is_empty() {
                    asked.push(show_replica(peer, ""));
                    break;
                }
                if rows.len() >= limit {
                    asked.push(show_replica(peer, ""));
                    let token = format!("{}{OF}{next}", peer.instance);
                    return Ok(C::answer(rows, token, asked));
                }
                token = next;
            }
        }
        asked.extend(roll.missing());
        Ok(C::answer(rows, String::new(), asked))
    }

    /// Watches how some replicas are.
    pub(crate) fn status(&self, scope: Scope) -> StatusView {
        StatusView {
            gather: self.clone(),
            own: match scope {
                Scope::One(_) => None,
                Scope::This | Scope::All => Some(self.board.watch()),
            },
            scope,
            seen: HashMap::new(),
            mixer: Mixer::default(),
        }
    }

    /// Watches who is connected to some replicas.
    pub(crate) fn census(&self, scope: Scope, environment: String) -> CensusView {
        CensusView {
            gather: self.clone(),
            own: match scope {
                Scope::One(_) => None,
                Scope::This | Scope::All => Some(self.board.watch()),
            },
            scope,
            environment,
        }
    }
}

/// How replicas are, look after look.
#[derive(Debug)]
pub(crate) struct StatusView {
    gather: Gather,
    /// None: it is about another.
    own: Option<Watcher>,
    scope: Scope,
    /// The newest sample that was taken from each replica, by instance.
    seen: HashMap<String, u64>,
    mixer: Mixer,
}

/// One look.
#[derive(Debug)]
pub(crate) enum Shown {
    /// At this replica alone: made once for all who watch.
    Own(Arc<Look>, Vec<pb::StatusSample>),
    /// At others, too.
    Made(Box<pb::WatchStatusResponse>),
}

impl Shown {
    pub(crate) fn into_message(self) -> pb::WatchStatusResponse {
        match self {
            Self::Own(look, samples) => look.message(samples),
            Self::Made(message) => *message,
        }
    }
}

impl StatusView {
    /// The next look. None: this server is gone. An error: the replica that it
    /// is about does not answer. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Result<Shown, Status>> {
        match &self.scope {
            Scope::This => {
                let (look, samples) = self.own.as_mut()?.next().await?;
                Some(Ok(Shown::Own(look, samples)))
            }
            Scope::One(peer) => {
                let peer = peer.clone();
                Some(self.one(&peer).await.map(|look| Shown::Made(look.into())))
            }
            Scope::All => {
                let look = self.all().await?;
                Some(Ok(Shown::Made(Box::new(look))))
            }
        }
    }

    async fn one(&mut self, peer: &Peer) -> Result<pb::WatchStatusResponse, Status> {
        let seen = self.seen.get(&peer.instance).copied().unwrap_or(0);
        let call = pb::WatchStatusRequest::default();
        let (mut look, newest) = self.gather.call(peer, call, seen).await?;
        self.seen.insert(peer.instance.clone(), newest);
        let replica = pb::Replica {
            server: look.server.clone(),
            ..show_replica(peer, "")
        };
        merge::name(&mut look, &peer.name);
        look.replicas = vec![replica];
        Ok(look)
    }

    async fn all(&mut self) -> Option<pb::WatchStatusResponse> {
        let seen = &self.seen;
        let seen = |peer: &Peer| seen.get(&peer.instance).copied().unwrap_or(0);
        let call = pb::WatchStatusRequest::default();
        let others = self.gather.others(&call, seen);
        let (own, (others, missing)) = tokio::join!(self.own.as_mut()?.next(), others);
        let (look, samples) = own?;
        let mut parts = vec![(self.gather.fleet().me.clone(), Ok(look.message(samples)))];
        self.seen.clear();
        for (peer, answer) in others {
            let answer = answer.map(|(answer, newest)| {
                self.seen.insert(peer.instance.clone(), newest);
                answer
            });
            parts.push((peer, answer));
        }
        Some(merge::status(parts, missing, &mut self.mixer))
    }
}

/// Who is connected, look after look.
#[derive(Debug)]
pub(crate) struct CensusView {
    gather: Gather,
    /// None: it is about another.
    own: Option<Watcher>,
    scope: Scope,
    environment: String,
}

impl CensusView {
    /// The next look. None: this server is gone. An error: the replica that it
    /// is about does not answer. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Result<pb::GenerationCensus, Status>> {
        let call = pb::WatchGenerationsRequest {
            environment: self.environment.clone(),
            ..pb::WatchGenerationsRequest::default()
        };
        if let Scope::One(peer) = &self.scope {
            let answer = self.gather.one(peer, call).await;
            return Some(answer.map(|answer| {
                let census = answer.census.unwrap_or_default();
                merge::census(vec![(peer.clone(), Ok(census))], Vec::new())
            }));
        }
        let own = self.own.as_mut()?;
        let me = self.gather.fleet().me.clone();
        if self.scope == Scope::This {
            let (look, _) = own.next().await?;
            let census = look.generations(&self.environment);
            if self.gather.fleet().others.is_none() {
                return Some(Ok(census));
            }
            return Some(Ok(merge::census(vec![(me, Ok(census))], Vec::new())));
        }
        let (own, (others, missing)) = tokio::join!(own.next(), self.gather.others(&call, |_| 0));
        let (look, _) = own?;
        let mut parts = vec![(me, Ok(look.generations(&self.environment)))];
        parts.extend(others.into_iter().map(|(peer, answer)| {
            let census = answer.map(|(answer, _)| answer.census.unwrap_or_default());
            (peer, census)
        }));
        Some(Ok(merge::census(parts, missing)))
    }
}
