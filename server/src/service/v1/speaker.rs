//! A v1 session over a network: from the bytes of a message to what it says.

use std::sync::Arc;

use bytes::Bytes;
use persist_pubsub_proto::v1;
use prost::Message;
use tokio::time::Instant;

use super::Conversation;
use crate::error::{Refusal, RefusalCode};
use crate::frame;
use crate::service::{Dialect, ServiceContext};
use crate::session::Session;

/// Speaks v1 with one client.
pub(in crate::service) struct Speaker(Conversation);

impl Speaker {
    pub(in crate::service) fn new(session: Arc<Session>, context: &Arc<ServiceContext>) -> Self {
        Self(Conversation::new(session, context, frame::read_publish))
    }

    /// Handles a message. Ok(true): something was answered.
    async fn handle(&mut self, message: Bytes) -> Result<bool, Refusal> {
        // What nearly every message is, without decoding it.
        if self.0.may_publish()
            && let Some(publication) = frame::spelled_v1(&message)
        {
            return self.0.session.publish(publication).map(|()| false);
        }
        let request = v1::SessionRequest::decode(message)
            .map_err(|e| Refusal::new(RefusalCode::Malformed, format!("malformed message: {e}")))?;
        self.0.act(request).await
    }
}

impl Dialect for Speaker {
    async fn take(&mut self, message: Bytes) {
        let handled = self.handle(message).await;
        self.0.answered(handled).await;
    }

    async fn rest(&mut self) {}

    async fn too_large(&mut self, len: usize) {
        let refusal = crate::service::too_large(len, &self.0.context.limits);
        self.0.answered(Err(refusal)).await;
    }

    fn tick(&mut self, now: Instant) {
        self.0.tick(now);
    }
}
