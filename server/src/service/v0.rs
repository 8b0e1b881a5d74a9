//! v0: the unversioned protocol of deployed processes. They cannot be told
//! what is wrong with a message: it is counted, logged within a rate, and
//! skipped.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
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

/// Speaks v0 with one client.
pub(super) struct Speaker {
    session: Arc<Session>,
    context: Arc<ServiceContext>,
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
        }
    }

    async fn handle(&self, message: &Bytes) -> Result<(), Refusal> {
        match frame::read_v0(message, || self.session.shared().clock.unix_nanos())? {
            FromV0::Push(publication) => self.session.publish_slowed(publication).await,
            FromV0::Subscribe(shard) => {
                let shards = [(shard, Start::Replay)];
                self.session.room_for(&shards)?;
                self.session.subscribe(&shards, |_| Vec::new())
            }
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
}

impl Dialect for Speaker {
    async fn take(&mut self, message: Bytes) {
        if let Err(refusal) = self.handle(&message).await {
            super::refused(&self.session, &self.context, &refusal);
        }
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
