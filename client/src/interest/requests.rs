//! What a session's server has been asked and has not answered.

use std::collections::{BTreeMap, BTreeSet};

use persist_pubsub_proto::ShardId;
use tokio::time::Instant;

/// Requests with the shards that wait for their answer. Each is found by its
/// id and by its age, for there may be as many as shards: a server may take
/// them one by one.
#[derive(Default)]
pub(super) struct Requests {
    all: BTreeMap<u64, Request>,
    /// The one that has waited for longest first.
    by_age: BTreeSet<(Instant, u64)>,
}

struct Request {
    /// When it was asked, or last answered in part.
    since: Instant,
    /// Never empty.
    shards: BTreeSet<ShardId>,
}

impl Requests {
    pub(super) fn ask(&mut self, id: u64, shards: BTreeSet<ShardId>, now: Instant) {
        if !shards.is_empty() {
            self.all.insert(id, Request { since: now, shards });
            self.by_age.insert((now, id));
        }
    }

    /// A shard does not wait any more. `answered`: because there was an answer,
    /// so that the others' wait begins again.
    pub(super) fn settle(&mut self, id: u64, shard: ShardId, answered: Option<Instant>) {
        let Some(request) = self.all.get_mut(&id) else {
            return;
        };
        request.shards.remove(&shard);
        let before = request.since;
        request.since = answered.unwrap_or(before);
        let after = (!request.shards.is_empty()).then_some(request.since);
        if after != Some(before) {
            self.by_age.remove(&(before, id));
            self.by_age.extend(after.map(|since| (since, id)));
        }
        if after.is_none() {
            self.all.remove(&id);
        }
    }

    /// Nobody waits for this one any more: its shards.
    pub(super) fn take(&mut self, id: u64) -> BTreeSet<ShardId> {
        let Some(request) = self.all.remove(&id) else {
            return BTreeSet::new();
        };
        self.by_age.remove(&(request.since, id));
        request.shards
    }

    /// Since when the oldest waits.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.by_age.first().map(|(since, _)| *since)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The time from `from` to `now` does not count as waiting. What was asked
    /// within it is asked now.
    pub(super) fn excuse(&mut self, from: Instant, now: Instant) {
        for request in self.all.values_mut() {
            request.since += now.saturating_duration_since(from.max(request.since));
        }
        let ages = self.all.iter().map(|(id, request)| (request.since, *id));
        self.by_age = ages.collect();
    }
}
