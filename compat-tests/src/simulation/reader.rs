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

    /// A diff. `own`: what this process pushed of the shard.
    pub(super) fn diff(&mut self, seqno: u64, diff: &Bytes, own: &BTreeSet<u64>) {
        self.world.count(|c| c.diffs += 1);
        if self.last.is_some_and(|last| seqno <= last) {
            self.violated("order", &format!("diff {seqno} again or late"));
        }
        if own.contains(&seqno) {
            self.violated("no_echo", &format!("its own diff {seqno}"));
        }
        if seqno < LIES && self.world.diff(self.shard, seqno).as_ref() != Some(diff) {
            self.violated("opaque", &format!("other bytes for {seqno}"));
        }
        if let Some(told) = self.told
            && (told + 1..seqno).any(|between| !own.contains(&between))
        {
            self.violated("no_silent_gap", &format!("diff {seqno} after a hole"));
        }
        self.last = Some(seqno);
        self.told = self.told.max(Some(seqno));
        self.apply(seqno, own);
    }

    fn apply(&mut self, seqno: u64, own: &BTreeSet<u64>) {
        // What the process committed itself, it has.
        while own.contains(&(self.state + 1)) {
            self.state += 1;
        }
        if seqno == self.state + 1 {
            self.state = seqno;
        }
    }

    pub(super) fn gap(&mut self, from: u64, to: u64, highest: u64, own: &BTreeSet<u64>) {
        self.world.count(|c| c.gaps += 1);
        if from > to {
            self.violated("no_silent_gap", &format!("a gap from {from} to {to}"));
        }
        if to - from < 1_000 && (from..=to).all(|seqno| own.contains(&seqno)) {
            self.violated("no_echo", &format!("a gap over its own {from} to {to}"));
        }
        // Beyond the highest it is somebody's word.
        self.told = self.told.max(Some(to.min(highest)));
        self.fetch();
    }

    pub(super) fn resync(&mut self, highest: Option<u64>) {
        self.world.count(|c| c.resyncs += 1);
        match highest {
            // Somebody was wrong: from the server's head on, all comes.
            Some(highest) if self.told > Some(highest) => {
                self.told = Some(highest);
                self.last = self.last.min(Some(highest));
            }
            Some(highest) => self.told = Some(highest),
            None => self.told = None,
        }
        self.fetch();
    }

    fn fetch(&mut self) {
        self.state = self.state.max(self.world.head(self.shard));
    }

    /// Whether the host knows of `head`, from what it was told or fetched.
    pub(super) fn knows(&self, head: u64, own: &BTreeSet<u64>) -> bool {
        let mut known = self.state.max(self.told.unwrap_or(0));
        while own.contains(&(known + 1)) {
            known += 1;
        }
        known >= head
    }
}
