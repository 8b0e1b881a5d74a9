//! A process's states: of each shard that it follows how far it is, and the
//! digest of all that it applied. Every step is recorded.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::consensus::Row;
use super::content::{Content, Digest};
use super::now;
use super::record::{How, Record};
use super::shards::{CATALOG, Number};

/// Records that may wait to be reported. More of them are some seconds of
/// everything that a drill does: nobody reads any more.
const RECORDS: usize = 1 << 16;

/// How far a shard is, and what it holds.
pub type Position = (u64, Digest);

/// What became of a diff that was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The state moved on.
    Applied,
    /// Nothing: the state has it, or the shard is not followed.
    Passed,
    /// It was discarded: something before it is missing.
    Discarded,
}

/// The states of one process.
#[derive(Debug)]
pub struct Cache {
    generation: u64,
    inner: Mutex<Inner>,
    fence: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    states: BTreeMap<Number, Position>,
    /// When each of them was last read, or moved on.
    fresh: BTreeMap<Number, Instant>,
    records: Vec<Record>,
    lost: u64,
    /// The session that there is; 0 for none.
    session: u64,
    sessions: u64,
}

impl Cache {
    /// That of a process of this generation, which follows nothing yet.
    #[must_use]
    pub fn new(generation: u64) -> Self {
        Self {
            generation,
            inner: Mutex::default(),
            fence: watch::Sender::new(0),
        }
    }

    /// Follows a shard, from nothing: to be read next.
    pub fn follow(&self, shard: Number) {
        self.inner().states.entry(shard).or_default();
    }

    /// Follows a shard no more, and forgets its state.
    pub fn leave(&self, shard: Number) {
        let mut inner = self.inner();
        inner.states.remove(&shard);
        inner.fresh.remove(&shard);
    }

    /// The shards that are followed.
    #[must_use]
    pub fn shards(&self) -> Vec<Number> {
        self.inner().states.keys().copied().collect()
    }

    /// Those of them of which nothing was heard or read for so long: they are
    /// to be polled.
    #[must_use]
    pub fn still(&self, so_long: Duration) -> Vec<Number> {
        let inner = self.inner();
        let is_still = |shard: &Number| {
            let fresh = inner.fresh.get(shard);
            fresh.is_some_and(|fresh| fresh.elapsed() >= so_long)
        };
        inner.states.keys().copied().filter(is_still).collect()
    }

    /// Where a shard's state is, if it is followed.
    #[must_use]
    pub fn position(&self, shard: Number) -> Option<Position> {
        self.inner().states.get(&shard).copied()
    }

    /// The process was told a diff.
    pub fn told(&self, shard: Number, seqno: u64, diff: &[u8]) -> Outcome {
        let mut inner = self.inner();
        let Some(&(state, _)) = inner.states.get(&shard) else {
            return Outcome::Passed;
        };
        if seqno <= state {
            return Outcome::Passed;
        }
        let at = now();
        if seqno > state + 1 {
            let session = inner.session;
            inner.record(Record::Discarded {
                at,
                shard,
                seqno,
                state,
                session,
            });
            return Outcome::Discarded;
        }
        self.apply(&mut inner, at, shard, (seqno, diff), How::Told);
        Outcome::Applied
    }

    /// The process read what was above its state. How many of them were new.
    pub fn read(&self, shard: Number, rows: &[Row], how: How) -> usize {
        let mut inner = self.inner();
        let at = now();
        let mut applied = 0;
        inner.fresh.insert(shard, Instant::now());
        for (seqno, diff) in rows {
            let next = inner.states.get(&shard).map(|(state, _)| state + 1);
            if next == Some(*seqno) {
                self.apply(&mut inner, at, shard, (*seqno, diff), how);
                applied += 1;
            }
        }
        applied
    }

    /// The process committed a diff to the state at `position`.
    pub fn committed(&self, shard: Number, position: Position, diff: &[u8]) {
        let mut inner = self.inner();
        let at = now();
        let (state, digest) = position;
        if inner.states.get(&shard) == Some(&position) {
            self.apply(&mut inner, at, shard, (state + 1, diff), How::Own);
        } else {
            // A poll was faster than the answer.
            let session = inner.session;
            inner.record(Record::Moved {
                at,
                shard,
                seqno: state + 1,
                digest: digest.then(state + 1, diff),
                how: How::Own,
                session,
            });
        }
    }

    fn apply(&self, inner: &mut Inner, at: u64, shard: Number, row: (u64, &[u8]), how: How) {
        let (seqno, diff) = row;
        let Some((state, digest)) = inner.states.get_mut(&shard) else {
            return;
        };
        let content = Content::decode(diff);
        let right = content.is_some_and(|content| content.after == *digest);
        *digest = digest.then(seqno, diff);
        *state = seqno;
        let digest = *digest;
        inner.fresh.insert(shard, Instant::now());
        let session = inner.session;
        inner.record(Record::Moved {
            at,
            shard,
            seqno,
            digest,
            how,
            session,
        });
        if !right {
            let what = format!("diff {seqno} of shard {shard} was made for another state: {how:?}");
            inner.record(Record::Wrong { at, what });
        }
        let fence = content.map_or(0, |content| content.fence);
        if shard == CATALOG && fence > self.generation {
            self.fence.send_replace(fence);
        }
    }

    /// A session began.
    pub fn up(&self) {
        let mut inner = self.inner();
        inner.sessions += 1;
        inner.session = inner.sessions;
        let session = inner.session;
        inner.record(Record::Up { at: now(), session });
    }

    /// The session is over.
    pub fn down(&self, why: &dyn std::fmt::Display) {
        let mut inner = self.inner();
        let session = std::mem::take(&mut inner.session);
        inner.record(Record::Down {
            at: now(),
            session,
            why: why.to_string(),
        });
    }

    /// Something else happened.
    pub fn record(&self, record: Record) {
        self.inner().record(record);
    }

    /// What has happened since this was last asked.
    #[must_use]
    pub fn take_records(&self) -> Vec<Record> {
        let mut inner = self.inner();
        let mut records = std::mem::take(&mut inner.records);
        if inner.lost > 0 {
            let what = format!("{} records did not fit", std::mem::take(&mut inner.lost));
            records.push(Record::Wrong { at: now(), what });
        }
        records
    }

    /// Waits until the catalog says that the process's generation is fenced
    /// out, and by which.
    pub async fn fenced(&self) -> u64 {
        let mut fence = self.fence.subscribe();
        let fence = fence.wait_for(|fence| *fence > self.generation).await;
        // This holds the sending half: the wait ends only so.
        fence.map_or(0, |fence| *fence)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn record(&mut self, record: Record) {
        if self.records.len() < RECORDS {
            self.records.push(record);
        } else {
            self.lost += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(count: u64) -> Vec<Row> {
        let mut after = Digest::default();
        let diff = |seqno| {
            let content = Content {
                generation: 1,
                fence: 0,
                after,
            };
            let bytes = content.encode();
            after = after.then(seqno, &bytes);
            (seqno, bytes)
        };
        (1..=count).map(diff).collect()
    }

    fn wrongs(cache: &Cache) -> usize {
        let records = cache.take_records();
        let wrong = |record: &&Record| matches!(record, Record::Wrong { .. });
        records.iter().filter(wrong).count()
    }

    #[test]
    fn it_applies_what_follows_and_discards_what_does_not() {
        let (cache, log) = (Cache::new(1), log(5));
        assert_eq!(cache.told(3, 1, &log[0].1), Outcome::Passed);
        cache.follow(3);
        let tell = |n: usize| cache.told(3, log[n].0, &log[n].1);
        assert_eq!(tell(0), Outcome::Applied);
        assert_eq!(tell(2), Outcome::Discarded);
        assert_eq!(tell(0), Outcome::Passed);
        assert_eq!(cache.read(3, &log[..4], How::Polled), 3);
        assert!(cache.still(Duration::from_secs(600)).is_empty());
        assert_eq!(cache.still(Duration::ZERO), [3]);
        assert_eq!(tell(4), Outcome::Applied);
        assert_eq!(cache.position(3).unwrap().0, 5);
        assert_eq!(wrongs(&cache), 0);
        cache.leave(3);
        assert_eq!(cache.position(3), None);
    }

    #[test]
    fn a_diff_for_another_state_is_wrong() {
        let (cache, log) = (Cache::new(1), log(3));
        cache.follow(3);
        cache.told(3, 1, &log[1].1);
        assert_eq!(wrongs(&cache), 1);
        cache.told(3, 2, b"no diff at all");
        assert_eq!(wrongs(&cache), 1);
    }

    #[tokio::test]
    async fn the_catalog_fences_those_below() {
        let diff = |fence| {
            let content = Content {
                generation: 2,
                fence,
                after: Digest::default(),
            };
            content.encode()
        };
        let (old, new) = (Cache::new(1), Cache::new(2));
        for cache in [&old, &new] {
            cache.follow(CATALOG);
            cache.told(CATALOG, 1, &diff(2));
        }
        assert_eq!(old.fenced().await, 2);
        assert_eq!(*new.fence.borrow(), 0);
    }
}
