//! What is true in a simulation: the consensus store, and what was seen.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use fastrand::Rng;
use persist_pubsub_proto::ShardId;

use super::clock::since_start;
use super::lock;

/// Violations that are kept; the first is what matters.
const KEPT: usize = 20;

/// Counts of a run, for the verdict.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Diffs committed to the store.
    pub commits: u64,
    /// Diffs pushed by processes.
    pub pushes: u64,
    /// Diffs told to hosts.
    pub diffs: u64,
    /// Gaps told to hosts.
    pub gaps: u64,
    /// Resyncs told to hosts.
    pub resyncs: u64,
    /// Sessions that began.
    pub sessions: u64,
    /// Faults of every kind.
    pub faults: u64,
    /// Bytes written to connections.
    pub bytes: u64,
}

impl Counts {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.commits += other.commits;
        self.pushes += other.pushes;
        self.diffs += other.diffs;
        self.gaps += other.gaps;
        self.resyncs += other.resyncs;
        self.sessions += other.sessions;
        self.faults += other.faults;
        self.bytes += other.bytes;
    }
}

/// The world. A clone is the same one.
#[derive(Clone)]
pub(super) struct World(Arc<Mutex<State>>);

struct State {
    shards: BTreeMap<ShardId, Vec<Bytes>>,
    counts: Counts,
    violations: Vec<String>,
    seen: DefaultHasher,
    /// Every line, if somebody wants to read them.
    lines: Option<Vec<String>>,
}

impl World {
    pub(super) fn new(shards: &[ShardId], keep_lines: bool) -> Self {
        Self(Arc::new(Mutex::new(State {
            shards: shards.iter().map(|&shard| (shard, Vec::new())).collect(),
            counts: Counts::default(),
            violations: Vec::new(),
            seen: DefaultHasher::new(),
            lines: keep_lines.then(Vec::new),
        })))
    }

    /// Appends a diff of so many bytes to a shard: its seqno, which is 1 for
    /// the first, and the diff.
    pub(super) fn commit(&self, shard: ShardId, size: usize, rng: &mut Rng) -> (u64, Bytes) {
        let byte = rng.u8(..);
        let mut state = lock(&self.0);
        state.counts.commits += 1;
        let log = state.shards.entry(shard).or_default();
        let seqno = log.len() as u64 + 1;
        // Its own bytes, so that no two diffs are the same.
        let mut diff = vec![byte; size];
        for (at, value) in diff.iter_mut().zip(seqno.to_be_bytes()) {
            *at = value;
        }
        let diff = Bytes::from(diff);
        log.push(diff.clone());
        (seqno, diff)
    }

    /// The highest seqno of a shard; 0: there is none.
    pub(super) fn head(&self, shard: ShardId) -> u64 {
        lock(&self.0)
            .shards
            .get(&shard)
            .map_or(0, |log| log.len() as u64)
    }

    /// The diff that was committed there.
    pub(super) fn diff(&self, shard: ShardId, seqno: u64) -> Option<Bytes> {
        let at = usize::try_from(seqno).ok()?.checked_sub(1)?;
        lock(&self.0).shards.get(&shard)?.get(at).cloned()
    }

    pub(super) fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut lock(&self.0).counts);
    }

    /// Something happened.
    pub(super) fn saw(&self, what: fmt::Arguments<'_>) {
        let line = format!("{:>12?} {what}", since_start());
        let mut state = lock(&self.0);
        line.hash(&mut state.seen);
        if let Some(lines) = &mut state.lines {
            lines.push(line);
        }
    }

    /// A promise was broken.
    pub(super) fn violated(&self, promise: &str, what: fmt::Arguments<'_>) {
        self.saw(format_args!("VIOLATED {promise}: {what}"));
        let mut state = lock(&self.0);
        if state.violations.len() < KEPT {
            let line = format!("{:?} {promise}: {what}", since_start());
            state.violations.push(line);
        }
    }

    /// The end: the counts, the violations, a digest of all that was seen,
    /// and the lines if they were kept.
    pub(super) fn end(&self) -> (Counts, Vec<String>, u64, Vec<String>) {
        let state = lock(&self.0);
        (
            state.counts,
            state.violations.clone(),
            state.seen.finish(),
            state.lines.clone().unwrap_or_default(),
        )
    }
}
