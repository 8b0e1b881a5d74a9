//! Holds what one v1 session says of one shard against what was truly
//! committed, and names the promise that is broken first.
//!
//! A witness stands beside a session. It is told everything that the session
//! does ([`Witness::subscribing`], [`Witness::publishing`]) before it does it,
//! and everything that the session receives ([`Witness::hear`]) in the order in
//! which it came. It knows nothing of sockets, clocks or servers, so that a
//! simulation can use it as well as a test on real connections.
//!
//! What it checks after every message, and what only [`Witness::settle`] can
//! check, because it needs the end of publishing, is beside each
//! [`Promise`].

mod promise;
mod truth;

use std::collections::{BTreeMap, BTreeSet};

use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::v1::{self, session_response::Message};

pub use promise::{Broken, Promise};
pub use truth::{Committed, Truth};

/// Ranges of seqnos: from the first to one above the last, apart from each other.
#[derive(Clone, Debug, Default)]
struct Covered(BTreeMap<u64, u64>);

impl Covered {
    fn add(&mut self, from: u64, to: u64) {
        let (mut from, mut end) = (from, to.saturating_add(1));
        // From the highest that begins within on down, those that reach it.
        while let Some((&lo, &hi)) = self.0.range(..=end).next_back()
            && hi >= from
        {
            self.0.remove(&lo);
            (from, end) = (from.min(lo), end.max(hi));
        }
        self.0.insert(from, end);
    }

    /// The first of `from..to` that is in none of the ranges.
    fn first_missing(&self, from: u64, to: u64) -> Option<u64> {
        let reach = self.0.range(..=from).next_back();
        let next = reach.map_or(from, |(_, &end)| end.max(from));
        (next < to).then_some(next)
    }

    fn contains(&self, seqno: u64) -> bool {
        self.first_missing(seqno, seqno.saturating_add(1)).is_none()
    }
}

/// One subscription, from the request on.
#[derive(Clone, Debug)]
struct Subscription {
    have: Option<u64>,
    /// `Subscribed` has come.
    answered: bool,
    /// What every seqno above is owed; None: nothing was known.
    from: Option<u64>,
    last: Option<u64>,
    /// Told by a diff, a gap or the answer; or published by the session.
    covered: Covered,
    /// The highest seqno that it was told of, by whatever message.
    told: Option<u64>,
}

/// Stands beside one v1 session.
#[derive(Debug)]
pub struct Witness {
    who: String,
    /// What waits for its answer, in the order of the requests.
    asked: Vec<(u64, Asked)>,
    shards: BTreeMap<ShardId, Subscription>,
    /// Published by the session.
    own: Own,
    /// Of it, what others publish too: it may come until the server has taken
    /// the session's own.
    shared: Own,
    /// Of it, what was published since the shard's last subscribe was sent.
    since: Own,
    /// Of that, what no message can be about any more.
    taken: Own,
    lies: BTreeSet<(ShardId, u64)>,
    heard: Vec<String>,
    diffs: u64,
    gaps: u64,
}

type Own = BTreeMap<ShardId, BTreeSet<u64>>;

#[derive(Clone, Debug)]
enum Asked {
    Subscribe(BTreeMap<ShardId, Option<u64>>),
    /// With what the server has taken when it answers.
    Unsubscribe(Vec<ShardId>, Own),
}

/// Messages that a violation's report shows.
const SHOWN: usize = 12;

impl Witness {
    /// A witness of a session that has just begun.
    #[must_use]
    pub fn new(who: impl Into<String>) -> Self {
        Self {
            who: who.into(),
            asked: Vec::new(),
            shards: BTreeMap::new(),
            own: Own::new(),
            shared: Own::new(),
            since: Own::new(),
            taken: Own::new(),
            lies: BTreeSet::new(),
            heard: Vec::new(),
            diffs: 0,
            gaps: 0,
        }
    }

    /// The session is about to subscribe to shards that it is not subscribed
    /// to, each behind a seqno if it has one.
    pub fn subscribing(&mut self, request: u64, shards: &[(ShardId, Option<u64>)]) {
        for (shard, _) in shards {
            self.since.remove(shard);
        }
        let shards = shards.iter().copied().collect();
        self.asked.push((request, Asked::Subscribe(shards)));
    }

    /// The session is about to give subscriptions back; or none, to learn when
    /// the server has taken what it published until now. Whatever the server
    /// said before comes before its answer: from then on no gap may cover it.
    pub fn unsubscribing(&mut self, request: u64, shards: &[ShardId]) {
        let asked = Asked::Unsubscribe(shards.to_vec(), self.since.clone());
        self.asked.push((request, asked));
    }

    /// The session is about to publish or announce.
    pub fn publishing(&mut self, shard: ShardId, seqno: u64) {
        self.own.entry(shard).or_default().insert(seqno);
        self.since.entry(shard).or_default().insert(seqno);
        if let Some(subscription) = self.shards.get_mut(&shard) {
            subscription.covered.add(seqno, seqno);
        }
    }

    /// The same for what another session publishes as well.
    pub fn publishing_too(&mut self, shard: ShardId, seqno: u64) {
        self.shared.entry(shard).or_default().insert(seqno);
        self.publishing(shard, seqno);
    }

    /// Somebody publishes what was never committed. A server cannot know that
    /// it is a lie, and may pass it on; but it owes nobody any of it.
    pub fn lie(&mut self, shard: ShardId, seqno: u64) {
        self.lies.insert((shard, seqno));
    }

    /// Diffs and gaps heard.
    #[must_use]
    pub fn heard(&self) -> (u64, u64) {
        (self.diffs, self.gaps)
    }

    /// The highest seqno that it was told of a shard.
    #[must_use]
    pub fn told(&self, shard: ShardId) -> Option<u64> {
        self.shards.get(&shard)?.told
    }

    /// Whether it was told of a seqno, by a diff or a gap, or published it.
    #[must_use]
    pub fn knows(&self, shard: ShardId, seqno: u64) -> bool {
        let seen = self.shards.get(&shard);
        seen.is_some_and(|seen| seen.covered.contains(seqno))
    }

    /// Whether a subscription stands, as far as the session knows.
    #[must_use]
    pub fn is_subscribed(&self, shard: ShardId) -> bool {
        self.shards.contains_key(&shard)
    }

    /// Requests that were not answered yet.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.asked.len()
    }

    fn broken(&self, promise: Promise, how: String) -> Broken {
        Broken {
            promise,
            who: self.who.clone(),
            how,
            heard: self.heard.join(", "),
        }
    }

    /// Takes a message that the session received.
    ///
    /// # Errors
    /// The promise that it breaks.
    pub fn hear(&mut self, truth: &Truth, message: &Message) -> Result<(), Broken> {
        let text = match message {
            Message::Diff(m) => format!("diff {}", m.seqno),
            Message::Gap(m) => format!(
                "gap {}..={} of {}",
                m.from_seqno, m.to_seqno, m.highest_seqno
            ),
            Message::Subscribed(m) => format!("subscribed {}", m.request_id),
            Message::Unsubscribed(m) => format!("unsubscribed {}", m.request_id),
            _ => return Ok(()),
        };
        let verdict = match message {
            Message::Diff(m) => self.diff(truth, m),
            Message::Gap(m) => self.gap(m),
            Message::Subscribed(m) => self.subscribed(m),
            Message::Unsubscribed(m) => self.unsubscribed(m.request_id),
            _ => Ok(()),
        };
        if self.heard.len() == SHOWN {
            self.heard.remove(0);
        }
        self.heard.push(text);
        verdict
    }

    /// The subscription that a message about a shard belongs to.
    fn subscription(&self, shard: &[u8]) -> Result<(ShardId, Subscription), Broken> {
        let shard =
            ShardId::from_slice(shard).map_err(|e| self.broken(Promise::Opaque, format!("{e}")))?;
        let known = self.shards.get(&shard).cloned();
        let known = known.filter(|subscription| subscription.answered);
        known
            .map(|subscription| (shard, subscription))
            .ok_or_else(|| {
                self.broken(
                    Promise::Join,
                    format!("something of {shard} came, which is not subscribed"),
                )
            })
    }

    fn diff(&mut self, truth: &Truth, diff: &v1::Diff) -> Result<(), Broken> {
        let (shard, mut seen) = self.subscription(&diff.shard_id)?;
        let n = diff.seqno;
        self.diffs += 1;
        if let Some(last) = seen.last.filter(|&last| n <= last) {
            return Err(self.broken(Promise::Order, format!("{n} came after {last}")));
        }
        let among = |own: &Own| own.get(&shard).is_some_and(|own| own.contains(&n));
        if among(&self.taken) || (among(&self.own) && !among(&self.shared)) {
            return Err(self.broken(Promise::NoEcho, format!("{n} is its own")));
        }
        let lie = self.lies.contains(&(shard, n));
        match truth.get(shard, n) {
            Some(committed)
                if committed.diff.as_ref() == Some(&diff.diff)
                    && committed
                        .nanos
                        .is_none_or(|nanos| nanos == diff.committed_unix_nanos) => {}
            Some(_) if lie => {}
            Some(_) => {
                return Err(self.broken(Promise::Opaque, format!("{n} is not what was committed")));
            }
            None if lie => {}
            None => {
                return Err(self.broken(Promise::PoisonFree, format!("{n} was never committed")));
            }
        }
        let first = seen.last.map(|last| last + 1).max(seen.from);
        if let Some(missing) = first.and_then(|first| seen.covered.first_missing(first, n)) {
            return Err(self.broken(
                Promise::NoSilentGap,
                format!("{n} came, and nothing was said of {missing}"),
            ));
        }
        seen.last = Some(n);
        seen.from.get_or_insert(n);
        seen.told = seen.told.max(Some(n));
        seen.covered.add(n, n);
        self.shards.insert(shard, seen);
        Ok(())
    }

    fn gap(&mut self, gap: &v1::Gap) -> Result<(), Broken> {
        let (shard, mut seen) = self.subscription(&gap.shard_id)?;
        let (from, to, highest) = (gap.from_seqno, gap.to_seqno, gap.highest_seqno);
        self.gaps += 1;
        if from > to || (to > highest && highest >= from) {
            return Err(self.broken(
                Promise::NoSilentGap,
                format!("a gap {from}..={to} of {highest} is none"),
            ));
        }
        let own = self.taken.get(&shard);
        if let Some(own) = own.and_then(|own| own.range(from..=to).next()) {
            return Err(self.broken(
                Promise::NoEcho,
                format!("its own {own} is in the gap {from}..={to}"),
            ));
        }
        seen.covered.add(from, to);
        seen.told = seen.told.max(Some(to));
        self.shards.insert(shard, seen);
        Ok(())
    }

    fn subscribed(&mut self, answer: &v1::Subscribed) -> Result<(), Broken> {
        let stray = || {
            format!(
                "request {} was not asked, or answered before",
                answer.request_id
            )
        };
        let at = self
            .asked
            .iter()
            .position(|(id, _)| *id == answer.request_id);
        let Some((_, Asked::Subscribe(asked))) = at.and_then(|at| self.asked.get_mut(at)) else {
            return Err(self.broken(Promise::Join, stray()));
        };
        let mut begun = Vec::new();
        let mut unknown = None;
        for head in &answer.shards {
            let shard = ShardId::from_slice(&head.shard_id).unwrap_or(ShardId::new([0; 16]));
            match asked.remove(&shard) {
                Some(have) => begun.push((shard, have, head.highest_seqno)),
                None => unknown = Some(shard),
            }
        }
        if asked.is_empty() {
            at.map(|at| self.asked.remove(at));
        }
        if let Some(shard) = unknown {
            return Err(self.broken(
                Promise::Join,
                format!("{shard} was not asked for: {}", stray()),
            ));
        }
        for (shard, have, head) in begun {
            let mut covered = Covered::default();
            for &own in self.own.get(&shard).into_iter().flatten() {
                covered.add(own, own);
            }
            self.taken.remove(&shard);
            let from = match (have, head) {
                (Some(have), _) => Some(have + 1),
                (None, head) => head.map(|head| head + 1),
            };
            self.shards.insert(
                shard,
                Subscription {
                    have,
                    answered: true,
                    from,
                    last: None,
                    covered,
                    told: head.max(have),
                },
            );
        }
        Ok(())
    }

    fn unsubscribed(&mut self, request: u64) -> Result<(), Broken> {
        let at = self.asked.iter().position(|(id, _)| *id == request);
        let asked = at.map(|at| self.asked.remove(at).1);
        let Some(Asked::Unsubscribe(shards, taken)) = asked else {
            return Err(self.broken(Promise::Join, format!("request {request} was not asked")));
        };
        self.taken = taken;
        for shard in shards {
            self.shards.remove(&shard);
            self.taken.remove(&shard);
        }
        Ok(())
    }

    /// Publishing has stopped, and the session has heard everything that there
    /// was: checks what only the end can show.
    ///
    /// # Errors
    /// The promise that is broken.
    pub fn settle(&self, truth: &Truth) -> Result<(), Broken> {
        if let Some((request, _)) = self.asked.first() {
            return Err(self.broken(Promise::Join, format!("request {request} was not answered")));
        }
        for (&shard, seen) in &self.shards {
            let Some(head) = truth.head(shard) else {
                continue;
            };
            let known = seen.told >= Some(head) || seen.covered.contains(head);
            if !known {
                return Err(self.broken(
                    Promise::Convergence,
                    format!("{shard} is at {head}, and it was told of {:?}", seen.told),
                ));
            }
            // Where the server knew nothing, what was before the first is not
            // owed.
            let owed = seen.from.map(|from| from.saturating_sub(1)).max(seen.have);
            let owed = owed.filter(|_| seen.from.is_some());
            let Some(owed) = owed else { continue };
            let missing = truth
                .above(shard, Some(owed))
                .find(|&n| !seen.covered.contains(n));
            if let Some(missing) = missing {
                return Err(self.broken(
                    Promise::Join,
                    format!("{missing} of {shard} neither came nor was in a gap"),
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
