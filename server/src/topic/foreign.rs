//! What other replicas tell of a shard, and what they are told.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Closed, Entry, Published, Topic, TopicLimits, signed};
use crate::frame::Diff;
use crate::session::SessionId;

/// Who publishes for other replicas: no session has this id.
const ELSEWHERE: SessionId = 0;

/// How something of another replica has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Foreign {
    /// Just published there.
    Live,
    /// Asked for.
    Asked,
    /// Asked for, and believed over what is here; see [`Topic::weigh`].
    Believed,
}

/// What a replica has of a shard.
#[derive(Debug)]
pub(crate) struct Known {
    /// The highest seqno accepted.
    pub(crate) head: u64,
    /// Ascending by seqno.
    pub(crate) diffs: Vec<(u64, Arc<Diff>)>,
}

impl Topic {
    /// Takes what another replica has told: as a publication; but what was
    /// asked for, and belongs to a past that nobody here was told of, goes
    /// there in silence.
    pub(crate) fn take_foreign(
        &self,
        seqno: u64,
        diff: Option<Arc<Diff>>,
        how: Foreign,
        now: Instant,
        limits: &TopicLimits,
    ) -> Result<Published, Closed> {
        if how != Foreign::Live {
            let mut state = self.lock();
            if state.closed {
                return Err(Closed);
            }
            let before = state.order.bytes();
            if how == Foreign::Believed
                && state.subscribers.len() == 0
                && state.order.is_far(seqno, limits)
            {
                state.order.start_over();
                let grown = signed(state.order.bytes()) - signed(before);
                drop(state);
                let published = self.publish(seqno, diff, ELSEWHERE, None, now, limits)?;
                return Ok(Published {
                    grown: published.grown + grown,
                    ..published
                });
            }
            let unwatched = before == 0 && state.subscribers.len() == 0;
            let entry = Entry {
                seqno,
                diff: diff.clone(),
                publisher: ELSEWHERE,
                at: now,
                notice: 0,
            };
            if let Some(verdict) = state.order.backfill(entry, limits) {
                return Ok(state.published(verdict, before, 0, None, unwatched));
            }
        }
        self.publish(seqno, diff, ELSEWHERE, None, now, limits)
    }

    /// How to take what a replica has answered: `count` diffs from `low` up to
    /// its `head`. What is far from what is here is doubted, as always, where
    /// somebody is subscribed, who is told. Where nobody is, the shard has been
    /// heard of by this replica's publishers alone: the longer run is
    /// believed. None: the answer is to be put off until somebody is there.
    pub(crate) fn weigh(
        &self,
        low: u64,
        head: u64,
        count: usize,
        limits: &TopicLimits,
    ) -> Option<Foreign> {
        let state = self.lock();
        let Some(released) = state.order.released() else {
            return Some(Foreign::Asked);
        };
        let jump = limits.max_seqno_jump;
        let near = low <= released.saturating_add(jump) && head.saturating_add(jump) >= released;
        if near || state.subscribers.len() > 0 {
            return Some(Foreign::Asked);
        }
        (count > state.order.log.len()).then_some(Foreign::Believed)
    }

    /// Another replica's head, told to one that has asked. Where nothing is
    /// known here, and nobody is subscribed, the shard's run is taken up
    /// behind it. False: there is more to tell than is known here, and
    /// somebody to be told.
    pub(crate) fn take_up(&self, head: u64) -> bool {
        let mut state = self.lock();
        match state.order.released() {
            Some(released) => released > head,
            None => state.subscribers.len() == 0 && state.order.begin_behind(head),
        }
    }

    /// What there is of the shard above a seqno, or of the last moments.
    /// None: nothing is known.
    pub(crate) fn known(
        &self,
        after: Option<u64>,
        recent: Option<Duration>,
        now: Instant,
    ) -> Option<Known> {
        let state = self.lock();
        let head = state.order.head()?;
        let log = &state.order.log;
        let since = recent.and_then(|recent| now.checked_sub(recent));
        let of_window = recent
            .map(|_| log.partition_point(|entry| since.is_some_and(|since| entry.at < since)));
        let above = after.map(|after| log.position(after.saturating_add(1)));
        let from = of_window.into_iter().chain(above).min();
        let from = from.unwrap_or(log.len());
        let entries = (from..log.len()).filter_map(|at| log.at(at));
        let diffs = entries.filter_map(|e| Some((e.seqno, Arc::clone(e.diff.as_ref()?))));
        Some(Known {
            head,
            diffs: diffs.collect(),
        })
    }
}
