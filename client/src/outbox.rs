//! What was pushed and must still be told to the server.
//!
//! One mutex, held for a few map operations and never over a network
//! operation: the host pushes under it, and the stream that the network polls
//! pulls under it.

mod recent;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use persist_pubsub_proto::ShardId;
use tokio::time::Instant;

use crate::config::Config;
use crate::connection::gate::{Gate, LinkId};
use crate::stats::Counters;
use recent::Recent;

/// What a waiting push is counted with beside its diff, in bytes.
const OVERHEAD: usize = 64;
/// Of how many own pushes per shard, and in all, a v0 session remembers the
/// seqno. Beyond it a hole that they would explain is told as a gap.
const OWN_PER_SHARD: usize = 32;
const OWN_SHARDS: usize = 65_536;

/// A diff of the host, or the news that a shard has reached a seqno.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Push {
    pub(crate) shard: ShardId,
    pub(crate) seqno: u64,
    /// Nanoseconds since the Unix epoch; 0: unknown.
    pub(crate) committed: u64,
    /// `None`: announced without.
    pub(crate) diff: Option<Bytes>,
}

/// What a session takes of the outbox.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Takes {
    /// The largest diff, in bytes.
    pub(crate) diff_bytes: usize,
    /// Whether a seqno can be announced without its diff.
    pub(crate) announcements: bool,
}

pub(crate) struct Outbox {
    max_bytes: usize,
    max_count: usize,
    max_shards: usize,
    queue: VecDeque<Push>,
    bytes: usize,
    /// The newest seqno of shards of which a push was dropped, or was perhaps
    /// lost with a connection. Told before the queue: it is older.
    announce: BTreeMap<ShardId, u64>,
    /// What was handed to the network lately.
    recent: Recent,
    /// The session that the pushes go out on. Changed by the connection's
    /// task alone.
    owner: Option<(LinkId, Arc<Gate>)>,
    /// Whether the owner found nothing and has to be woken.
    idle: bool,
    /// The own pushes since a v0 session began: a v0 server does not echo
    /// them, so that they look like holes.
    own: Option<BTreeMap<ShardId, VecDeque<u64>>>,
    /// The client has ended: nothing is taken any more.
    closed: bool,
}

impl Outbox {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            max_bytes: config.push_buffer_bytes,
            max_count: config.push_buffer_count,
            max_shards: config.reannounce_shards,
            queue: VecDeque::new(),
            bytes: 0,
            announce: BTreeMap::new(),
            recent: Recent::new(config.reannounce_window, config.reannounce_shards),
            owner: None,
            idle: false,
            own: None,
            closed: false,
        }
    }

    /// Takes a push in, dropping the oldest ones that it leaves no room for.
    pub(crate) fn push(&mut self, push: Push, stats: &Counters) {
        if self.closed {
            stats.pushes_dropped.one();
            return;
        }
        if let Some(own) = &mut self.own {
            if own.len() >= OWN_SHARDS {
                own.clear();
            }
            let seqnos = own.entry(push.shard).or_default();
            if seqnos.len() >= OWN_PER_SHARD {
                seqnos.pop_front();
            }
            seqnos.push_back(push.seqno);
        }
        self.bytes = self.bytes.saturating_add(cost(&push));
        self.queue.push_back(push);
        while self.bytes > self.max_bytes || self.queue.len() > self.max_count {
            let Some(oldest) = self.queue.pop_front() else {
                break;
            };
            self.bytes = self.bytes.saturating_sub(cost(&oldest));
            stats.pushes_dropped.one();
            self.announce(oldest.shard, oldest.seqno, stats);
        }
        stats.buffered_bytes.set(self.bytes);
        if std::mem::take(&mut self.idle)
            && let Some((_, gate)) = &self.owner
        {
            gate.ring();
        }
    }

    /// The next push for this session; `None` if there is none, or another
    /// session is the one that publishes. Then the session's gate is rung
    /// when that changes.
    pub(crate) fn pull(
        &mut self,
        link: LinkId,
        takes: Takes,
        now: Instant,
        stats: &Counters,
    ) -> Option<Push> {
        if self.owner.as_ref().is_none_or(|(owner, _)| *owner != link) {
            return None;
        }
        if takes.announcements
            && let Some((shard, seqno)) = self.announce.pop_first()
        {
            self.recent.note(shard, seqno, now);
            stats.announced.one();
            return Some(Push {
                shard,
                seqno,
                committed: 0,
                diff: None,
            });
        }
        while let Some(mut push) = self.queue.pop_front() {
            self.bytes = self.bytes.saturating_sub(cost(&push));
            stats.buffered_bytes.set(self.bytes);
            self.recent.note(push.shard, push.seqno, now);
            let bytes = push.diff.as_ref().map_or(0, Bytes::len);
            if bytes <= takes.diff_bytes {
                stats.sent.one();
                stats.sent_bytes.add(bytes);
                return Some(push);
            }
            // The server would not relay it: its subscribers hear as much
            // from the seqno alone.
            stats.pushes_dropped.one();
            if takes.announcements {
                push.diff = None;
                stats.announced.one();
                return Some(push);
            }
        }
        self.idle = true;
        None
    }

    /// From now on this session publishes.
    pub(crate) fn own(&mut self, link: LinkId, gate: Arc<Gate>, remember_own: bool) {
        self.own = remember_own.then(BTreeMap::new);
        gate.ring();
        self.owner = Some((link, gate));
    }

    /// The session is over. If it was lost, what it sent lately may be lost
    /// with it, and is announced again.
    pub(crate) fn release(&mut self, link: LinkId, lost: bool, now: Instant, stats: &Counters) {
        if self.owner.as_ref().is_some_and(|(owner, _)| *owner == link) {
            self.owner = None;
            self.own = None;
            self.idle = false;
        }
        if lost {
            let recent: Vec<_> = self.recent.within_window(now).collect();
            for (shard, seqno) in recent {
                self.announce(shard, seqno, stats);
            }
            // Another session may have taken over already.
            if let Some((_, gate)) = &self.owner {
                gate.ring();
            }
        }
    }

    /// Whether the host itself pushed every seqno from `from` to `to` since
    /// the v0 session began.
    pub(crate) fn own_covers(&self, shard: ShardId, from: u64, to: u64) -> bool {
        let Some(own) = self.own.as_ref().and_then(|own| own.get(&shard)) else {
            return false;
        };
        to.saturating_sub(from) < OWN_PER_SHARD as u64
            && (from..=to).all(|seqno| own.contains(&seqno))
    }

    /// Whether nothing waits.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.announce.is_empty()
    }

    /// The client has ended: what waits is dropped, and what comes.
    pub(crate) fn close(&mut self, stats: &Counters) {
        self.closed = true;
        self.owner = None;
        self.own = None;
        stats.pushes_dropped.add(self.queue.len());
        stats.buffered_bytes.set(0);
        self.queue = VecDeque::new();
        self.bytes = 0;
        self.announce = BTreeMap::new();
        self.recent.clear();
    }

    fn announce(&mut self, shard: ShardId, seqno: u64, stats: &Counters) {
        if let Some(newest) = self.announce.get_mut(&shard) {
            *newest = seqno.max(*newest);
        } else if self.announce.len() < self.max_shards {
            self.announce.insert(shard, seqno);
        } else {
            stats.announcements_dropped.one();
        }
    }
}

fn cost(push: &Push) -> usize {
    let diff = push.diff.as_ref().map_or(0, Bytes::len);
    diff.saturating_add(OVERHEAD)
}

#[cfg(test)]
mod tests;
