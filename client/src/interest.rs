//! The shards that are wanted: the truth, of which each session holds a copy
//! at the server.
//!
//! The host changes `wanted`; the sessions' views follow at once in what they
//! hold to be subscribed, and pull the frames that make the server follow.
//! What the sessions bring goes through each shard's [`Run`].

mod requests;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use persist_pubsub_proto::{MAX_SEQNO, ShardId};
use tokio::time::Instant;

use crate::config::Config;
use crate::connection::gate::{Gate, LinkId};
use crate::connection::wire::{Diff, Frame, Gap, Head};
use crate::event::Wire;
use crate::merge::{Clock, End, Outcome, Run, Tell, Told};
use crate::settings::Settings;
use view::View;

/// How many shards a session that has ended leaves while the lock is held.
const LEAVE_AT_ONCE: usize = 64;

pub(crate) struct Interest {
    wanted: BTreeMap<ShardId, Wanted>,
    /// One per session: for each home one, or two while one takes the other's
    /// place.
    views: Vec<View>,
    last_incarnation: u64,
    /// When the runs have something to do.
    schedule: BTreeSet<(Instant, ShardId)>,
    /// Runs of which something that waited was freed by a push of the host.
    freed: BTreeSet<ShardId>,
    /// What waits in all runs: bytes and number.
    waits: (usize, usize),
    max_waits: (usize, usize),
    grace: Duration,
    spread: Duration,
    subscribe_timeout: Duration,
    /// When it is sure to be looked at again.
    alarm: Option<Instant>,
}

/// A shard that the host wants.
struct Wanted {
    /// How many tokens there are; never 0.
    tokens: usize,
    /// Which subscription of the shard this is. What was brought by another
    /// one is not delivered.
    incarnation: u64,
    run: Run,
    /// Its entry in the schedule.
    due: Option<Instant>,
}

impl Interest {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            wanted: BTreeMap::new(),
            views: Vec::new(),
            last_incarnation: 0,
            schedule: BTreeSet::new(),
            freed: BTreeSet::new(),
            waits: (0, 0),
            max_waits: (
                config.settings.merge_buffer_bytes,
                config.settings.merge_buffer_count,
            ),
            grace: config.settings.merge_grace,
            spread: config.settings.resync_spread,
            subscribe_timeout: config.subscribe_timeout,
            alarm: None,
        }
    }

    /// Other bounds, from now on. What waits already is not looked at for it.
    pub(crate) fn configure(&mut self, settings: &Settings) {
        self.max_waits = (settings.merge_buffer_bytes, settings.merge_buffer_count);
        self.grace = settings.merge_grace;
        self.spread = settings.resync_spread;
    }

    pub(crate) fn subscribe(&mut self, shard: ShardId, have: Option<u64>) {
        if let Some(wanted) = self.wanted.get_mut(&shard) {
            wanted.tokens = wanted.tokens.saturating_add(1);
            return;
        }
        self.last_incarnation += 1;
        self.wanted.insert(
            shard,
            Wanted {
                tokens: 1,
                incarnation: self.last_incarnation,
                run: Run::new(have),
                due: None,
            },
        );
        for view in &mut self.views {
            view.want(shard);
        }
    }

    pub(crate) fn release(&mut self, shard: ShardId) {
        let Some(wanted) = self.wanted.get_mut(&shard) else {
            return;
        };
        if wanted.tokens > 1 {
            wanted.tokens -= 1;
            return;
        }
        if let Some(wanted) = self.wanted.remove(&shard) {
            let (bytes, count) = wanted.run.waits();
            self.waits = (self.waits.0 - bytes, self.waits.1 - count);
            if let Some(due) = wanted.due {
                self.schedule.remove(&(due, shard));
            }
        }
        self.freed.remove(&shard);
        for view in &mut self.views {
            view.unwant(shard);
        }
    }

    /// Whether this is the shard's subscription now.
    pub(crate) fn is_current(&self, shard: ShardId, incarnation: u64) -> bool {
        self.wanted
            .get(&shard)
            .is_some_and(|wanted| wanted.incarnation == incarnation)
    }

    /// A session begins: all that is wanted will be pulled by it.
    pub(crate) fn attach(&mut self, link: LinkId, wire: Wire, bounds: Bounds, gate: Arc<Gate>) {
        let wanted = self.wanted.keys().copied();
        self.views
            .push(View::new(link, wire, bounds, gate, wanted.collect()));
    }

    /// A session is over: its view goes at once, and it leaves the shards
    /// behind `after`, some at a time, so that a push that waits for this lock
    /// does not wait for all of them. Returns where to go on.
    #[must_use = "there may be more shards to leave"]
    pub(crate) fn detach(
        &mut self,
        link: LinkId,
        end: End,
        after: Option<ShardId>,
        now: Instant,
        told: &mut Told,
    ) -> Option<ShardId> {
        self.views.retain(|view| view.link != link);
        let clock = self.clock(now);
        let behind = (
            after.map_or(Bound::Unbounded, Bound::Excluded),
            Bound::Unbounded,
        );
        let shards = self.wanted.range(behind).map(|(shard, _)| *shard);
        let shards: Vec<_> = shards.take(LEAVE_AT_ONCE).collect();
        for &shard in &shards {
            self.on_run(shard, told, |run, tell| run.left(link, end, clock, tell));
        }
        shards.last().copied()
    }

    /// The next frame that makes the server follow. Unsubscribes go before
    /// subscribes, so that a shard that is in both ends subscribed.
    pub(crate) fn next_frame(&mut self, link: LinkId, now: Instant) -> Option<Frame> {
        let view = self.views.iter_mut().find(|view| view.link == link)?;
        let wanted = &self.wanted;
        let position = |shard| {
            let wanted = wanted.get(&shard);
            wanted.map_or_else(Default::default, |wanted| wanted.run.position())
        };
        let frame = view.next_frame(position, now);
        if let Some(Frame::Subscribe { shards, .. }) = &frame
            && view.wire == Wire::V0
        {
            for (shard, _) in shards {
                if let Some(wanted) = self.wanted.get_mut(shard) {
                    wanted.run.asked_v0(link, now);
                }
            }
        }
        frame
    }

    /// How many shards are wanted that a session's server does not take, over
    /// all sessions.
    pub(crate) fn refused(&self) -> usize {
        self.views.iter().map(View::refused).sum()
    }

    /// Whether the session's server has been asked for all that is wanted, and
    /// has answered.
    pub(crate) fn is_settled(&self, link: LinkId) -> bool {
        self.view(link).is_some_and(View::is_settled)
    }

    /// Whether these sessions have yet to come to where one is, with some shard.
    pub(crate) fn lags(&self, behind: LinkId, others: &[LinkId]) -> bool {
        let mut wanted = self.wanted.values();
        wanted.any(|wanted| wanted.run.lags(behind, others))
    }

    /// As [`take_unanswerable`](Self::take_unanswerable), of all sessions.
    pub(crate) fn take_all_unanswerable(&mut self, now: Instant, told: &mut Told) {
        let v0 = self.views.iter().filter(|view| view.wire == Wire::V0);
        let v0: Vec<_> = v0.map(|view| view.link).collect();
        for link in v0 {
            self.take_unanswerable(link, now, told);
        }
    }

    /// Shards that a v0 session has asked for since the last call. v0 does
    /// not answer; what was missed until then nobody can say.
    pub(crate) fn take_unanswerable(&mut self, link: LinkId, now: Instant, told: &mut Told) {
        let clock = self.clock(now);
        let shards = self.view_mut(link).map(View::take_unanswerable);
        for shard in shards.unwrap_or_default() {
            self.on_run(shard, told, |run, tell| run.unanswerable(link, clock, tell));
        }
    }

    /// The server answered a subscribe for these shards.
    pub(crate) fn subscribed(
        &mut self,
        link: LinkId,
        request: u64,
        heads: &[Head],
        now: Instant,
        told: &mut Told,
    ) {
        let clock = self.clock(now);
        for head in heads {
            let shard = head.shard;
            let Some(asked) = self
                .view_mut(link)
                .and_then(|view| view.answer(shard, request, now))
            else {
                continue;
            };
            let highest = head.highest.filter(|&highest| highest <= MAX_SEQNO);
            let again = self.on_run(shard, told, |run, tell| {
                run.answered(link, asked, highest, clock, tell)
            });
            if let Some(from) = again.flatten()
                && let Some(view) = self.view_mut(link)
            {
                view.ask_again(shard, from);
            }
        }
    }

    pub(crate) fn diff(
        &mut self,
        link: LinkId,
        diff: Diff,
        now: Instant,
        told: &mut Told,
    ) -> Outcome {
        self.on_run(diff.shard, told, |run, tell| {
            run.diff(link, diff, now, tell)
        })
        .unwrap_or(Outcome::Stale)
    }

    pub(crate) fn gap(
        &mut self,
        link: LinkId,
        gap: &Gap,
        now: Instant,
        told: &mut Told,
    ) -> Outcome {
        self.on_run(gap.shard, told, |run, tell| run.gap(link, gap, now, tell))
            .unwrap_or(Outcome::Stale)
    }

    /// The host pushes a diff. Returns whether the connection has something
    /// to tell because of it, and whether a resync is spared by it.
    pub(crate) fn pushed(&mut self, shard: ShardId, seqno: u64) -> (bool, bool) {
        let Some(wanted) = self.wanted.get_mut(&shard) else {
            return (false, false);
        };
        let pushed = wanted.run.pushed(seqno);
        if pushed.frees {
            self.freed.insert(shard);
        }
        (pushed.frees, pushed.cancels)
    }

    /// Tells what has waited long enough, and what the host's pushes freed.
    pub(crate) fn work(&mut self, now: Instant, told: &mut Told) {
        for shard in std::mem::take(&mut self.freed) {
            self.on_run(shard, told, Run::advance);
        }
        let grace = self.grace;
        while let Some(&(due, shard)) = self.schedule.first()
            && due <= now
        {
            self.schedule.pop_first();
            if let Some(wanted) = self.wanted.get_mut(&shard) {
                wanted.due = None;
            }
            self.on_run(shard, told, |run, tell| run.due(now, grace, tell));
        }
    }

    /// Whether there is something to do sooner than at the last
    /// [`alarm`](Self::alarm). True once.
    pub(crate) fn is_sooner(&mut self) -> bool {
        let due = self.next_due();
        let sooner = due.is_some() && (self.alarm.is_none() || due < self.alarm);
        if sooner {
            self.alarm = due;
        }
        sooner
    }

    /// When to look again: the caller will.
    pub(crate) fn alarm(&mut self) -> Option<Instant> {
        self.alarm = self.next_due();
        self.alarm
    }

    /// When [`work`](Self::work) has something to do, or a session is
    /// [`overdue`](Self::find_overdue).
    fn next_due(&self) -> Option<Instant> {
        let scheduled = self.schedule.first().map(|(due, _)| *due);
        let answers = self.views.iter().filter_map(View::asked_since);
        let answers = answers.map(|asked| asked + self.subscribe_timeout);
        scheduled.into_iter().chain(answers).min()
    }

    /// Looks for sessions whose servers have left a subscribe unanswered for too
    /// long. Whether there are any that were not overdue before.
    pub(crate) fn find_overdue(&mut self, now: Instant) -> bool {
        let mut found = false;
        for view in &mut self.views {
            let asked = view.asked_since();
            if asked.is_some_and(|asked| asked + self.subscribe_timeout <= now) {
                view.give_up();
                found = true;
            }
        }
        found
    }

    /// Whether a session was found overdue: it is to be ended.
    pub(crate) fn is_overdue(&self, link: LinkId) -> bool {
        self.view(link).is_some_and(View::is_given_up)
    }

    /// The session's answers are not read from now on, because the host does
    /// not read, or are again: its server is not blamed for the time between.
    pub(crate) fn reads(&mut self, link: LinkId, reads: bool, now: Instant) {
        if let Some(view) = self.view_mut(link) {
            view.reads(reads, now);
        }
    }

    /// The server refused a request. How many shards wait because of it until
    /// [`retry_refused`](Self::retry_refused).
    pub(crate) fn refuse(&mut self, link: LinkId, request: u64) -> usize {
        self.view_mut(link).map_or(0, |view| view.refuse(request))
    }

    /// Asks once more for what was refused.
    pub(crate) fn retry_refused(&mut self, link: LinkId) {
        if let Some(view) = self.view_mut(link) {
            view.retry_refused();
        }
    }

    /// Every change of a run that is wanted goes through here, for what waits
    /// is bounded over all of them, and each has its place in the schedule.
    fn on_run<T>(
        &mut self,
        shard: ShardId,
        told: &mut Told,
        change: impl FnOnce(&mut Run, &mut Tell) -> T,
    ) -> Option<T> {
        let wanted = self.wanted.get_mut(&shard)?;
        let mut tell = Tell {
            shard,
            incarnation: wanted.incarnation,
            told,
        };
        let run = &mut wanted.run;
        let before = run.waits();
        let changed = change(run, &mut tell);
        let others = (self.waits.0 - before.0, self.waits.1 - before.1);
        let over = |(bytes, count): (usize, usize)| {
            others.0.saturating_add(bytes) > self.max_waits.0
                || others.1.saturating_add(count) > self.max_waits.1
        };
        // Each round tells at least the first thing that waits.
        while run.waits().1 > 0 && run.waits() > before && over(run.waits()) {
            run.give_up(&mut tell);
        }
        let after = run.waits();
        self.waits = (others.0 + after.0, others.1 + after.1);
        let due = run.next_due(self.grace);
        if due != wanted.due {
            if let Some(before) = wanted.due {
                self.schedule.remove(&(before, shard));
            }
            self.schedule.extend(due.map(|due| (due, shard)));
            wanted.due = due;
        }
        Some(changed)
    }

    fn clock(&self, now: Instant) -> Clock {
        Clock {
            now,
            spread: self.spread,
        }
    }

    fn view(&self, link: LinkId) -> Option<&View> {
        self.views.iter().find(|view| view.link == link)
    }

    fn view_mut(&mut self, link: LinkId) -> Option<&mut View> {
        self.views.iter_mut().find(|view| view.link == link)
    }
}

/// What a session's server takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Shards in one request; at least 1.
    pub(crate) batch: usize,
    /// Subscriptions at a time.
    pub(crate) subscriptions: usize,
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
