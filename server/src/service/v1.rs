//! v1: `persist.pubsub.v1`. A message that is wrong costs that message: it is
//! answered with `Rejected`, and the stream lives on.

mod speaker;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use persist_pubsub_proto::v1::session_request::Message as Request;
use persist_pubsub_proto::{InvalidShardId, MAX_SEQNO, ShardId, v1};
use tokio::time::Instant;

use super::ServiceContext;
use crate::error::{EndReason, Refusal, RefusalCode};
use crate::fence::Token;
use crate::frame::{self, Publication, Response};
use crate::outbox::When;
use crate::session::{Answer, Mode, Profile, Session};
use crate::topic::Start;
pub(super) use speaker::Speaker;

/// Bytes of each of a `Hello`'s texts.
const MAX_TEXT: usize = 256;
/// Capabilities in a `Hello`, and bytes of each.
const MAX_CAPABILITIES: usize = 64;
const MAX_CAPABILITY: usize = 64;
/// Shards subscribed under one hold of the session's lock, and named in one
/// `Subscribed`.
const SHARDS_PER_STEP: usize = 256;
/// Steps before others get their turn. Nearly every request is done by then:
/// one that waits keeps its memory, and after a restart all sessions subscribe
/// at once.
const STEPS_PER_TURN: usize = 4;
/// Intervals of silence after which the client is given up.
const SILENT_INTERVALS: u32 = 3;

/// How a `Publish` becomes a publication: it depends on where its bytes come
/// from.
type ReadPublish = fn(v1::Publish) -> Result<Publication, InvalidShardId>;

/// What one client says and is answered, however its messages come.
pub(super) struct Conversation {
    session: Arc<Session>,
    context: Arc<ServiceContext>,
    read_publish: ReadPublish,
    opened_at: Instant,
    /// When the client was last heard, to the tick.
    heard_at: Instant,
    heard: bool,
    introduced: bool,
    /// The server and the client can change the mode on the way.
    sets_mode: bool,
}

impl Conversation {
    pub(super) fn new(
        session: Arc<Session>,
        context: &Arc<ServiceContext>,
        read_publish: ReadPublish,
    ) -> Self {
        let now = Instant::now();
        Self {
            session,
            context: Arc::clone(context),
            read_publish,
            opened_at: now,
            heard_at: now,
            heard: false,
            introduced: false,
            sets_mode: false,
        }
    }

    /// Takes a message of a client in this process. Waits for what
    /// `Dialect::take` waits for.
    pub(super) async fn take(&mut self, request: v1::SessionRequest) {
        let acted = self.act(request).await;
        self.answered(acted).await;
    }

    /// Whether a publication is taken now.
    fn may_publish(&self) -> bool {
        self.introduced && self.session.mode() == Mode::ReadWrite
    }

    /// Does what a message asks for. Ok(true): something was answered.
    async fn act(&mut self, request: v1::SessionRequest) -> Result<bool, Refusal> {
        if self.session.is_fenced() {
            // It is told so, and nothing more.
            return Ok(false);
        }
        match request.message {
            // A kind of a later revision.
            None => Ok(false),
            Some(Request::Hello(hello)) => self.hello(&hello).map(|()| true),
            Some(_) if !self.introduced => Err(Refusal::new(
                RefusalCode::HelloRequired,
                "the first message has to be a Hello",
            )),
            Some(Request::Publish(publish)) => self.publish(publish).map(|()| false),
            Some(Request::Subscribe(subscribe)) => {
                let id = subscribe.request_id;
                self.subscribe(subscribe).await.map_err(|r| r.request(id))?;
                Ok(true)
            }
            Some(Request::Unsubscribe(unsubscribe)) => {
                let id = unsubscribe.request_id;
                self.unsubscribe(&unsubscribe)
                    .await
                    .map_err(|r| r.request(id))?;
                Ok(true)
            }
            Some(Request::Heartbeat(_)) => Ok(false),
            // Not agreed upon: as a kind that the server does not know.
            Some(Request::SetMode(_)) if !self.sets_mode => Ok(false),
            Some(Request::SetMode(set)) => {
                let id = set.request_id;
                self.set_mode(set).map_err(|r| r.request(id))?;
                Ok(true)
            }
        }
    }

    fn hello(&mut self, hello: &v1::Hello) -> Result<(), Refusal> {
        if self.introduced {
            return Err(Refusal::new(
                RefusalCode::HelloRepeated,
                "the session has had its Hello",
            ));
        }
        check_hello(hello)?;
        let revision = v1::MAX_REVISION.min(hello.max_revision);
        if revision < v1::MIN_REVISION.max(hello.min_revision) {
            let why = format!(
                "this server speaks revisions {} to {} of persist.pubsub.v1, and the client {} to {}",
                v1::MIN_REVISION,
                v1::MAX_REVISION,
                hello.min_revision,
                hello.max_revision
            );
            self.session
                .end(EndReason::NoCommonRevision(why.clone()), When::Answered);
            return Err(Refusal::new(RefusalCode::NoCommonRevision, why));
        }
        let limits = &self.context.limits;
        let own = self.session.caller.environment();
        let environment = match (own, hello.environment_id.as_str()) {
            (Some(own), "") => own,
            (Some(own), named) if own != named => {
                let who = self.session.caller.name().unwrap_or_default();
                let why = format!("'{who}' is of environment '{own}', and the Hello names another");
                let end = EndReason::NotAllowed(why.clone());
                self.session.end(end, When::Answered);
                return Err(Refusal::new(RefusalCode::NotAllowed, why));
            }
            (None, "") => &limits.v0_environment,
            (_, named) => named,
        };
        self.introduced = true;
        let asked = &hello.capabilities;
        self.sets_mode = asked.iter().any(|c| c == v1::CAPABILITY_SET_MODE);
        let mode = match hello.mode() {
            v1::SessionMode::ReadWrite => Mode::ReadWrite,
            v1::SessionMode::Unspecified | v1::SessionMode::ReadOnly => Mode::ReadOnly,
        };
        let text = |s: &str| super::printable(s.as_bytes(), MAX_TEXT);
        // Told before the session counts as connected: whoever learns of it by
        // the Welcome finds it in the census, or will in a moment.
        let welcome = Response::Welcome(v1::Welcome {
            revision,
            capabilities: self
                .sets_mode
                .then(|| v1::CAPABILITY_SET_MODE.to_owned())
                .into_iter()
                .collect(),
            server_instance_id: self.context.instance_id.clone(),
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            session_id: self.session.id,
            limits: Some(v1::Limits {
                max_message_bytes: limits.max_message_bytes as u64,
                max_diff_bytes: limits.max_diff_bytes as u64,
                max_shards_per_request: small(limits.max_shards_per_request),
                max_subscriptions: small(self.session.shared().limits.max_subscriptions),
            }),
            heartbeat_interval_millis: millis(limits.heartbeat_interval),
        });
        let profile = Profile {
            caller_id: text(&hello.client_name),
            environment: self.context.shared.registry.environment(environment),
            generation: (hello.deploy_generation != 0).then_some(hello.deploy_generation),
            role: text(&hello.role),
            client_version: text(&hello.client_version),
        };
        self.session.introduce(profile, mode, Some(welcome));
        super::still_known(&self.session, &self.context);
        Ok(())
    }

    /// Publications that the client sent before this were taken, or refused,
    /// by the mode of then; those behind it are by the new one.
    fn set_mode(&self, set: v1::SetMode) -> Result<(), Refusal> {
        let request_id = set.request_id;
        if request_id == 0 {
            return Err(Refusal::new(RefusalCode::InvalidField, "request_id is 0"));
        }
        let mode = match set.mode() {
            v1::SessionMode::ReadWrite => Mode::ReadWrite,
            v1::SessionMode::ReadOnly => Mode::ReadOnly,
            v1::SessionMode::Unspecified => {
                return Err(Refusal::new(
                    RefusalCode::InvalidField,
                    format!("mode {} is none", set.mode),
                ));
            }
        };
        self.session.set_mode(mode);
        let mode = set.mode;
        self.session
            .answer(Response::ModeSet(v1::ModeSet { request_id, mode }));
        Ok(())
    }

    fn publish(&self, publish: v1::Publish) -> Result<(), Refusal> {
        let seqno = publish.seqno;
        let publication =
            (self.read_publish)(publish).map_err(|e| Refusal::from(e).seqno(seqno))?;
        if self.session.mode() == Mode::ReadOnly {
            return Err(
                Refusal::new(RefusalCode::ReadOnly, "the session is read-only")
                    .shard(publication.shard)
                    .seqno(publication.seqno),
            );
        }
        self.session.publish(publication)
    }

    async fn subscribe(&self, subscribe: v1::Subscribe) -> Result<(), Refusal> {
        let request_id = self.check_request(subscribe.request_id, subscribe.shards.len())?;
        let shards: Vec<(ShardId, Start)> = subscribe
            .shards
            .iter()
            .map(|position| {
                let shard = ShardId::from_slice(&position.shard_id)?;
                match position.seqno {
                    Some(seqno) if seqno > MAX_SEQNO => Err(Refusal::new(
                        RefusalCode::InvalidSeqno,
                        format!("seqno {seqno} is above 2^63 - 1"),
                    )
                    .shard(shard)),
                    Some(seqno) => Ok((shard, Start::After(seqno))),
                    None => Ok((shard, Start::Now)),
                }
            })
            .collect::<Result<_, Refusal>>()?;
        drop(subscribe);
        self.session.room_for(&shards)?;
        let _held = self.context.join(&self.session, &shards).await;
        let mut steps = shards.chunks(SHARDS_PER_STEP);
        // A request for nothing is answered as well.
        let first = steps.next().unwrap_or_default();
        for (n, step) in std::iter::once(first).chain(steps).enumerate() {
            if n > 0 && n.is_multiple_of(STEPS_PER_TURN) {
                tokio::task::yield_now().await;
            }
            self.session
                .subscribe(step, |answers| subscribed(request_id, answers))?;
            self.session.room_to_answer().await;
        }
        Ok(())
    }

    async fn unsubscribe(&self, unsubscribe: &v1::Unsubscribe) -> Result<(), Refusal> {
        let request_id = self.check_request(unsubscribe.request_id, unsubscribe.shard_ids.len())?;
        let shards = unsubscribe
            .shard_ids
            .iter()
            .map(|id| ShardId::from_slice(id))
            .collect::<Result<Vec<_>, _>>()?;
        for step in shards.chunks(SHARDS_PER_STEP) {
            self.session.unsubscribe(step);
            tokio::task::yield_now().await;
        }
        self.session
            .answer(Response::Unsubscribed(v1::Unsubscribed { request_id }));
        Ok(())
    }

    fn check_request(&self, request_id: u64, shards: usize) -> Result<u64, Refusal> {
        if request_id == 0 {
            return Err(Refusal::new(RefusalCode::InvalidField, "request_id is 0"));
        }
        let max = self.context.limits.max_shards_per_request;
        if shards > max {
            return Err(Refusal::new(
                RefusalCode::TooManyShards,
                format!(
                    "{shards} shards in one request, {max} are taken (--max-shards-per-request)"
                ),
            ));
        }
        Ok(request_id)
    }

    fn reject(&self, refusal: &Refusal) {
        super::refused(&self.session, &self.context, refusal);
        self.session.answer(Response::Rejected(v1::Rejected {
            code: refusal.code.rejection().into(),
            reason: refusal.reason.clone(),
            request_id: refusal.request_id,
            shard_id: refusal.shard.map(|s| s.to_bytes()).unwrap_or_default(),
            seqno: refusal.seqno,
            // 0 says nothing: no hint is below a millisecond.
            retry_after_millis: refusal.retry_after.map_or(0, |time| millis(time).max(1)),
        }));
    }

    /// Tells what was wrong with a message, if anything was, and waits for
    /// room where it was answered.
    async fn answered(&mut self, acted: Result<bool, Refusal>) {
        self.heard = true;
        let answered = acted.unwrap_or_else(|refusal| {
            self.reject(&refusal);
            true
        });
        if answered {
            self.session.room_to_answer().await;
        }
    }

    /// Looks at its clocks.
    pub(super) fn tick(&mut self, now: Instant) {
        if std::mem::take(&mut self.heard) {
            self.heard_at = now;
        }
        let limits = &self.context.limits;
        if !self.introduced {
            if self.context.drain.state().is_leaving() {
                // Not in the census yet: the drain does not know of it.
                self.session.end(EndReason::Draining, When::Answered);
            } else if now.duration_since(self.opened_at) >= limits.handshake_timeout {
                self.session.end(EndReason::NoHello, When::Answered);
            }
            return;
        }
        let interval = limits.heartbeat_interval;
        if now.duration_since(self.heard_at) >= interval * SILENT_INTERVALS {
            self.session.end(EndReason::Silent, When::Answered);
        } else if now.duration_since(self.session.sent_at()) >= interval
            && !self.session.is_behind()
        {
            self.session.answer(Response::Heartbeat(v1::Heartbeat {}));
        }
    }
}

fn check_hello(hello: &v1::Hello) -> Result<(), Refusal> {
    let invalid = |what: String| Err(Refusal::new(RefusalCode::InvalidField, what));
    for (field, text) in [
        ("client_name", &hello.client_name),
        ("client_version", &hello.client_version),
        ("client_build", &hello.client_build),
        ("environment_id", &hello.environment_id),
        ("role", &hello.role),
    ] {
        if text.len() > MAX_TEXT {
            return invalid(format!(
                "{field} has {} bytes, at most {MAX_TEXT} are taken",
                text.len()
            ));
        }
    }
    if hello.capabilities.len() > MAX_CAPABILITIES
        || hello.capabilities.iter().any(|c| c.len() > MAX_CAPABILITY)
    {
        return invalid(format!(
            "more than {MAX_CAPABILITIES} capabilities, or one of more than {MAX_CAPABILITY} bytes"
        ));
    }
    if hello.min_revision == 0 || hello.max_revision < hello.min_revision {
        return invalid(format!(
            "revisions {} to {}: the first is 1, and min is at most max",
            hello.min_revision, hello.max_revision
        ));
    }
    Ok(())
}

fn subscribed(request_id: u64, answers: &[Answer]) -> Vec<Response> {
    // One allocation for all of them.
    let ids = answers.iter().flat_map(|answer| *answer.shard.as_bytes());
    let mut ids = Bytes::from_iter(ids);
    let heads = Response::Subscribed(v1::Subscribed {
        request_id,
        shards: answers
            .iter()
            .map(|answer| v1::ShardHead {
                shard_id: ids.split_to(answer.shard.as_bytes().len()),
                highest_seqno: answer.head,
            })
            .collect(),
    });
    let gaps = answers.iter().filter_map(|answer| {
        let (from, to) = answer.gap?;
        Some(frame::gap(
            answer.shard,
            from,
            to,
            answer.head.unwrap_or(to).max(to),
        ))
    });
    std::iter::once(heads).chain(gaps).collect()
}

/// "The server is about to go."
pub(crate) fn draining(reason: &str, window: Duration) -> Response {
    Response::Draining(v1::Draining {
        reason: reason.to_owned(),
        window_millis: millis(window),
    })
}

/// "Your generation is fenced out."
pub(crate) fn fenced(token: Token) -> Response {
    Response::Fenced(v1::Fenced {
        generation: token.generation,
        epoch: token.epoch,
        reason: token.to_string(),
    })
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
