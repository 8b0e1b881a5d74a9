//! What a session must still be told, and its subscriptions with their
//! cursors.
//!
//! Nothing of a shard is copied in here until the socket has room for it: the
//! outbox knows which of its shards have something (the mailbox), and reads
//! each from its cursor on. A reader in this process is a socket that takes
//! messages. A session that does not read therefore costs its
//! subscriptions and at most `--max-control-frames` answers, for as long as it
//! likes.

mod batch;

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hashbrown::HashTable;
use persist_pubsub_proto::ShardId;
use tokio::time::Instant;

use crate::error::EndReason;
use crate::frame::{self, Response, Wire};
use crate::mailbox::{Mailbox, Names};
use crate::metrics::SessionMetrics;
use crate::registry::Registry;
use crate::topic::{Cursor, Own, Reader, Topic, Verdict};
pub(crate) use batch::{Batch, Frames};
use batch::{Filling, FillingFrames, FillingMessages};

/// One subscription.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) topic: Arc<Topic>,
    /// Its place among the topic's subscribers.
    pub(crate) index: u32,
    /// It has once read everything that there was: what it reads now is new.
    live: bool,
    cursor: Cursor,
}

// There are more of these than of anything else.
const _: () = assert!(size_of::<Option<Slot>>() <= 40);

/// Ranges of its own publications kept for a subscription of a v0 session.
/// v0 has no gaps: what is forgotten may be sent to who published it, if
/// another had published it before; stale, to it.
const V0_OWN_RANGES: usize = 64;

/// What the session's reader takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// gRPC messages as bytes: a socket.
    Frames,
    /// v1 messages as they are: a reader in this process.
    Messages,
}

/// An answer that waits, in the reader's form: encoded at once for a socket,
/// which is how it holds the least memory.
#[derive(Debug)]
pub(super) enum Control {
    Frame(Bytes),
    Message(Box<Response>),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Outbox {
    reader: Reader,
    form: Form,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    /// The names of the slots, to be found by their topics' shards.
    names: HashTable<u32>,
    hasher: RandomState,
    /// By slot: what this session published and the cursor has not passed yet,
    /// which is never a gap to it. Most have nothing of it, and stand not here.
    own: HashMap<u32, Own>,
    /// Ranges of own publications that all slots hold.
    own_ranges: usize,
    /// Slots that have something to read. One that was given back meanwhile is
    /// passed over; its successor of the same name is read for nothing.
    pending: Names,
    /// When the oldest of these was marked.
    since: Option<Instant>,
    control: VecDeque<Control>,
    /// Why the stream ends: set once, but that a fence overrules the rest.
    reason: Option<EndReason>,
    /// The marks have been looked at since it was to end.
    last_look: bool,
    /// It is to end, and has not yet.
    ending: Option<When>,
    ended: bool,
    /// Set once: nothing is taken from the client any more.
    fenced: bool,
}

/// When an ending stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// As soon as what is ready has been sent.
    Flushed,
    /// Behind the answers that are due, whatever diffs are ready.
    Answered,
}

/// What the reader gets next.
pub(crate) enum Output<T> {
    /// Whole messages.
    Batch(Batch<T>),
    /// Nothing more; the reason becomes the trailers.
    End(EndReason),
}

impl Outbox {
    pub(crate) fn new(reader: Reader, form: Form) -> Self {
        Self {
            reader,
            form,
            slots: Vec::new(),
            free: Vec::new(),
            names: HashTable::new(),
            hasher: RandomState::new(),
            own: HashMap::new(),
            own_ranges: 0,
            pending: Names::default(),
            since: None,
            control: VecDeque::new(),
            reason: None,
            last_look: false,
            ending: None,
            ended: false,
            fenced: false,
        }
    }

    pub(crate) fn subscriptions(&self) -> usize {
        self.names.len()
    }

    /// Room for so many subscriptions more.
    pub(crate) fn reserve(&mut self, subscriptions: usize) {
        let fresh = subscriptions.saturating_sub(self.free.len());
        self.slots.reserve(fresh);
    }

    /// The name of the slot of a shard.
    pub(crate) fn name_of(&self, shard: ShardId) -> Option<u32> {
        if self.names.is_empty() {
            // Without hashing: many only publish.
            return None;
        }
        let is_it = |name: &u32| shard_of(&self.slots, *name) == Some(shard);
        let hash = self.hasher.hash_one(shard);
        self.names.find(hash, is_it).copied()
    }

    pub(crate) fn slot(&mut self, name: u32) -> Option<&mut Slot> {
        self.slots.get_mut(name as usize)?.as_mut()
    }

    pub(crate) fn slot_of(&mut self, shard: ShardId) -> Option<&mut Slot> {
        let name = self.name_of(shard)?;
        self.slot(name)
    }

    /// The name that the next subscription will have.
    pub(crate) fn next_slot(&self) -> u32 {
        // Bounded by `--max-subscriptions-per-session`, far below 2^32.
        let fresh = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        self.free.last().copied().unwrap_or(fresh)
    }

    /// Adds a subscription, under the name that `next_slot` gave.
    pub(crate) fn add(&mut self, topic: Arc<Topic>, index: u32, cursor: Cursor) {
        let name = self.next_slot();
        let hash = self.hasher.hash_one(topic.shard);
        let slot = Some(Slot {
            topic,
            index,
            live: false,
            cursor,
        });
        if self.free.pop().is_some() {
            if let Some(place) = self.slots.get_mut(name as usize) {
                *place = slot;
            }
        } else {
            self.slots.push(slot);
        }
        let (slots, hasher) = (&self.slots, &self.hasher);
        // Every name in the table is that of a slot that is taken.
        let rehash = |name: &u32| shard_of(slots, *name).map_or(0, |s| hasher.hash_one(s));
        self.names.insert_unique(hash, name, rehash);
    }

    pub(crate) fn remove(&mut self, shard: ShardId) -> Option<Slot> {
        let name = self.name_of(shard)?;
        let hash = self.hasher.hash_one(shard);
        if let Ok(entry) = self.names.find_entry(hash, |other| *other == name) {
            entry.remove();
        }
        let slot = self.slots.get_mut(name as usize)?.take();
        self.free.push(name);
        self.own_ranges -= self.own.remove(&name).map_or(0, |own| own.len());
        if self.names.is_empty() {
            self.slots = Vec::new();
            self.free = Vec::new();
            self.names = HashTable::new();
        }
        slot
    }

    /// Gives all subscriptions back.
    pub(crate) fn clear(&mut self) -> Vec<Slot> {
        self.names = HashTable::new();
        self.own = HashMap::new();
        self.free = Vec::new();
        self.pending = Names::default();
        self.control = VecDeque::new();
        self.own_ranges = 0;
        self.ended = true;
        std::mem::take(&mut self.slots)
            .into_iter()
            .flatten()
            .collect()
    }

    /// The session has published `seqno` on the shard of this slot. Returns how
    /// many ranges of own publications are kept now, for all shards.
    pub(crate) fn published_own(&mut self, name: u32, seqno: u64, verdict: Verdict) -> usize {
        let wire = self.reader.wire;
        let Some(slot) = self.slots.get_mut(name as usize).and_then(Option::as_mut) else {
            return self.own_ranges;
        };
        if verdict.was_doubted() {
            self.own.entry(name).or_default().add_doubted(seqno);
            return self.own_ranges;
        }
        // What another had published before may still surface below the cursor.
        let passed = slot.cursor.pass_own(seqno, slot.topic.epoch());
        if !passed || verdict == Verdict::Duplicate {
            let own = self.own.entry(name).or_default();
            let before = own.len();
            own.add(seqno);
            if wire == Wire::V0 {
                own.keep_highest(V0_OWN_RANGES);
            }
            self.own_ranges = self.own_ranges + own.len() - before;
        }
        self.own_ranges
    }

    pub(crate) fn control_frames(&self) -> usize {
        self.control.len()
    }

    /// Queues an answer. The caller wakes the mailbox.
    pub(crate) fn push_control(&mut self, answer: Response) {
        if !self.ended && !self.fenced {
            self.control.push_back(match self.form {
                Form::Frames => Control::Frame(frame::encode(answer)),
                Form::Messages => Control::Message(Box::new(answer)),
            });
        }
    }

    /// Ends the stream. The first reason stands. The caller wakes the mailbox.
    pub(crate) fn end(&mut self, reason: EndReason, when: When) {
        self.reason.get_or_insert(reason);
        self.ending.get_or_insert(when);
    }

    /// Ends the stream behind the answers that are due and `told`, for a reason
    /// that is more telling than any other. False: it was fenced before. The
    /// caller wakes the mailbox.
    pub(crate) fn fence(&mut self, told: Option<Response>, reason: EndReason) -> bool {
        if self.fenced {
            return false;
        }
        if let Some(told) = told {
            self.push_control(told);
        }
        self.fenced = true;
        if !self.ended {
            self.reason = Some(reason);
            self.ending = Some(When::Answered);
        }
        true
    }

    pub(crate) fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// Whether the stream has ended: nothing can be told any more, and what is
    /// added now would never be given back.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whether the stream is to end, or has.
    pub(crate) fn is_ending(&self) -> bool {
        self.reason.is_some() || self.ended
    }

    /// Why the stream ended, told or not.
    pub(crate) fn reason(&self) -> EndReason {
        self.reason
            .clone()
            .unwrap_or_else(|| EndReason::ClientGone(String::new()))
    }

    /// How many shards have something to read, and since when the oldest has.
    pub(crate) fn behind(&self, mailbox: &Mailbox) -> (usize, Option<Instant>) {
        let (marked, since) = mailbox.waiting();
        let since = self.since.into_iter().chain(since).min();
        (self.pending.len() + marked, since)
    }

    /// What goes to the socket next; pending when there is nothing to tell.
    pub(crate) fn poll_frames(
        &mut self,
        cx: &Context<'_>,
        mailbox: &Mailbox,
        registry: &Registry,
        metrics: &SessionMetrics,
        now_nanos: u64,
    ) -> Poll<Output<Frames>> {
        let wire = self.reader.wire;
        let begin = || FillingFrames::new(wire, metrics, now_nanos);
        self.poll(cx, mailbox, registry, begin)
    }

    /// The same for a reader in this process.
    pub(crate) fn poll_messages(
        &mut self,
        cx: &Context<'_>,
        mailbox: &Mailbox,
        registry: &Registry,
        metrics: &SessionMetrics,
        now_nanos: u64,
    ) -> Poll<Output<VecDeque<Response>>> {
        let begin = || FillingMessages::new(metrics, now_nanos);
        self.poll(cx, mailbox, registry, begin)
    }

    fn poll<F: Filling>(
        &mut self,
        cx: &Context<'_>,
        mailbox: &Mailbox,
        registry: &Registry,
        begin: impl Fn() -> F,
    ) -> Poll<Output<F::Told>> {
        if self.ended {
            return Poll::Ready(Output::End(self.reason()));
        }
        loop {
            let idle = self.control.is_empty() && self.pending.is_empty() && self.ending.is_none();
            let asleep = self.take_marks(cx, mailbox, idle);
            let mut batch = begin();
            while !batch.full() {
                let Some(answer) = self.control.pop_front() else {
                    break;
                };
                batch.answer(answer);
            }
            let answered = self.control.is_empty();
            let skip = self.ending == Some(When::Answered);
            if answered && !skip {
                self.drain_shards(&mut batch, registry);
            }
            if self.pending.is_empty() {
                self.since = None;
            }
            if !batch.is_empty() {
                return Poll::Ready(Output::Batch(batch.done()));
            }
            // Nothing was written: no answer is due and no shard has more.
            if self.ending.take().is_some() {
                self.ended = true;
                return Poll::Ready(Output::End(self.reason()));
            }
            if asleep {
                return Poll::Pending;
            }
            // There was a mark, but no frame came of it, as when a diff too
            // large for v0 was passed over: look again before going to sleep.
        }
    }

    /// Moves the marked slots to `pending`. True: there were none, and the
    /// next mark will wake the context.
    fn take_marks(&mut self, cx: &Context<'_>, mailbox: &Mailbox, idle: bool) -> bool {
        if self.ending.is_some() && std::mem::replace(&mut self.last_look, true) {
            // What came after the end was asked for is not waited for: else a
            // busy shard could keep an ending stream open for ever.
            return false;
        }
        let since = mailbox.take(&mut self.pending, idle, cx);
        self.since = self.since.or(since);
        idle && self.pending.is_empty()
    }

    fn drain_shards(&mut self, batch: &mut impl Filling, registry: &Registry) {
        let (mut grown, mut evicted) = (0, 0);
        while !batch.full() {
            let Some(name) = self.pending.pop() else {
                break;
            };
            let Some(Some(slot)) = self.slots.get_mut(name as usize) else {
                continue;
            };
            batch.live(slot.live);
            let mut none = Own::default();
            let own = self.own.get_mut(&name).unwrap_or(&mut none);
            let ranges = own.len();
            let reading = slot.topic.read(
                slot.index,
                &mut slot.cursor,
                self.reader,
                own,
                registry.topic_limits(),
                batch,
            );
            grown += reading.grown;
            evicted += reading.evicted;
            self.own_ranges -= ranges - own.len();
            if own.is_empty() && !self.own.is_empty() {
                self.own.remove(&name);
            }
            slot.live |= !reading.more;
            if reading.more {
                // To the back: one busy shard does not starve the others.
                self.pending.push(name);
                break;
            }
        }
        registry.encoded(grown, evicted);
    }
}

impl Slot {
    /// Goes back to where a new v0 subscription begins.
    pub(crate) fn replay(&mut self, registry: &Registry, now: Instant) {
        self.live = false;
        self.cursor = self.topic.replay(self.index, now, registry.topic_limits());
    }
}

/// The shard of a slot that is taken.
fn shard_of(slots: &[Option<Slot>], name: u32) -> Option<ShardId> {
    Some(slots.get(name as usize)?.as_ref()?.topic.shard)
}
