//! What was pushed and must still be told to the server.
//!
//! One log of pushes, and a cursor per session: while two sessions live, each
//! is told every push, oldest first, at its own pace, and the log is bounded
//! once. It holds what one of them has not taken; without a session, all.
//!
//! One mutex, held for a few map operations and never over a network
//! operation: the host pushes under it, and the streams that the network polls
//! pull under it.

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
    log: VecDeque<Logged>,
    /// The number of the log's first push; they are numbered without end.
    first: u64,
    bytes: usize,
    /// The sessions that publish, in the order in which they began.
    readers: Vec<Reader>,
    /// What the next session has to announce, when there was none to do it:
    /// the newest seqno of shards of which a push was dropped, or was perhaps
    /// lost with the last session.
    orphaned: Announce,
    /// What was handed to the network lately.
    recent: Recent,
    /// The client has ended: nothing is taken any more.
    closed: bool,
}

type Announce = BTreeMap<ShardId, u64>;

struct Logged {
    push: Push,
    /// A session has taken it.
    taken: bool,
}

/// How far a session has come.
struct Reader {
    link: LinkId,
    gate: Arc<Gate>,
    /// The number of the push that it takes next.
    next: u64,
    /// Seqnos to be told without a diff, before the log: they are older.
    announce: Announce,
    /// It found nothing and has to be woken.
    idle: bool,
}

impl Outbox {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            max_bytes: config.settings.push_buffer_bytes,
            max_count: config.settings.push_buffer_count,
            max_shards: config.reannounce_shards,
            log: VecDeque::new(),
            first: 0,
            bytes: 0,
            readers: Vec::new(),
            orphaned: Announce::new(),
            recent: Recent::new(config.reannounce_window, config.reannounce_shards),
            closed: false,
        }
    }

    /// Takes a push in, dropping the oldest ones that it leaves no room for.
    pub(crate) fn push(&mut self, push: Push, stats: &Counters) {
        if self.closed {
            stats.pushes_dropped.one();
            return;
        }
        self.bytes = self.bytes.saturating_add(cost(&push));
        self.log.push_back(Logged { push, taken: false });
        while self.bytes > self.max_bytes || self.log.len() > self.max_count {
            self.drop_oldest(stats);
        }
        stats.buffered_bytes.set(self.bytes);
        for reader in &mut self.readers {
            if std::mem::take(&mut reader.idle) {
                reader.gate.ring();
            }
        }
    }

    /// The next push for this session; `None` if there is none now. Its gate
    /// is rung when that changes.
    pub(crate) fn pull(
        &mut self,
        link: LinkId,
        takes: Takes,
        now: Instant,
        stats: &Counters,
    ) -> Option<Push> {
        let reader = self.readers.iter_mut().find(|r| r.link == link)?;
        if takes.announcements
            && let Some((shard, seqno)) = reader.announce.pop_first()
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
        let mut found = None;
        while found.is_none() {
            let at = usize::try_from(reader.next.saturating_sub(self.first)).ok();
            let Some(logged) = at.and_then(|at| self.log.get_mut(at)) else {
                reader.idle = true;
                break;
            };
            reader.next += 1;
            let push = &logged.push;
            self.recent.note(push.shard, push.seqno, now);
            let first = !std::mem::replace(&mut logged.taken, true);
            let bytes = push.diff.as_ref().map_or(0, Bytes::len);
            if bytes <= takes.diff_bytes {
                if first {
                    stats.sent.one();
                    stats.sent_bytes.add(bytes);
                }
                found = Some(push.clone());
                continue;
            }
            // The server would not relay it: its subscribers hear as much
            // from the seqno alone.
            if first {
                stats.pushes_dropped.one();
            }
            if takes.announcements {
                stats.announced.one();
                found = Some(Push {
                    diff: None,
                    ..push.clone()
                });
            }
        }
        self.trim(stats);
        found
    }

    /// From now on this session publishes too. Beside another one it announces
    /// what that one was told lately: it may have come to subscribers of the
    /// other's server alone, and those who have moved before hear nobody's
    /// word of it but this.
    pub(crate) fn attach(&mut self, link: LinkId, gate: Arc<Gate>, now: Instant) {
        if self.closed {
            return;
        }
        let mut announce = std::mem::take(&mut self.orphaned);
        if !self.readers.is_empty() {
            for (shard, seqno) in self.recent.within_window(now) {
                raise(&mut announce, shard, seqno, self.max_shards);
            }
        }
        gate.ring();
        self.readers.push(Reader {
            link,
            gate,
            next: self.first,
            announce,
            idle: false,
        });
    }

    /// The session is over; once more changes nothing. If it was lost, what
    /// it sent lately may be lost with it. Another session that lives has been
    /// told all of it; without one, the next announces it.
    pub(crate) fn release(&mut self, link: LinkId, lost: bool, now: Instant, stats: &Counters) {
        let Some(at) = self.readers.iter().position(|r| r.link == link) else {
            return;
        };
        let gone = self.readers.remove(at);
        if self.readers.is_empty() {
            self.orphaned = gone.announce;
            if lost {
                for (shard, seqno) in self.recent.within_window(now) {
                    if !raise(&mut self.orphaned, shard, seqno, self.max_shards) {
                        stats.announcements_dropped.one();
                    }
                }
            }
        }
        self.trim(stats);
    }

    /// Whether nothing waits.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        let mut announce = self.readers.iter().map(|r| &r.announce);
        self.log.is_empty() && self.orphaned.is_empty() && announce.all(BTreeMap::is_empty)
    }

    /// The client has ended: what waits is dropped, and what comes.
    pub(crate) fn close(&mut self, stats: &Counters) {
        self.closed = true;
        self.readers = Vec::new();
        stats
            .pushes_dropped
            .add(self.log.iter().filter(|logged| !logged.taken).count());
        stats.buffered_bytes.set(0);
        self.log = VecDeque::new();
        self.bytes = 0;
        self.orphaned = Announce::new();
        self.recent.clear();
    }

    /// Lets go of what every session has taken.
    fn trim(&mut self, stats: &Counters) {
        let Some(slowest) = self.readers.iter().map(|r| r.next).min() else {
            return;
        };
        while self.first < slowest
            && let Some(logged) = self.log.pop_front()
        {
            self.first += 1;
            self.bytes = self.bytes.saturating_sub(cost(&logged.push));
        }
        stats.buffered_bytes.set(self.bytes);
    }

    /// Drops the log's oldest push: whoever has not taken it announces it.
    fn drop_oldest(&mut self, stats: &Counters) {
        let Some(Logged { push, taken }) = self.log.pop_front() else {
            return;
        };
        self.bytes = self.bytes.saturating_sub(cost(&push));
        self.first += 1;
        if !taken {
            stats.pushes_dropped.one();
        }
        let mut kept = true;
        if self.readers.is_empty() {
            kept = raise(&mut self.orphaned, push.shard, push.seqno, self.max_shards);
        }
        for reader in &mut self.readers {
            if reader.next < self.first {
                reader.next = self.first;
                kept &= raise(
                    &mut reader.announce,
                    push.shard,
                    push.seqno,
                    self.max_shards,
                );
            }
        }
        if !kept {
            stats.announcements_dropped.one();
        }
    }
}

/// Notes a shard's newest seqno; false if there is no room for the shard.
fn raise(announce: &mut Announce, shard: ShardId, seqno: u64, most: usize) -> bool {
    if let Some(newest) = announce.get_mut(&shard) {
        *newest = seqno.max(*newest);
    } else if announce.len() < most {
        announce.insert(shard, seqno);
    } else {
        return false;
    }
    true
}

fn cost(push: &Push) -> usize {
    let diff = push.diff.as_ref().map_or(0, Bytes::len);
    diff.saturating_add(OVERHEAD)
}

#[cfg(test)]
mod tests;
