//! Where a shard's publications go that come from NATS.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use persist_pubsub_proto::ShardId;
use tokio::time::Instant;

use crate::environment::Environment;
use crate::frame::Publication;
use crate::metrics::BackplaneMetrics;
use crate::registry::Registry;
use crate::topic::Foreign;

/// Publications that are held back for one shard at most, and their bytes:
/// what comes in the moment of a join.
const HELD_BACK: usize = 16_384;
const HELD_BACK_BYTES: usize = 8 << 20;

/// A shard that is taken from NATS.
///
/// While the other replicas are asked what they have of it, and nobody is
/// subscribed yet, what is published goes behind their answers: an order that
/// has come to the middle of the answers would find it too far ahead to be
/// believed.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) environment: Arc<Environment>,
    pub(super) shard: ShardId,
    /// None: nothing is held back.
    early: Mutex<Option<Early>>,
}

#[derive(Debug, Default)]
struct Early {
    publications: Vec<Publication>,
    bytes: usize,
}

impl Target {
    pub(super) fn new(environment: Arc<Environment>, shard: ShardId) -> Arc<Self> {
        Arc::new(Self {
            environment,
            shard,
            early: Mutex::new(None),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Early>> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds back what comes from now on.
    pub(super) fn hold_back(&self) {
        self.lock().get_or_insert_default();
    }

    /// Takes what was published elsewhere just now.
    pub(super) fn take(
        &self,
        publication: Publication,
        registry: &Arc<Registry>,
        metrics: &BackplaneMetrics,
    ) {
        let mut early = self.lock();
        if let Some(held) = early.as_mut() {
            held.bytes += publication.diff.as_ref().map_or(0, |d| d.held_bytes());
            held.publications.push(publication);
            if held.publications.len() < HELD_BACK && held.bytes < HELD_BACK_BYTES {
                return;
            }
            return self.release(&mut early, registry, metrics);
        }
        self.hand_on(publication, registry, metrics);
    }

    /// Lets through what was held back.
    pub(super) fn let_through(&self, registry: &Arc<Registry>, metrics: &BackplaneMetrics) {
        self.release(&mut self.lock(), registry, metrics);
    }

    /// Under the lock, so that what comes next stays behind.
    fn release(
        &self,
        early: &mut Option<Early>,
        registry: &Arc<Registry>,
        metrics: &BackplaneMetrics,
    ) {
        for publication in early.take().into_iter().flat_map(|e| e.publications) {
            self.hand_on(publication, registry, metrics);
        }
    }

    fn hand_on(
        &self,
        publication: Publication,
        registry: &Arc<Registry>,
        metrics: &BackplaneMetrics,
    ) {
        let (environment, now) = (&self.environment, Instant::now());
        let taken = registry.take_foreign(environment, publication, Foreign::Live, now);
        if taken.is_none() {
            metrics.unwanted.inc();
        }
    }
}
