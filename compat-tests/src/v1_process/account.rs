//! What a process has made of its events, and whether they are as promised.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use persist_pubsub_client::Event;
use persist_pubsub_proto::ShardId;
use tokio::time::Instant;

use crate::hole::Hole;
use crate::ledger::Ledger;

/// Own diffs that are remembered, to know an echo: the newest.
const OWN: usize = 1_024;
/// Events of a shard that are told with a violation: the last.
const RECENT: usize = 12;
/// Violations that are kept as text; beyond it they are counted.
const VIOLATIONS: usize = 20;

/// What a process has, and what it cost.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// The shards that it follows.
    pub shards: BTreeMap<ShardId, Followed>,
    /// Diffs told.
    pub diffs: u64,
    /// Those that the state had already.
    pub stale: u64,
    /// Gaps told.
    pub gaps: u64,
    /// Resyncs told.
    pub resyncs: u64,
    /// Fetches of the store that a gap or a resync cost.
    pub fetches: u64,
    /// Own diffs that came back over a later session: allowed, and a waste.
    pub late_echoes: u64,
    /// Whether there is a session.
    pub up: bool,
    /// Sessions that began.
    pub connected: u64,
    /// Sessions that were lost.
    pub disconnected: u64,
    /// The largest hole since the last [`V1Process::mark`](super::V1Process::mark).
    pub hole: Hole,
    /// Gaps of nothing but own diffs, told in the session in which they were
    /// pushed. There are some when pushes are late on their way, and the
    /// server hears of later diffs before: it cannot know whose they are. On
    /// a good network there are none (no_echo).
    pub own_gaps: u64,
    /// How often each promise was broken, by its name.
    pub violations: BTreeMap<&'static str, u64>,
    /// The first times: the promise's name, and what happened.
    pub first_violations: Vec<String>,
    own: Own,
}

/// A shard that a process follows.
#[derive(Clone, Debug, Default)]
pub struct Followed {
    /// The seqno of the state.
    pub state: u64,
    /// The highest diff told of this subscription, since the last resync.
    told: u64,
    /// The last events, each with the session in which it was taken.
    recent: VecDeque<(u64, String)>,
    /// How often it was fetched since the last [`V1Process::mark`](super::V1Process::mark).
    pub fetches: u64,
    /// When it was last fetched since then.
    pub fetched: Option<Instant>,
}

/// The newest of the process's own diffs, each with the number of the
/// session in which it was pushed.
#[derive(Clone, Debug, Default)]
struct Own {
    sessions: BTreeMap<(ShardId, u64), u64>,
    order: VecDeque<(ShardId, u64)>,
}

impl Own {
    fn add(&mut self, shard: ShardId, seqno: u64, session: u64) {
        self.sessions.insert((shard, seqno), session);
        self.order.push_back((shard, seqno));
        if self.order.len() > OWN
            && let Some(oldest) = self.order.pop_front()
        {
            self.sessions.remove(&oldest);
        }
    }
}

impl Account {
    /// Whether the state of every followed shard has reached its head.
    #[must_use]
    pub fn reached(&self, heads: &BTreeMap<ShardId, u64>) -> bool {
        self.behind(heads).is_none()
    }

    /// A followed shard that has not: its id, state and head.
    #[must_use]
    pub fn behind(&self, heads: &BTreeMap<ShardId, u64>) -> Option<(ShardId, u64, u64)> {
        self.shards.iter().find_map(|(shard, followed)| {
            let head = heads.get(shard).copied().unwrap_or(0);
            (followed.state < head).then_some((*shard, followed.state, head))
        })
    }

    /// Follows a shard from this state.
    pub(super) fn follow(&mut self, shard: ShardId, state: u64) {
        let mut followed = Followed {
            state,
            ..Followed::default()
        };
        // Of this subscription and the one before: a late event shows.
        if let Some(before) = self.shards.get_mut(&shard) {
            followed.recent = std::mem::take(&mut before.recent);
        }
        self.shards.insert(shard, followed);
        self.note(shard, 0, format!("followed from {state}"));
    }

    /// The process wrote a diff, while its client counted `session` sessions.
    pub(super) fn wrote(&mut self, shard: ShardId, seqno: u64, session: u64) {
        if let Some(followed) = self.shards.get_mut(&shard) {
            followed.state = seqno;
        }
        self.own.add(shard, seqno, session);
    }

    /// Measures from here on.
    pub(super) fn mark(&mut self) {
        self.hole = Hole::default();
        for followed in self.shards.values_mut() {
            followed.fetches = 0;
            followed.fetched = None;
        }
    }

    fn violated(&mut self, promise: &'static str, shard: ShardId, what: &str) {
        *self.violations.entry(promise).or_default() += 1;
        if self.first_violations.len() < VIOLATIONS {
            let recent = self.shards.get(&shard).map(|f| &f.recent);
            let text = format!("{promise}: {shard} {what}; session and event: {recent:?}");
            self.first_violations.push(text);
        }
    }

    /// Remembers an event of a shard, for who has to find out what happened.
    fn note(&mut self, shard: ShardId, session: u64, event: String) {
        if let Some(followed) = self.shards.get_mut(&shard) {
            if followed.recent.len() == RECENT {
                followed.recent.pop_front();
            }
            followed.recent.push_back((session, event));
        }
    }

    /// Takes an event, as the process does while its client counts
    /// `session` sessions.
    pub(super) fn take(&mut self, event: Event, ledger: &Ledger, session: u64) {
        match event {
            Event::Diff {
                shard, seqno, diff, ..
            } => {
                self.note(shard, session, format!("diff {seqno}"));
                self.diff(shard, seqno, &diff, ledger, session);
            }
            Event::Gap {
                shard, from, to, ..
            } => {
                self.gaps += 1;
                self.note(shard, session, format!("gap {from} to {to}"));
                let own = |seqno| self.own.sessions.get(&(shard, seqno)) == Some(&session);
                // Only a short gap can be all of those remembered.
                if to.saturating_sub(from) < OWN as u64 && (from..=to).all(own) {
                    self.own_gaps += 1;
                }
                self.fetch_unless_reached(shard, Some(to), ledger);
            }
            Event::Resync { shard, highest } => {
                self.resyncs += 1;
                self.note(shard, session, format!("resync {highest:?}"));
                if let Some(followed) = self.shards.get_mut(&shard) {
                    followed.told = 0;
                }
                self.fetch_unless_reached(shard, highest, ledger);
            }
            Event::Connected { .. } => {
                self.up = true;
                self.connected += 1;
            }
            Event::Disconnected { .. } => {
                self.up = false;
                self.disconnected += 1;
            }
            _ => {}
        }
    }

    fn diff(&mut self, shard: ShardId, seqno: u64, diff: &Bytes, ledger: &Ledger, session: u64) {
        // Left while the event was on its way through this process.
        let Some(followed) = self.shards.get_mut(&shard) else {
            return;
        };
        self.diffs += 1;
        let (state, told) = (followed.state, followed.told);
        followed.told = told.max(seqno);
        if seqno == state.saturating_add(1) {
            followed.state = seqno;
            self.hole.waited(ledger.age(shard, seqno));
        } else if seqno <= state {
            self.stale += 1;
        } else {
            let what = format!("{seqno} came at {state}, with nothing said");
            self.violated("no_silent_gap", shard, &what);
            self.fetch(shard, ledger);
        }
        if seqno <= told {
            self.violated("order", shard, &format!("{seqno} came after {told}"));
        }
        if seqno > ledger.head(shard) || *diff != ledger.diff(shard, seqno) {
            let what = format!("{seqno} is not what was committed");
            self.violated("opaque", shard, &what);
        }
        match self.own.sessions.get(&(shard, seqno)) {
            Some(pushed_in) if *pushed_in == session => {
                self.violated("no_echo", shard, &format!("{seqno} came back"));
            }
            Some(_) => self.late_echoes += 1,
            None => {}
        }
    }

    /// What a host does on a gap or a resync.
    fn fetch_unless_reached(&mut self, shard: ShardId, to: Option<u64>, ledger: &Ledger) {
        let Some(followed) = self.shards.get_mut(&shard) else {
            return;
        };
        if to.is_none_or(|to| followed.state < to) {
            self.fetch(shard, ledger);
        }
    }

    fn fetch(&mut self, shard: ShardId, ledger: &Ledger) {
        let Some(followed) = self.shards.get_mut(&shard) else {
            return;
        };
        self.fetches += 1;
        followed.fetches += 1;
        followed.fetched = Some(Instant::now());
        let head = ledger.head(shard);
        if head > followed.state {
            let age = ledger.age(shard, followed.state + 1);
            self.hole.fetched(head - followed.state, age);
            followed.state = head;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Diffs;

    const SHARD: ShardId = ShardId::new([3; 16]);

    /// A process that follows [`SHARD`] from its creation, and a ledger with
    /// diffs 2 to 11.
    fn following() -> (Account, Ledger) {
        let ledger = Ledger::new(Diffs::Numbered { bytes: 24 });
        let mut account = Account::default();
        account.follow(SHARD, ledger.head(SHARD));
        for _ in 0..10 {
            let _ = ledger.append(SHARD);
        }
        (account, ledger)
    }

    fn diff(seqno: u64, ledger: &Ledger) -> Event {
        Event::Diff {
            shard: SHARD,
            seqno,
            diff: ledger.diff(SHARD, seqno),
            committed: None,
        }
    }

    /// The promises that a sequence of events breaks.
    fn broken(events: impl Fn(&Ledger) -> Vec<Event>) -> Vec<String> {
        let (mut account, ledger) = following();
        account.own.add(SHARD, 7, 1);
        for event in events(&ledger) {
            account.take(event, &ledger, 1);
        }
        let names = account.first_violations.iter();
        names
            .filter_map(|text| Some(text.split_once(':')?.0.to_owned()))
            .collect()
    }

    #[test]
    fn what_is_promised_passes() {
        let events = |ledger: &Ledger| {
            let gap = Event::Gap {
                shard: SHARD,
                from: 4,
                to: 7,
                highest: 7,
            };
            vec![diff(2, ledger), diff(3, ledger), gap, diff(8, ledger)]
        };
        assert_eq!(broken(events), Vec::<String>::new());
    }

    #[test]
    fn a_gap_of_own_diffs_alone_is_counted() {
        let (mut account, ledger) = following();
        account.own.add(SHARD, 7, 1);
        for (from, session) in [(7, 1), (6, 1), (7, 2)] {
            let gap = Event::Gap {
                shard: SHARD,
                from,
                to: 7,
                highest: 7,
            };
            account.take(gap, &ledger, session);
        }
        assert_eq!(account.own_gaps, 1);
    }

    #[test]
    fn each_broken_promise_is_named() {
        let early = |ledger: &Ledger| vec![diff(4, ledger)];
        assert_eq!(broken(early), ["no_silent_gap"]);
        let again = |ledger: &Ledger| vec![diff(2, ledger), diff(2, ledger)];
        assert_eq!(broken(again), ["order"]);
        let altered = |_: &Ledger| {
            vec![Event::Diff {
                shard: SHARD,
                seqno: 2,
                diff: Bytes::from_static(b"other"),
                committed: None,
            }]
        };
        assert_eq!(broken(altered), ["opaque"]);
        let echo = |ledger: &Ledger| (2..=7).map(|n| diff(n, ledger)).collect();
        assert_eq!(broken(echo), ["no_echo"]);
    }
}
