//! What is true in a cell: what was committed and by whom, who had a session
//! with which server, what crashed; and so, what may be missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use persist_pubsub_proto::ShardId;
use tokio::time::Instant;

use super::{AWAY, Server, Who};
use crate::simulation::clock::since_start;
use crate::simulation::lock;

/// A server counts for a process from when it has had a session with it for so
/// long: until then it is only on its way to being a home.
const SETTLED: Duration = Duration::from_millis(300);
/// What was committed so long before a crash and after it may have been lost
/// with it: on its way, or pushed by somebody who had not noticed yet.
const AROUND: Duration = Duration::from_secs(10);

/// A process, and how often it was started.
pub(super) type Incarnation = (Who, u32);

/// A clone is the same one.
#[derive(Clone)]
pub(super) struct Scene(Arc<Mutex<State>>);

struct State {
    shards: BTreeMap<ShardId, Vec<Commit>>,
    /// Since when each process has had a session with each server.
    sessions: BTreeMap<(Incarnation, Server), Instant>,
    crash: Option<Crash>,
    told: Told,
    violations: Vec<String>,
    lines: Option<Vec<String>>,
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
            sessions: BTreeMap::new(),
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

    /// A process has sessions with these servers, as it says now.
    pub(super) fn sessions(&self, who: Incarnation, with: &BTreeSet<Server>) {
        let mut state = self.lock();
        state
            .sessions
            .retain(|(process, server), _| *process != who || with.contains(server));
        for &server in with {
            let since = Instant::now();
            state.sessions.entry((who, server)).or_insert(since);
        }
    }

    /// A process, a server, or one with the other, is gone.
    pub(super) fn crash(&self, process: Option<Incarnation>, server: Option<Server>) {
        let mut state = self.lock();
        let now = Instant::now();
        let mut left: BTreeMap<Incarnation, BTreeSet<Server>> = BTreeMap::new();
        for (&(who, with), &since) in &state.sessions {
            let homes = left.entry(who).or_default();
            if Some(with) != server && now - since >= SETTLED {
                homes.insert(with);
            }
        }
        state.crash = Some(Crash {
            at: now,
            process,
            left,
        });
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
        let around = commit.at + AROUND >= crash.at && commit.at <= crash.at + AROUND;
        if !around {
            return None;
        }
        if crash.process == Some(commit.by) {
            return Some("its writer crashed");
        }
        // Behind a hole that is never filled, and when they have come back and
        // heard of some writers alone, servers do not wait for a while: whoever
        // is overtaken then is a gap. Of what was committed before the crash,
        // and while the server was away, nothing may be missing.
        let back = match crash.process {
            Some(_) => crash.at,
            None => crash.at + AWAY,
        };
        if commit.at >= back {
            return Some("overtaken while servers do not wait");
        }
        let none = BTreeSet::new();
        let left = |who| crash.left.get(who).unwrap_or(&none);
        let shared = left(&reader).intersection(left(&commit.by)).next();
        shared
            .is_none()
            .then_some("the only server that both had crashed")
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
}
