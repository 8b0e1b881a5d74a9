//! What this replica has of shards, for replicas that ask.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use bytes::Bytes;
use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::backplane_v1::{
    Answer, ShardPart, ShardWanted, ShardsAnswer, ShardsQuestion,
};
use prost::Message;
use tokio::time::Instant;

use super::questions::Questions;
use crate::environment::Environment;
use crate::frame;
use crate::registry::Registry;

/// Shards in one question.
pub(super) const SHARDS_ASKED: usize = 256;
/// What a diff takes in an answer beside its message, at most; and a shard.
const BESIDE: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) registry: Arc<Registry>,
    pub(super) questions: Arc<Questions>,
}

impl Answers {
    /// Answers a `ShardsQuestion`, in as many parts as it takes.
    pub(super) async fn answer(&self, question: Bytes, reply: &Subject) {
        let Ok(question) = ShardsQuestion::decode(question) else {
            let error = "no ShardsQuestion".to_owned();
            let answer = Answer {
                error,
                ..Answer::default()
            };
            return self.questions.send(answer, reply.clone()).await;
        };
        let registry = &self.registry;
        let environment = registry.environment(&question.environment);
        let window = Duration::from_millis(question.window_millis.into());
        let mut parts = Parts {
            of: self,
            reply,
            environment: &environment,
            shards: Vec::new(),
            bytes: 0,
            room: self.questions.room(),
        };
        let wanted = question.shards.iter().take(SHARDS_ASKED);
        for wanted in wanted {
            parts.shard(wanted, window).await;
        }
        parts.send(false).await;
    }
}

/// An answer that is being made.
struct Parts<'a> {
    of: &'a Answers,
    reply: &'a Subject,
    environment: &'a Arc<Environment>,
    shards: Vec<ShardPart>,
    bytes: usize,
    room: usize,
}

impl Parts<'_> {
    async fn shard(&mut self, wanted: &ShardWanted, window: Duration) {
        let Ok(shard) = ShardId::from_slice(&wanted.shard_id) else {
            return;
        };
        let topic = self.of.registry.get(&(self.environment.id(), shard));
        let recent = wanted.recent.then_some(window);
        let known = topic.and_then(|t| t.known(wanted.after, recent, Instant::now()));
        let Some(known) = known else { return };
        let has_more = wanted.after.is_none_or(|after| known.head > after);
        if !has_more && known.diffs.is_empty() {
            return;
        }
        self.begin(shard, known.head).await;
        for (seqno, diff) in known.diffs {
            let message = frame::publishing(shard, seqno, Some(&diff));
            let cost = message.len() + BESIDE;
            if cost + BESIDE > self.room {
                // NATS does not take it: the head tells that it was there.
                continue;
            }
            if self.bytes + cost > self.room {
                self.send(true).await;
                self.begin(shard, known.head).await;
            }
            self.bytes += cost;
            if let Some(part) = self.shards.last_mut() {
                part.diffs.push(message);
            }
        }
    }

    async fn begin(&mut self, shard: ShardId, head: u64) {
        if self.bytes + BESIDE > self.room {
            self.send(true).await;
        }
        self.bytes += BESIDE;
        self.shards.push(ShardPart {
            shard_id: shard.to_bytes(),
            head,
            diffs: Vec::new(),
        });
    }

    async fn send(&mut self, more: bool) {
        let payload = ShardsAnswer {
            environment: self.environment.name().to_owned(),
            shards: std::mem::take(&mut self.shards),
        };
        self.bytes = 0;
        let answer = Answer {
            payload: payload.encode_to_vec().into(),
            more,
            ..Answer::default()
        };
        self.of.questions.send(answer, self.reply.clone()).await;
    }
}
