//! What is true in a cell: what was committed and by whom, who had a session
//! with which server, what crashed; and so, what may be missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use persist_pubsub_proto::ShardId;
use tokio::time::Instant;

use super::{Server, Who};
use crate::simulation::clock::since_start;
use crate::simulation::lock;

/// A server counts for a process from when it has had a session with it for so
/// long: until then it is only on its way to being a home.
const SETTLED: Duration = Duration::from_millis(300);
/// What was committed so long before a crash may not have come to everybody
/// yet: servers hold it back for a `reorder_window`, and then it is on its way.
const IN_FLIGHT: Duration = Duration::from_millis(300);
/// Of two commits so far apart the second may come to a server first: the
/// longest that the network takes, less the shortest, and a look around.
const OVERTAKES: Duration = Duration::from_millis(20);
/// For so long after a hole that was not filled a server may let a diff through
/// without waiting for what lies before it. (Its pauses double, up to a minute.)
const PAUSES: Duration = Duration::from_secs(10);

/// A process, and how often it was started.
pub(super) type Incarnation = (Who, u32);

/// A clone is the same one.
#[derive(Clone)]
pub(super) struct Scene(Arc<Mutex<State>>);

struct State {
    shards: BTreeMap<ShardId, Vec<Commit>>,
    stays: Vec<Stay>,
    /// It has crashed, and whoever had a session with it may not know yet.
    away: Option<Server>,
    crash: Option<Crash>,
    told: Told,
    violations: Vec<String>,
    lines: Option<Vec<String>>,
}

/// A process has a session with a server.
struct Stay {
    who: Incarnation,
    server: Server,
    since: Instant,
    until: Option<Instant>,
}

struct Commit {
    by: Incarnation,
    at: Instant,
    diff: Bytes,
}

/// What is gone at once, and who had which homes left.
struct Crash {
    at: Instant,
    process: Option<Incarnation>,
    left: BTreeMap<Incarnation, BTreeSet<Server>>,
}

/// What hosts were told, over all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told {
    /// Diffs committed.
    pub commits: u64,
    /// Diffs.
    pub diffs: u64,
    /// Gaps.
    pub gaps: u64,
    /// Resyncs, beside those of a process that starts.
    pub resyncs: u64,
    /// Losses of the last session.
    pub losses: u64,
}

impl Told {
    /// Adds another cell's.
    pub fn add(&mut self, other: &Self) {
        self.commits += other.commits;
        self.diffs += other.diffs;
        self.gaps += other.gaps;
        self.resyncs += other.resyncs;
        self.losses += other.losses;
    }
}

impl Scene {
    pub(super) fn new(shards: &[ShardId], keep_lines: bool) -> Self {
        Self(Arc::new(Mutex::new(State {
            shards: shards.iter().map(|&shard| (shard, Vec::new())).collect(),
            stays: Vec::new(),
            away: None,
            crash: None,
            told: Told::default(),
            violations: Vec::new(),
            lines: keep_lines.then(Vec::new),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    pub(super) fn saw(&self, what: fmt::Arguments<'_>) {
        if let Some(lines) = &mut self.lock().lines {
            lines.push(format!("{:>12?} {what}", since_start()));
        }
    }

    pub(super) fn violated(&self, what: fmt::Arguments<'_>) {
        self.saw(format_args!("VIOLATED: {what}"));
        let line = format!("{:?} {what}", since_start());
        self.lock().violations.push(line);
    }

    pub(super) fn count(&self, count: impl FnOnce(&mut Told)) {
        count(&mut self.lock().told);
    }

    /// Appends a diff: its seqno, which is 1 for the first, and its bytes.
    pub(super) fn commit(&self, by: Incarnation, shard: ShardId) -> (u64, Bytes) {
        let mut state = self.lock();
        state.told.commits += 1;
        let log = state.shards.entry(shard).or_default();
        let seqno = log.len() as u64 + 1;
        let diff = Bytes::from(format!("{shard} {seqno} by {by:?}"));
        let at = Instant::now();
        log.push(Commit {
            by,
            at,
            diff: diff.clone(),
        });
        (seqno, diff)
    }

    /// The highest seqno of a shard; 0: there is none.
    pub(super) fn head(&self, shard: ShardId) -> u64 {
        self.lock()
            .shards
            .get(&shard)
            .map_or(0, |log| log.len() as u64)
    }

    /// The bytes of a diff, and who committed it.
    pub(super) fn diff(&self, shard: ShardId, seqno: u64) -> Option<(Bytes, Incarnation)> {
        let state = self.lock();
        let commit = state.commit(shard, seqno)?;
        Some((commit.diff.clone(), commit.by))
    }

    /// A server has been started.
    pub(super) fn serves(&self, server: Server) {
        self.saw(format_args!("{server:?} serves"));
        let mut state = self.lock();
        state.away = state.away.filter(|&away| away != server);
    }

    /// A process has sessions with these servers, as it says now.
    pub(super) fn sessions(&self, who: Incarnation, mut with: BTreeSet<Server>) {
        let mut state = self.lock();
        with.retain(|&server| state.away != Some(server));
        state.end_stays(|stay| stay.who == who && !with.contains(&stay.server));
        for server in with {
            let has = |stay: &Stay| stay.who == who && stay.server == server;
            if !state
                .stays
                .iter()
                .any(|stay| stay.until.is_none() && has(stay))
            {
                state.stays.push(Stay {
                    who,
                    server,
                    since: Instant::now(),
                    until: None,
                });
            }
        }
    }

    /// A process, a server, or one with the other, is gone.
    pub(super) fn crash(&self, process: Option<Incarnation>, server: Option<Server>) {
        let mut state = self.lock();
        let at = Instant::now();
        state.end_stays(|stay| process == Some(stay.who) || server == Some(stay.server));
        let mut left: BTreeMap<Incarnation, BTreeSet<Server>> = BTreeMap::new();
        for stay in state.stays.iter().filter(|stay| stay.until.is_none()) {
            if stay.since + SETTLED <= at {
                left.entry(stay.who).or_default().insert(stay.server);
            }
        }
        state.away = server;
        state.crash = Some(Crash { at, process, left });
    }

    /// Why `reader` may be told of a gap in place of this diff; None: there is
    /// no reason.
    pub(super) fn excuse(
        &self,
        reader: Incarnation,
        shard: ShardId,
        seqno: u64,
    ) -> Option<&'static str> {
        let state = self.lock();
        let commit = state.commit(shard, seqno)?;
        let crash = state.crash.as_ref()?;
        if crash.lost_with_its_writer(commit) {
            return Some("its writer crashed");
        }
        if commit.at + IN_FLIGHT < crash.at {
            return None;
        }
        if state.shared(reader, commit).next().is_none() {
            return Some("the two had no server together, or it crashed");
        }
        state
            .is_overtaken(reader, shard, seqno)
            .then_some("overtaken at every server that both had, for none waited")
    }

    /// Whether a process may notice that it has no server: the only one that it
    /// had has crashed.
    pub(super) fn may_be_alone(&self, who: Incarnation) -> bool {
        let state = self.lock();
        let crash = state.crash.as_ref();
        crash.is_some_and(|crash| crash.left.get(&who).is_none_or(BTreeSet::is_empty))
    }

    pub(super) fn end(&self) -> (Told, Vec<String>, Vec<String>) {
        let mut state = self.lock();
        let lines = state.lines.take().unwrap_or_default();
        (state.told, std::mem::take(&mut state.violations), lines)
    }
}

impl State {
    fn commit(&self, shard: ShardId, seqno: u64) -> Option<&Commit> {
        let at = usize::try_from(seqno).ok()?.checked_sub(1)?;
        self.shards.get(&shard)?.get(at)
    }

    fn end_stays(&mut self, which: impl Fn(&Stay) -> bool) {
        let now = Instant::now();
        let stays = self.stays.iter_mut();
        for stay in stays.filter(|stay| stay.until.is_none() && which(stay)) {
            stay.until = Some(now);
        }
    }

    /// Whether a process was settled at a server then, and stayed until.
    fn is_at(&self, who: Incarnation, server: Server, then: Instant, until: Instant) -> bool {
        let mut stays = self.stays.iter();
        stays.any(|stay| {
            let is_long = stay.until.is_none_or(|end| end > until);
            stay.who == who && stay.server == server && stay.since + SETTLED <= then && is_long
        })
    }

    /// The servers that the writer had when it committed this, and the reader
    /// too, until it had come.
    fn shared(&self, reader: Incarnation, commit: &Commit) -> impl Iterator<Item = Server> {
        let at = commit.at;
        Server::ALL.into_iter().filter(move |&server| {
            self.is_at(commit.by, server, at, at) && self.is_at(reader, server, at, at + IN_FLIGHT)
        })
    }

    /// A server that has a hole which nobody fills does not wait for what is
    /// late: then the next diff may overtake this one. It is a gap to who has no
    /// server that waits. (Those of one writer cannot overtake each other.)
    fn is_overtaken(&self, reader: Incarnation, shard: ShardId, seqno: u64) -> bool {
        let (Some(log), Some(crash)) = (self.shards.get(&shard), &self.crash) else {
            return false;
        };
        let at = usize::try_from(seqno - 1).unwrap_or(usize::MAX);
        let Some((before, [commit, behind @ ..])) = log.split_at_checked(at) else {
            return false;
        };
        let soon = |other: &&Commit| other.at <= commit.at + OVERTAKES;
        let overtakes = behind
            .iter()
            .take_while(soon)
            .any(|other| other.by != commit.by);
        let lately = |other: &&Commit| other.at + PAUSES >= commit.at;
        let has_hole = |server: Server| {
            let mut lately = before.iter().rev().take_while(lately);
            lately.any(|other| {
                let at = other.at;
                !self.is_at(other.by, server, at, at) || crash.lost_with_its_writer(other)
            })
        };
        overtakes && self.shared(reader, commit).all(has_hole)
    }
}

impl Crash {
    /// It may have gone to no server before who committed it was gone, or to
    /// one that went with it.
    fn lost_with_its_writer(&self, commit: &Commit) -> bool {
        self.process == Some(commit.by) && commit.at + IN_FLIGHT >= self.at
    }
}

#[cfg(test)]
mod tests;
