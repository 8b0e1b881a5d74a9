//! What was pushed and must still be told to the servers.
//!
//! One log of pushes, and a cursor per session: each is told every push,
//! oldest first, at its own pace, and the log is bounded once. It holds what
//! one of them has not taken; without a session, all.
//!
//! What a place misses while there is no session with it but with others is
//! not kept: the next session with it announces each shard's newest seqno, so
//! that the subscribers there hear of it.
//!
//! One mutex, held for a few map operations and never over a network
//! operation: the host pushes under it, and the streams that the network polls
//! pull under it.

mod recent;
mod refused;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use persist_pubsub_proto::ShardId;
use tokio::time::Instant;

use crate::config::Config;
use crate::connection::gate::{Gate, LinkId};
use crate::home::PlaceId;
use crate::settings::Settings;
use crate::stats::Counters;
use recent::Recent;
use refused::Refused;

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
    /// The places that are published at, whether or not there is a session.
    places: Vec<Published>,
    /// What the next places have to announce, when there was none to do it.
    orphaned: Announce,
    /// What servers would not take for now: announced later.
    refused: Vec<Refused>,
    /// What was handed to the network lately.
    recent: Recent,
    /// The client has ended: nothing is taken any more.
    closed: bool,
}

/// The newest seqno of shards of which a push was dropped, or perhaps lost.
type Announce = BTreeMap<ShardId, u64>;

struct Logged {
    push: Push,
    /// A session has taken it.
    taken: bool,
}

/// What a session, or a place without one, has yet to be told.
#[derive(Default)]
struct Behind {
    /// The number of the push that comes next.
    next: u64,
    /// Seqnos to be told without a diff, before the log: they are older.
    announce: Announce,
}

/// A session that publishes.
struct Reader {
    link: LinkId,
    place: PlaceId,
    gate: Arc<Gate>,
    behind: Behind,
    /// It found nothing and has to be woken.
    idle: bool,
}

/// A place that is published at.
struct Published {
    place: PlaceId,
    /// Without a session: what the next one begins with.
    absent: Option<Behind>,
    /// There was no session yet.
    new: bool,
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
            places: Vec::new(),
            orphaned: Announce::new(),
            refused: Vec::new(),
            recent: Recent::new(config.reannounce_window, config.reannounce_shards),
            closed: false,
        }
    }

    /// Takes a push in, dropping the oldest ones that it leaves no room for.
    /// Whether a session waits for it: see [`take_idle`](Self::take_idle).
    pub(crate) fn push(&mut self, push: Push, stats: &Counters) -> bool {
        if self.closed {
            stats.pushes_dropped.one();
            return false;
        }
        self.bytes = self.bytes.saturating_add(cost(&push));
        self.log.push_back(Logged { push, taken: false });
        self.keep_bounds(stats);
        self.readers.iter().any(|reader| reader.idle)
    }

    /// The gate of a session that waits for something to pull, each once: to be
    /// rung without the lock.
    pub(crate) fn take_idle(&mut self) -> Option<Arc<Gate>> {
        let reader = self.readers.iter_mut().find(|reader| reader.idle)?;
        reader.idle = false;
        Some(Arc::clone(&reader.gate))
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
            && let Some((shard, seqno)) = reader.behind.announce.pop_first()
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
            let at = usize::try_from(reader.behind.next.saturating_sub(self.first)).ok();
            let Some(logged) = at.and_then(|at| self.log.get_mut(at)) else {
                reader.idle = true;
                break;
            };
            reader.behind.next += 1;
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

    /// From now on there is something to be published at these places.
    pub(crate) fn enlist(&mut self, places: &[PlaceId]) {
        if places.is_empty() || self.closed {
            return;
        }
        let orphaned = std::mem::take(&mut self.orphaned);
        for &place in places {
            let behind = Behind {
                next: self.first,
                announce: orphaned.clone(),
            };
            self.places.push(Published {
                place,
                absent: Some(behind),
                new: true,
            });
        }
    }

    /// Nothing is published there any more. What the last of all places was
    /// not told, the next one announces.
    pub(crate) fn dismiss(&mut self, place: PlaceId, stats: &Counters) {
        let Some(at) = self.places.iter().position(|p| p.place == place) else {
            return;
        };
        let gone = self.places.remove(at);
        self.readers.retain(|reader| reader.place != place);
        if self.places.is_empty()
            && let Some(behind) = gone.absent
        {
            self.orphaned = behind.announce;
        }
        self.trim(stats);
    }

    /// From now on this session publishes too. Where another one was told
    /// before, it announces what that was told lately: it may have come to
    /// subscribers of the other's server alone, and those who are elsewhere
    /// hear nobody's word of it but this.
    pub(crate) fn attach(&mut self, link: LinkId, place: PlaceId, gate: Arc<Gate>, now: Instant) {
        let Some(published) = self.places.iter_mut().find(|p| p.place == place) else {
            return;
        };
        let new = std::mem::replace(&mut published.new, false);
        let absent = published.absent.take();
        let beside = absent.is_none() || new;
        let mut behind = absent.unwrap_or_else(|| Behind {
            next: self.first,
            announce: Announce::new(),
        });
        if beside {
            let lately = self.recent.within_window(now);
            raise_all(&mut behind.announce, lately, self.max_shards);
        }
        gate.ring();
        self.readers.push(Reader {
            link,
            place,
            gate,
            behind,
            idle: false,
        });
    }

    /// The session is over; once more changes nothing. If it was lost, what
    /// it sent lately may be lost with it: the next session with its place
    /// announces it, unless another one there has been told all of it.
    pub(crate) fn release(&mut self, link: LinkId, lost: bool, now: Instant, stats: &Counters) {
        let Some(at) = self.readers.iter().position(|r| r.link == link) else {
            return;
        };
        let gone = self.readers.remove(at);
        let mut behind = gone.behind;
        if self.readers.iter().all(|r| r.place != gone.place)
            && let Some(published) = self.places.iter_mut().find(|p| p.place == gone.place)
        {
            if lost {
                let lately = self.recent.within_window(now);
                let dropped = raise_all(&mut behind.announce, lately, self.max_shards);
                stats.announcements_dropped.add(dropped);
            }
            published.absent = Some(behind);
        }
        self.trim(stats);
    }

    /// Other bounds, from now on.
    pub(crate) fn configure(&mut self, settings: &Settings, stats: &Counters) {
        self.max_bytes = settings.push_buffer_bytes;
        self.max_count = settings.push_buffer_count;
        self.keep_bounds(stats);
        if self.log.is_empty() {
            self.log = VecDeque::new();
        }
    }

    /// Whether nothing waits.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        let readers = self.readers.iter().map(|r| &r.behind);
        let absent = self.places.iter().filter_map(|p| p.absent.as_ref());
        let mut announce = readers.chain(absent).map(|behind| &behind.announce);
        self.log.is_empty() && self.orphaned.is_empty() && announce.all(BTreeMap::is_empty)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Forgets all that waits and what was sent, and holds no memory for it.
    pub(crate) fn clear(&mut self, stats: &Counters) {
        stats
            .pushes_dropped
            .add(self.log.iter().filter(|logged| !logged.taken).count());
        stats.buffered_bytes.set(0);
        self.readers = Vec::new();
        self.places = Vec::new();
        self.log = VecDeque::new();
        self.bytes = 0;
        self.orphaned = Announce::new();
        self.refused = Vec::new();
        self.recent.clear();
    }

    /// The client has ended: what waits is dropped, and what comes.
    pub(crate) fn close(&mut self, stats: &Counters) {
        self.closed = true;
        self.clear(stats);
    }

    /// Lets go of what every session has taken.
    fn trim(&mut self, stats: &Counters) {
        let Some(slowest) = self.readers.iter().map(|r| r.behind.next).min() else {
            return;
        };
        while self.first < slowest && !self.log.is_empty() {
            self.retire(stats);
        }
        stats.buffered_bytes.set(self.bytes);
    }

    fn keep_bounds(&mut self, stats: &Counters) {
        while (self.bytes > self.max_bytes || self.log.len() > self.max_count)
            && !self.log.is_empty()
        {
            self.retire(stats);
        }
        stats.buffered_bytes.set(self.bytes);
    }

    /// The log's oldest push goes: who was not told of it announces it.
    fn retire(&mut self, stats: &Counters) {
        let Some(Logged { push, taken }) = self.log.pop_front() else {
            return;
        };
        self.bytes = self.bytes.saturating_sub(cost(&push));
        self.first += 1;
        if !taken {
            stats.pushes_dropped.one();
        }
        let most = self.max_shards;
        let mut kept = true;
        if self.places.is_empty() {
            kept = raise(&mut self.orphaned, push.shard, push.seqno, most);
        }
        let readers = self.readers.iter_mut().map(|r| &mut r.behind);
        let absent = self.places.iter_mut().filter_map(|p| p.absent.as_mut());
        for behind in readers.chain(absent) {
            if behind.next < self.first {
                behind.next = self.first;
                kept &= raise(&mut behind.announce, push.shard, push.seqno, most);
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

/// The same of all of these, which come in order; how many there is no room for.
/// Made at once where there are no others: pushes wait meanwhile.
fn raise_all(
    announce: &mut Announce,
    mut all: impl Iterator<Item = (ShardId, u64)>,
    most: usize,
) -> usize {
    if announce.is_empty() {
        *announce = all.by_ref().take(most).collect();
    }
    all.filter(|&(shard, seqno)| !raise(announce, shard, seqno, most))
        .count()
}

fn cost(push: &Push) -> usize {
    let diff = push.diff.as_ref().map_or(0, Bytes::len);
    diff.saturating_add(OVERHEAD)
}

#[cfg(test)]
mod tests;
