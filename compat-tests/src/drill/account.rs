//! What a walk came to. Joins what the processes reported with what is in the
//! store: who committed what when, and when it was visible where.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::content::Digest;
use super::member::Left;
use super::record::{How, Record};
use super::shards::{CATALOG, Number};
use super::walk::Walked;
use crate::histogram::Histogram;

/// A connection that breaks takes with it what was pushed so short before.
const LOST_WITH_IT: u64 = 2_000_000_000;
/// For so long a shard may not wait for what is missing, because something
/// before it never came.
const NOT_WAITING: u64 = 10_000_000_000;
/// What is held back for its predecessor goes on after 50 ms
/// (`--reorder-window`). Who reads a diff so late may have waited for that.
const HELD: u64 = 45_000_000;
/// Texts that are kept of what went wrong; beyond it they are counted.
const SHOWN: usize = 20;

/// Which generation wrote, and which read.
pub type Pair = (u64, u64);

/// All there are.
pub const PAIRS: [Pair; 4] = [(1, 1), (1, 2), (2, 1), (2, 2)];

/// From a commit to its visibility.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// When it was committed.
    pub at: u64,
    /// By whom, and who read.
    pub pair: Pair,
    /// How much later it was visible.
    pub latency: Duration,
}

/// Something that happened at a moment, of which the number is of interest.
pub type Moments = Vec<u64>;

/// What a walk came to.
#[derive(Debug, Default)]
pub struct Account {
    /// Of each commit and each process that reads its shard and does not
    /// write it.
    pub samples: Vec<Sample>,
    /// Diffs discarded by a reader whose session lived, of which the one that
    /// was missing had been handed to the same server.
    pub discarded: Moments,
    /// Diffs discarded because the missing one came to the server later than it
    /// waits: a process stood still in between.
    pub late: Moments,
    /// Diffs discarded because the missing one never came to the server, or one
    /// shortly before it: its writer had no connection, or lost it.
    pub excused: Moments,
    /// Why, and how often.
    pub excuses: BTreeMap<&'static str, u64>,
    /// Polls that found something.
    pub polls: Moments,
    /// States that were compared with the log.
    pub states: u64,
    /// What may never be, as text, and how often.
    pub wrong: Vec<String>,
    /// The same, counted.
    pub wrongs: u64,
    /// The first diffs discarded, as text.
    pub discards_shown: Vec<String>,
    /// Sessions that were lost.
    pub lost_sessions: u64,
}

/// A commit.
struct Commit {
    at: u64,
    process: usize,
    session: u64,
}

/// A session of a process.
struct Session {
    began: u64,
    ended: Option<u64>,
}

type Sessions = BTreeMap<u64, Session>;

impl Account {
    /// Of a walk that was walked.
    #[must_use]
    pub fn of(walked: &Walked) -> Self {
        let mut account = Self::default();
        let left = &walked.remains.left;
        let digests = digests(walked);
        let commits = commits(left);
        let sessions: Vec<_> = left.iter().map(sessions).collect();
        let held = held(left, &commits);
        for (reader, process) in left.iter().enumerate() {
            account.ending(process);
            let mut polls = BTreeSet::new();
            let mut excused = BTreeSet::new();
            for record in &process.records {
                match record {
                    Record::Moved {
                        at,
                        shard,
                        seqno,
                        digest,
                        how,
                        ..
                    } => {
                        account.states += 1;
                        if digests.get(&(*shard, *seqno)) != Some(digest) {
                            let what = format!("state {seqno} of shard {shard} is not the log's");
                            account.wrong(process, &what);
                        }
                        if *how == How::Polled {
                            polls.insert(*at);
                        }
                        let read = !matches!(how, How::Own | How::Outrun | How::Read)
                            && *shard != CATALOG
                            && !process.who.role.writes().contains(shard);
                        if let Some(commit) = commits.get(&(*shard, *seqno)).filter(|_| read) {
                            let writer = left.get(commit.process);
                            account.samples.push(Sample {
                                at: commit.at,
                                pair: (
                                    writer.map_or(0, |writer| writer.who.generation),
                                    process.who.generation,
                                ),
                                // A poll may see it before its writer knows.
                                latency: Duration::from_nanos(at.saturating_sub(commit.at)),
                            });
                        }
                    }
                    Record::Discarded {
                        at,
                        shard,
                        seqno,
                        state,
                        session,
                    } => {
                        let missing = (*shard, state + 1);
                        let commit = commits.get(&missing);
                        let reading = sessions.get(reader).and_then(|s| s.get(session));
                        let excuse = if excused.contains(&missing) {
                            Some("it came, and was discarded for one that did not")
                        } else {
                            let excuse =
                                |commit| excuse(commit, reading, &sessions, &walked.switched);
                            excuse(commit).or_else(|| {
                                let at = commit.map_or(0, |commit| commit.at);
                                let before = commits.range((*shard, 0)..missing).rev();
                                let recent = before.map(|(_, commit)| commit);
                                let mut recent = recent.take_while(|it| it.at + NOT_WAITING > at);
                                recent.find_map(|commit| excuse(Some(commit)))?;
                                Some("its shard did not wait, for one before it never came")
                            })
                        };
                        if let Some(excuse) = excuse {
                            excused.insert((*shard, *seqno));
                            *account.excuses.entry(excuse).or_default() += 1;
                            account.excused.push(*at);
                            continue;
                        }
                        let own = commits.get(&(*shard, *seqno));
                        let waited = own.is_some_and(|own| own.at + HELD <= *at);
                        let since = (*shard, at.saturating_sub(NOT_WAITING));
                        if waited || held.range(since..=(*shard, *at)).next().is_some() {
                            account.late.push(*at);
                            continue;
                        }
                        account.discarded.push(*at);
                        if account.discards_shown.len() < SHOWN {
                            let writer = commit.and_then(|commit| left.get(commit.process));
                            let age = commit.map_or(0, |commit| at.saturating_sub(commit.at));
                            account.discards_shown.push(format!(
                                "{} discarded {seqno} of shard {shard}: {} of {} was missing, committed {:.1} ms before",
                                process.who.name,
                                state + 1,
                                writer.map_or("nobody", |writer| &writer.who.name),
                                Duration::from_nanos(age).as_secs_f64() * 1e3,
                            ));
                        }
                    }
                    Record::Down { session, .. } if *session > 0 => account.lost_sessions += 1,
                    Record::Wrong { what, .. } => account.wrong(process, what),
                    Record::Down { .. }
                    | Record::Up { .. }
                    | Record::Fenced { .. }
                    | Record::Done { .. } => {}
                }
            }
            account.polls.extend(polls);
        }
        account
    }

    /// The latencies of a pair, of what was committed from one moment to
    /// another.
    #[must_use]
    pub fn latencies(&self, pair: Pair, from: u64, to: u64) -> Histogram {
        self.among(from, to, |sample| sample.pair == pair)
    }

    /// The latencies of what was committed from one moment to another, as far
    /// as they are wanted.
    pub fn among(&self, from: u64, to: u64, wanted: impl Fn(&Sample) -> bool) -> Histogram {
        let mut histogram = Histogram::default();
        let then = self.samples.iter().filter(|s| (from..to).contains(&s.at));
        for sample in then.filter(|sample| wanted(sample)) {
            histogram.add(sample.latency);
        }
        histogram
    }

    /// Every process ends well, and says nothing to its standard error.
    fn ending(&mut self, process: &Left) {
        if !process.status.success() {
            self.wrong(process, &format!("ended with {}", process.status));
        }
        if !process.errors.is_empty() {
            self.wrong(process, &format!("wrote {:?}", process.errors));
        }
    }

    fn wrong(&mut self, process: &Left, what: &str) {
        self.wrongs += 1;
        if self.wrong.len() < SHOWN {
            self.wrong.push(format!("{}: {what}", process.who.name));
        }
    }
}

/// What each state of each shard is.
fn digests(walked: &Walked) -> BTreeMap<(Number, u64), Digest> {
    let mut digests = BTreeMap::new();
    for (shard, log) in &walked.remains.log {
        let mut digest = Digest::default();
        for (seqno, diff) in log {
            digest = digest.then(*seqno, diff);
            digests.insert((*shard, *seqno), digest);
        }
    }
    digests
}

fn commits(left: &[Left]) -> BTreeMap<(Number, u64), Commit> {
    let mut commits = BTreeMap::new();
    for (process, left) in left.iter().enumerate() {
        for record in &left.records {
            if let Record::Moved {
                at,
                shard,
                seqno,
                how: How::Own,
                session,
                ..
            } = record
            {
                let commit = Commit {
                    at: *at,
                    process,
                    session: *session,
                };
                commits.insert((*shard, *seqno), commit);
            }
        }
    }
    commits
}

/// When diffs became visible that may have been held back, by shard.
fn held(left: &[Left], commits: &BTreeMap<(Number, u64), Commit>) -> BTreeSet<(Number, u64)> {
    let records = left.iter().flat_map(|left| &left.records);
    let late = records.filter_map(|record| match record {
        Record::Moved {
            at,
            shard,
            seqno,
            how: How::Told | How::Fetched,
            ..
        } => {
            let commit = commits.get(&(*shard, *seqno))?;
            (commit.at + HELD <= *at).then_some((*shard, *at))
        }
        _ => None,
    });
    late.collect()
}

fn sessions(left: &Left) -> Sessions {
    let mut sessions = Sessions::new();
    for record in &left.records {
        match record {
            Record::Up { at, session } => {
                let session_of = Session {
                    began: *at,
                    ended: None,
                };
                sessions.insert(*session, session_of);
            }
            Record::Down { at, session, .. } => {
                if let Some(session) = sessions.get_mut(session) {
                    session.ended = Some(*at);
                }
            }
            _ => {}
        }
    }
    sessions
}

/// Why the server could not have a diff that a reader missed, if so.
fn excuse(
    commit: Option<&Commit>,
    reading: Option<&Session>,
    sessions: &[Sessions],
    switched: &[u64],
) -> Option<&'static str> {
    let Some(commit) = commit else {
        return Some("its writer ended before it knew");
    };
    let writing = sessions.get(commit.process)?.get(&commit.session);
    let Some(writing) = writing else {
        return Some("its writer had no session");
    };
    if writing
        .ended
        .is_some_and(|ended| ended < commit.at + LOST_WITH_IT)
    {
        return Some("its writer lost its session");
    }
    let server = |session: &Session| switched.iter().filter(|at| **at <= session.began).count();
    if reading.is_some_and(|reading| server(reading) != server(writing)) {
        return Some("its writer was at another server");
    }
    None
}
