//! One subscription of a process, as its host sees it: a state cache that
//! applies state + 1 and fetches when it is told to, and the promises that
//! must hold of what it hears.

use std::collections::BTreeSet;

use bytes::Bytes;
use persist_pubsub_client::Subscription;
use persist_pubsub_proto::ShardId;

use super::world::World;

/// A seqno above this is a lie: nothing commits so many diffs.
pub(super) const LIES: u64 = 5_000_000;

/// What a process pushed of one shard.
#[derive(Default)]
pub(super) struct Own {
    all: BTreeSet<u64>,
    /// Since it last had no event to hear: those that it hears next may be
    /// older than these.
    fresh: BTreeSet<u64>,
    /// Pushed in an earlier session: the promise is a session's.
    earlier: BTreeSet<u64>,
}

impl Own {
    pub(super) fn push(&mut self, seqno: u64) {
        self.all.insert(seqno);
        self.fresh.insert(seqno);
    }

    /// There is no event to hear.
    pub(super) fn settle(&mut self) {
        self.fresh.clear();
    }

    /// A new session, or the news that the server has forgotten.
    pub(super) fn begin_anew(&mut self) {
        self.earlier.extend(&self.all);
    }

    /// The newest that it can be counted on to announce again: of a shard
    /// that it lies about, that is the lie.
    pub(super) fn newest(&self) -> Option<u64> {
        self.all.last().copied().filter(|&newest| newest < LIES)
    }

    /// Whoever lies about a shard hears of it what the lie leaves.
    pub(super) fn lied(&self) -> bool {
        self.all.range(LIES..).next().is_some()
    }

    fn contains(&self, seqno: u64) -> bool {
        self.all.contains(&seqno)
    }

    fn is_echo(&self, seqno: u64) -> bool {
        self.contains(seqno) && !self.fresh.contains(&seqno) && !self.earlier.contains(&seqno)
    }
}

pub(super) struct Reader {
    process: String,
    shard: ShardId,
    world: World,
    /// Held for as long as the subscription is wanted.
    pub(super) _token: Subscription,
    /// What the host has.
    pub(super) state: u64,
    /// Up to where it was told, by diffs, gaps and resyncs. `None`: nobody
    /// can say.
    told: Option<u64>,
    /// The last diff that it was told.
    last: Option<u64>,
    /// A lie was told to it, which costs it fetches, also over its own: from
    /// here on only convergence is judged.
    misled: bool,
}

impl Reader {
    /// `from`: the state that the client was told when it subscribed, if it
    /// was.
    pub(super) fn new(
        process: &str,
        shard: ShardId,
        world: &World,
        token: Subscription,
        from: Option<u64>,
    ) -> Self {
        Self {
            process: process.to_owned(),
            shard,
            world: world.clone(),
            _token: token,
            state: world.head(shard),
            told: from,
            last: from,
            misled: false,
        }
    }

    fn violated(&self, promise: &str, what: &str) {
        let Self {
            process,
            shard,
            state,
            told,
            last,
            ..
        } = self;
        self.world.violated(
            promise,
            format_args!(
                "{process} {shard}: {what} (state {state}, told {told:?}, last diff {last:?})"
            ),
        );
    }

    /// A diff, of a v1 session or a v0 one. `own`: what this process pushed of
    /// the shard.
    pub(super) fn diff(&mut self, v1: bool, seqno: u64, diff: &Bytes, own: &Own) {
        self.world.count(|c| c.diffs += 1);
        // v0 sends again, and may be believed to.
        if v1 && self.last.is_some_and(|last| seqno <= last) {
            self.violated("order", &format!("diff {seqno} again or late"));
        }
        if v1 && !self.misled && own.is_echo(seqno) {
            self.violated("no_echo", &format!("its own diff {seqno}"));
        }
        if seqno < LIES && self.world.diff(self.shard, seqno).as_ref() != Some(diff) {
            self.violated("opaque", &format!("other bytes for {seqno}"));
        }
        self.misled |= seqno >= LIES;
        if let Some(told) = self.told
            && !self.misled
            && (told + 1..seqno).any(|between| !own.contains(between))
        {
            self.violated("no_silent_gap", &format!("diff {seqno} after a hole"));
        }
        self.last = Some(seqno);
        self.told = self.told.max(Some(seqno));
        self.apply(seqno, own);
    }

    fn apply(&mut self, seqno: u64, own: &Own) {
        // What the process committed itself, it has.
        while own.contains(self.state + 1) {
            self.state += 1;
        }
        if seqno == self.state + 1 {
            self.state = seqno;
        }
    }

    pub(super) fn gap(&mut self, v1: bool, from: u64, to: u64, highest: u64, own: &Own) {
        self.world.count(|c| c.gaps += 1);
        if from > to {
            self.violated("no_silent_gap", &format!("a gap from {from} to {to}"));
        }
        // Of a process that far behind the server doubts what it pushes, and
        // remembers only so much of it for its own.
        let near = !self.misled && highest.saturating_sub(from) <= 1_000;
        if v1 && near && (from..=to).all(|seqno| own.is_echo(seqno)) {
            self.violated("no_echo", &format!("a gap over its own {from} to {to}"));
        }
        self.fetch();
        self.misled |= to.max(highest) >= LIES;
        // Beyond the highest it is somebody's word.
        let reached = match self.told {
            // The first that it hears: what the server knows is where it began.
            None => highest,
            Some(_) => to.min(highest),
        };
        self.told = self.told.max(Some(reached)).max(self.last);
    }

    pub(super) fn resync(&mut self, highest: Option<u64>) {
        self.world.count(|c| c.resyncs += 1);
        // A server that knows nothing does not undo what another told.
        if let Some(highest) = highest {
            self.misled = highest >= LIES;
        }
        // From there on, all comes: if that is below what it was told, somebody
        // was wrong.
        self.told = highest;
        if highest.is_some() {
            self.last = self.last.min(highest);
        }
        self.fetch();
    }

    /// The process committed this itself, for which it had all before it.
    pub(super) fn committed(&mut self, seqno: u64) {
        self.state = self.state.max(seqno);
    }

    fn fetch(&mut self) {
        self.state = self.state.max(self.world.head(self.shard));
    }

    /// Whether the host knows of `head`, from what it was told or fetched.
    pub(super) fn knows(&self, head: u64, own: &Own) -> bool {
        let told = [self.told, self.last].into_iter().flatten();
        let told = told.filter(|&told| told < LIES).max();
        let mut known = self.state.max(told.unwrap_or(0));
        while own.contains(known + 1) {
            known += 1;
        }
        known >= head
    }
}
