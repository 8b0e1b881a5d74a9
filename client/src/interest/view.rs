//! What one session's server has been asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use persist_pubsub_proto::ShardId;

use super::Bounds;
use crate::connection::gate::{Gate, LinkId};
use crate::connection::wire::Frame;
use crate::event::Wire;

/// A shard is in at most one of `told`, `join` and `refused`; it may be in
/// `leave` besides, which then goes first.
///
/// Memory: `join` and `refused` hold wanted shards alone; `leave` holds what
/// was told to the server, and telling it needs a frame that the network took.
pub(super) struct View {
    pub(super) link: LinkId,
    pub(super) wire: Wire,
    bounds: Bounds,
    gate: Arc<Gate>,
    /// Asked for, and not given back.
    told: BTreeMap<ShardId, Told>,
    /// To be asked for.
    join: BTreeSet<ShardId>,
    /// To be given back.
    leave: BTreeSet<ShardId>,
    /// Refused by the server; asked for again later.
    refused: BTreeSet<ShardId>,
    /// How many of `told` are not answered.
    unanswered: usize,
    /// v0: asked for, which the host has to be told.
    unanswerable: BTreeSet<ShardId>,
    last_request: u64,
}

struct Told {
    /// The request that asked.
    request: u64,
    /// The seqno that it named.
    asked: Option<u64>,
    /// Whether it was answered.
    live: bool,
}

/// What a session may bring of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its subscription was answered.
    Live,
    /// Whatever comes is of an earlier subscription, or of none.
    Ignored,
}

impl View {
    pub(super) fn new(
        link: LinkId,
        wire: Wire,
        bounds: Bounds,
        gate: Arc<Gate>,
        join: BTreeSet<ShardId>,
    ) -> Self {
        Self {
            link,
            wire,
            bounds,
            gate,
            told: BTreeMap::new(),
            join,
            leave: BTreeSet::new(),
            refused: BTreeSet::new(),
            unanswered: 0,
            unanswerable: BTreeSet::new(),
            last_request: 0,
        }
    }

    pub(super) fn want(&mut self, shard: ShardId) {
        self.join.insert(shard);
        self.gate.ring();
    }

    pub(super) fn unwant(&mut self, shard: ShardId) {
        self.join.remove(&shard);
        self.refused.remove(&shard);
        self.unanswerable.remove(&shard);
        if self.forget(shard) {
            self.leave.insert(shard);
            self.gate.ring();
        }
    }

    /// Gives the shard's subscription back and asks for it anew.
    pub(super) fn ask_again(&mut self, shard: ShardId) {
        if self.forget(shard) {
            self.leave.insert(shard);
            self.want(shard);
        }
    }

    pub(super) fn next_frame(&mut self, have: impl Fn(ShardId) -> Option<u64>) -> Option<Frame> {
        if !self.leave.is_empty() {
            let shards = take_first(&mut self.leave, self.bounds.batch);
            let request = self.next_request();
            return Some(Frame::Unsubscribe { request, shards });
        }
        let room = self.bounds.subscriptions.saturating_sub(self.told.len());
        let shards = take_first(&mut self.join, self.bounds.batch.min(room));
        if shards.is_empty() {
            return None;
        }
        let request = self.next_request();
        let live = self.wire == Wire::V0;
        let mut positions = Vec::with_capacity(shards.len());
        for shard in shards {
            let asked = have(shard);
            positions.push((shard, asked));
            let told = Told {
                request,
                asked,
                live,
            };
            self.told.insert(shard, told);
            if live {
                self.unanswerable.insert(shard);
            } else {
                self.unanswered += 1;
            }
        }
        Some(Frame::Subscribe {
            request,
            shards: positions,
        })
    }

    /// Takes the answer for one shard: the seqno that was named in asking.
    /// `None` if nothing that waits for an answer is meant.
    pub(super) fn answer(&mut self, shard: ShardId, request: u64) -> Option<Option<u64>> {
        let told = self.told.get_mut(&shard)?;
        if told.live || told.request != request {
            return None;
        }
        told.live = true;
        self.unanswered = self.unanswered.saturating_sub(1);
        Some(told.asked)
    }

    /// The server refused a request: its shards wait, and are then asked for
    /// in smaller requests, so that one that cannot be taken does not keep
    /// the others out.
    pub(super) fn refuse(&mut self, request: u64) -> usize {
        // A refused push has no request, and costs no search.
        if request == 0 || self.unanswered == 0 {
            return 0;
        }
        let shards: Vec<_> = self
            .told
            .iter()
            .filter(|(_, told)| told.request == request && !told.live)
            .map(|(shard, _)| *shard)
            .collect();
        if shards.len() > 1 {
            self.bounds.batch = shards.len().div_ceil(2).min(self.bounds.batch);
        }
        for &shard in &shards {
            self.forget(shard);
            self.refused.insert(shard);
        }
        shards.len()
    }

    pub(super) fn retry_refused(&mut self) {
        self.join.append(&mut self.refused);
        self.gate.ring();
    }

    pub(super) fn take_unanswerable(&mut self) -> BTreeSet<ShardId> {
        std::mem::take(&mut self.unanswerable)
    }

    pub(super) fn fate(&self, shard: ShardId) -> Fate {
        match self.told.get(&shard) {
            Some(told) if told.live => Fate::Live,
            _ => Fate::Ignored,
        }
    }

    pub(super) fn is_settled(&self) -> bool {
        self.unanswered == 0 && (self.join.is_empty() || self.is_full())
    }

    /// What is wanted and not taken.
    pub(super) fn refused(&self) -> usize {
        let over = if self.is_full() { self.join.len() } else { 0 };
        self.refused.len() + over
    }

    fn is_full(&self) -> bool {
        self.told.len() >= self.bounds.subscriptions
    }

    /// Whether it had been asked for.
    fn forget(&mut self, shard: ShardId) -> bool {
        match self.told.remove(&shard) {
            Some(told) => {
                if !told.live {
                    self.unanswered = self.unanswered.saturating_sub(1);
                }
                true
            }
            None => false,
        }
    }

    fn next_request(&mut self) -> u64 {
        self.last_request += 1;
        self.last_request
    }
}

fn take_first(set: &mut BTreeSet<ShardId>, most: usize) -> Vec<ShardId> {
    let mut taken = Vec::with_capacity(most.min(set.len()));
    while taken.len() < most {
        match set.pop_first() {
            Some(shard) => taken.push(shard),
            None => break,
        }
    }
    taken
}
