//! What comes of the shards that are taken from NATS.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_nats::{Message as Heard, Subscriber};
use futures_util::stream::SelectAll;
use futures_util::{FutureExt, Stream, StreamExt};
use persist_pubsub_proto::backplane_v1::Heads;
use prost::Message;
use tokio::sync::{mpsc, oneshot};

use super::heal::Healer;
use super::target::Target;
use crate::environment::Environment;
use crate::frame;
use crate::metrics::BackplaneMetrics;
use crate::registry::Registry;

/// What a subscription at NATS is for.
#[derive(Clone, Debug)]
pub(super) enum What {
    /// Publications on a shard.
    Shard(Arc<Target>),
    /// Digests of an environment.
    Digests(Arc<Environment>),
}

/// A subscription at NATS. Ends, there too, when its `stop` is dropped.
pub(super) struct Listening {
    pub(super) subscriber: Subscriber,
    pub(super) what: What,
    pub(super) stop: oneshot::Receiver<()>,
}

impl Stream for Listening {
    type Item = (What, Heard);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.stop.poll_unpin(cx).is_ready() {
            return Poll::Ready(None);
        }
        let heard = self.subscriber.poll_next_unpin(cx);
        heard.map(|heard| Some((self.what.clone(), heard?)))
    }
}

/// Takes what comes into the topics.
pub(super) struct Receiver {
    pub(super) registry: Arc<Registry>,
    pub(super) healer: Arc<Healer>,
    pub(super) metrics: BackplaneMetrics,
}

impl Receiver {
    /// Runs until it is dropped. `added` are the subscriptions.
    pub(super) async fn run(self, mut added: mpsc::Receiver<Listening>) {
        let mut all = SelectAll::new();
        loop {
            tokio::select! {
                listening = added.recv() => match listening {
                    Some(listening) => all.push(listening),
                    None => return,
                },
                Some((what, heard)) = all.next(), if !all.is_empty() => self.take(&what, heard),
            }
        }
    }

    fn take(&self, what: &What, heard: Heard) {
        if heard.payload.is_empty() {
            return;
        }
        match what {
            What::Shard(target) => {
                let publication = frame::read_publishing(heard.payload);
                match publication.filter(|p| p.shard == target.shard) {
                    Some(publication) => {
                        self.metrics.received.inc();
                        target.take(publication, &self.registry, &self.metrics);
                    }
                    None => self.metrics.bad_messages.inc(),
                }
            }
            What::Digests(environment) => match Heads::decode(heard.payload) {
                Ok(heads) => self.healer.heads(environment, heads),
                Err(_) => self.metrics.bad_messages.inc(),
            },
        }
    }
}
