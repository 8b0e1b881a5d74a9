//! Who is connected of which generation.

use std::time::Duration;

use persist_pubsub_proto::admin_v1 as pb;
use tokio::time::Instant;

use crate::admin::Facts;
use crate::clock;

/// Groups that are told: peers name generations and roles as they like.
pub(crate) const MAX_GROUPS: usize = 1000;

/// The census of one look.
#[derive(Debug)]
pub(super) struct Generations {
    at: prost_types::Timestamp,
    running_for: Duration,
    groups: Vec<pb::StatusGroup>,
    fences: Vec<pb::Fence>,
}

impl Generations {
    pub(super) fn new(facts: &Facts, groups: &[pb::StatusGroup]) -> Self {
        Self {
            at: clock::timestamp(facts.shared.clock.now()),
            running_for: Instant::now().duration_since(facts.started),
            groups: groups.to_vec(),
            fences: facts.fences(),
        }
    }

    /// Of one environment, or of all (empty).
    pub(super) fn of(&self, environment: &str) -> pb::GenerationCensus {
        let wanted = |name: &str| environment.is_empty() || name == environment;
        let all = self.groups.iter().filter(|g| wanted(&g.environment));
        let left_out = all.clone().count().saturating_sub(MAX_GROUPS);
        let fences = self.fences.iter().filter(|f| wanted(&f.environment));
        pb::GenerationCensus {
            at: Some(self.at),
            server_running_for: self.running_for.try_into().ok(),
            groups: all.take(MAX_GROUPS).cloned().collect(),
            groups_left_out: left_out as u64,
            fences: fences.cloned().collect(),
            replicas: Vec::new(),
        }
    }
}
