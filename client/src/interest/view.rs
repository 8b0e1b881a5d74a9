//! What one session's server has been asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use persist_pubsub_proto::ShardId;
use tokio::time::Instant;

use super::Bounds;
use super::requests::Requests;
use crate::connection::gate::{Gate, LinkId};
use crate::connection::wire::Frame;
use crate::event::Wire;
use crate::merge::Position;

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
    /// Those of `told` that are not answered.
    unanswered: Requests,
    /// Since when the answers are not read.
    unread_since: Option<Instant>,
    /// Of `join`, those to be asked for from another seqno than the host's.
    again: BTreeMap<ShardId, u64>,
    /// v0: asked for, which the host has to be told.
    unanswerable: BTreeSet<ShardId>,
    last_request: u64,
    /// Nobody waits for an answer any more.
    given_up: bool,
}

struct Told {
    /// The request that asked.
    request: u64,
    /// The position that it named.
    asked: Position,
    /// Whether it was answered.
    live: bool,
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
            unanswered: Requests::default(),
            unread_since: None,
            again: BTreeMap::new(),
            unanswerable: BTreeSet::new(),
            last_request: 0,
            given_up: false,
        }
    }

    pub(super) fn want(&mut self, shard: ShardId) {
        self.join.insert(shard);
        self.gate.ring();
    }

    pub(super) fn unwant(&mut self, shard: ShardId) {
        self.join.remove(&shard);
        self.again.remove(&shard);
        self.refused.remove(&shard);
        self.unanswerable.remove(&shard);
        if self.forget(shard) {
            self.leave.insert(shard);
            self.gate.ring();
        }
    }

    /// Gives the shard's subscription back and asks for it anew, from a seqno.
    pub(super) fn ask_again(&mut self, shard: ShardId, from: u64) {
        if self.forget(shard) {
            self.leave.insert(shard);
            self.again.insert(shard, from);
            self.want(shard);
        }
    }

    pub(super) fn next_frame(
        &mut self,
        position: impl Fn(ShardId) -> Position,
        now: Instant,
    ) -> Option<Frame> {
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
        if !live {
            let shards = shards.iter().copied().collect();
            self.unanswered.ask(request, shards, now);
        }
        let mut positions = Vec::with_capacity(shards.len());
        for shard in shards {
            let asked = match self.again.remove(&shard) {
                Some(from) => Position {
                    have: Some(from),
                    sure: Some(from),
                },
                None => position(shard),
            };
            positions.push((shard, asked.have));
            let told = Told {
                request,
                asked,
                live,
            };
            self.told.insert(shard, told);
            if live {
                self.unanswerable.insert(shard);
            }
        }
        Some(Frame::Subscribe {
            request,
            shards: positions,
        })
    }

    /// Takes the answer for one shard: the position that was named in asking.
    /// `None` if nothing that waits for an answer is meant.
    pub(super) fn answer(
        &mut self,
        shard: ShardId,
        request: u64,
        now: Instant,
    ) -> Option<Position> {
        let told = self.told.get_mut(&shard)?;
        if told.live || told.request != request {
            return None;
        }
        told.live = true;
        let asked = told.asked;
        self.unanswered.settle(request, shard, Some(now));
        Some(asked)
    }

    /// Since when the oldest request waits for an answer that is read.
    pub(super) fn asked_since(&self) -> Option<Instant> {
        if self.unread_since.is_some() || self.given_up {
            return None;
        }
        self.unanswered.oldest()
    }

    pub(super) fn reads(&mut self, reads: bool, now: Instant) {
        if !reads {
            self.unread_since.get_or_insert(now);
        } else if let Some(unread) = self.unread_since.take() {
            self.unanswered.excuse(unread, now);
        }
    }

    /// The server refused a request: its shards wait, and are then asked for
    /// in smaller requests, so that one that cannot be taken does not keep
    /// the others out.
    pub(super) fn refuse(&mut self, request: u64) -> usize {
        let shards = self.unanswered.take(request);
        if shards.len() > 1 {
            self.bounds.batch = shards.len().div_ceil(2).min(self.bounds.batch);
        }
        for shard in &shards {
            self.told.remove(shard);
            self.refused.insert(*shard);
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

    /// What is wanted and not taken.
    pub(super) fn refused(&self) -> usize {
        let over = if self.is_full() { self.join.len() } else { 0 };
        self.refused.len() + over
    }

    /// All has been asked for that this server takes, and it was answered.
    pub(super) fn is_settled(&self) -> bool {
        (self.join.is_empty() || self.is_full())
            && self.unanswered.is_empty()
            && self.unanswerable.is_empty()
    }

    /// The session is to end: nobody waits for an answer any more.
    pub(super) fn give_up(&mut self) {
        self.given_up = true;
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up
    }

    fn is_full(&self) -> bool {
        self.told.len() >= self.bounds.subscriptions
    }

    /// Whether it had been asked for.
    fn forget(&mut self, shard: ShardId) -> bool {
        match self.told.remove(&shard) {
            Some(told) => {
                if !told.live {
                    self.unanswered.settle(told.request, shard, None);
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
