//! v0: the unversioned protocol of deployed processes. They cannot be told
//! what is wrong with a message: it is counted, logged within a rate, and
//! skipped.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::v0::CALLER_ID;
use tokio::time::Instant;

use super::{Dialect, ServiceContext};
use crate::error::{Refusal, RefusalCode};
use crate::frame::{self, FromV0, MessageError};
use crate::generation;
use crate::session::{Mode, Profile, Session};
use crate::topic::Start;

/// Characters of a caller id that are kept.
const MAX_CALLER_ID: usize = 256;
/// Subscriptions that wait for the other replicas together: a client that
/// connects anew names its shards one by one.
const TOGETHER: usize = 256;

/// Speaks v0 with one client.
pub(super) struct Speaker {
    session: Arc<Session>,
    context: Arc<ServiceContext>,
    /// To be subscribed to, where there are other replicas to ask.
    waiting: Vec<(ShardId, Start)>,
}

impl Speaker {
    pub(super) fn new(
        session: Arc<Session>,
        context: &Arc<ServiceContext>,
        headers: &HeaderMap,
    ) -> Self {
        let caller_id = headers.get(CALLER_ID).map_or_else(
            || "unknown".to_owned(),
            |id| super::printable(id.as_bytes(), MAX_CALLER_ID),
        );
        let own = session.caller.environment();
        let environment = own.unwrap_or(&context.limits.v0_environment);
        let environment = context.shared.registry.environment(environment);
        let generation = generation::of(&context.limits.v0_generations, &caller_id);
        let profile = Profile {
            caller_id,
            environment,
            generation,
            role: String::new(),
            client_version: String::new(),
        };
        session.introduce(profile, Mode::ReadWrite, None);
        super::still_known(&session, context);
        Self {
            session,
            context: Arc::clone(context),
            waiting: Vec::new(),
        }
    }

    async fn handle(&mut self, message: &Bytes) -> Result<(), Refusal> {
        let message = frame::read_v0(message, || self.session.shared().clock.unix_nanos())?;
        if let FromV0::Subscribe(shard) = message
            && self.context.backplane.is_some()
        {
            self.waiting.push((shard, Start::Replay));
            if self.waiting.len() >= TOGETHER {
                self.subscribe_waiting().await;
            }
            return Ok(());
        }
        // What comes behind them is done behind them.
        self.subscribe_waiting().await;
        match message {
            FromV0::Push(publication) => self.session.publish_slowed(publication).await,
            FromV0::Subscribe(shard) => self.subscribe((shard, Start::Replay)),
            FromV0::Unsubscribe(shard) => {
                self.session.unsubscribe(&[shard]);
                Ok(())
            }
            FromV0::Empty => Err(Refusal::new(
                RefusalCode::Empty,
                "neither a push, a subscribe nor an unsubscribe",
            )),
        }
    }

    fn subscribe(&self, shard: (ShardId, Start)) -> Result<(), Refusal> {
        self.session.room_for(&[shard])?;
        self.session.subscribe(&[shard], |_| Vec::new())
    }

    /// Subscribes to what waits, once the other replicas have been asked.
    async fn subscribe_waiting(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut self.waiting);
        let _held = self.context.join(&self.session, &waiting).await;
        for shard in waiting {
            if let Err(refusal) = self.subscribe(shard) {
                super::refused(&self.session, &self.context, &refusal);
            }
        }
    }
}

impl Dialect for Speaker {
    async fn take(&mut self, message: Bytes) {
        if let Err(refusal) = self.handle(&message).await {
            super::refused(&self.session, &self.context, &refusal);
        }
    }

    async fn rest(&mut self) {
        self.subscribe_waiting().await;
    }

    async fn too_large(&mut self, len: usize) {
        let refusal = super::too_large(len, &self.context.limits);
        super::refused(&self.session, &self.context, &refusal);
    }

    fn tick(&mut self, _: Instant) {}
}

impl From<MessageError> for Refusal {
    fn from(e: MessageError) -> Self {
        let code = match e {
            MessageError::Malformed(_) => RefusalCode::Malformed,
            MessageError::Shard(_) => RefusalCode::InvalidShardId,
        };
        Self::new(code, e.to_string())
    }
}
