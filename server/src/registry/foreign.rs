//! What comes from other replicas, and what goes to them.

use std::sync::Arc;

use persist_pubsub_proto::ShardId;
use tokio::time::Instant;

use super::Registry;
use crate::backplane::Outgoing;
use crate::environment::Environment;
use crate::error::Refusal;
use crate::frame::Publication;
use crate::happening::{Happening, What};
use crate::retention::TopicKey;
use crate::topic::{Foreign, Topic, Verdict};

impl Registry {
    /// From now on, what sessions publish is forwarded as well. Once.
    pub(crate) fn forward_to(&self, outgoing: Arc<Outgoing>) {
        // Set by who starts the backplane, which there is one of.
        let _ = self.outgoing.set(outgoing);
    }

    /// The topic of a shard that is to be taken from other replicas, made if
    /// need be.
    pub(crate) fn expect(
        &self,
        environment: &Arc<Environment>,
        shard: ShardId,
    ) -> Result<Arc<Topic>, Refusal> {
        self.topic(environment, shard)
    }

    /// The topic of a shard, if there is one.
    pub(crate) fn get(&self, key: &TopicKey) -> Option<Arc<Topic>> {
        self.topics.get(key).map(|topic| Arc::clone(&topic))
    }

    /// Nothing is taken from other replicas any more: lets go of the topic, if
    /// nobody needs it.
    pub(crate) fn expect_no_more(&self, key: &TopicKey) {
        self.forget_idle(key);
    }

    /// Takes what another replica has told of a shard: a seqno of at most
    /// `MAX_SEQNO`. None: nobody here has the shard, and no topic is made for
    /// it.
    pub(crate) fn take_foreign(
        self: &Arc<Self>,
        environment: &Arc<Environment>,
        publication: Publication,
        how: Foreign,
        now: Instant,
    ) -> Option<Verdict> {
        let Publication { shard, seqno, diff } = publication;
        let topic = self.get(&(environment.id(), shard))?;
        let (diff_bytes, stamp) = diff
            .as_ref()
            .map_or((0, None), |d| (d.len(), d.committed_unix_nanos()));
        let announced = diff.is_none();
        let diff = diff.filter(|d| d.len() <= self.limits.max_diff_bytes);
        if diff.is_none() && !announced {
            self.metrics.diffs_too_large.inc();
        }
        let diff = diff.map(Arc::new);
        let taken = topic.take_foreign(seqno, diff, how, now, &self.limits.topic);
        // Closed between the look-up and the lock: nobody has it any more.
        let published = taken.ok()?;
        self.account(&topic, &published);
        if published.unwatched {
            self.unwatched.list(&topic);
        }
        let verdict = published.verdict;
        if let Some(deadline) = published.arm {
            self.release_at(topic, deadline);
        }
        if verdict != Verdict::Backfilled {
            self.happened(|| Happening {
                environment: Arc::clone(environment),
                shard,
                what: if announced && !verdict.is_old() {
                    What::Announced
                } else {
                    What::Published(verdict)
                },
                seqno: Some(seqno),
                diff_bytes,
                committed_unix_nanos: stamp,
                session: None,
            });
        }
        if let Verdict::Gapped(last) = verdict {
            self.gapped(environment, shard, last);
        }
        Some(verdict)
    }
}
