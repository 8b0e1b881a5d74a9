//! The shards that are wanted: the truth, of which each session holds a copy
//! at the server.
//!
//! The host changes `wanted`; the sessions' views follow at once in what they
//! hold to be subscribed, and pull the frames that make the server follow.

mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use persist_pubsub_proto::{MAX_SEQNO, ShardId};

use crate::connection::gate::{Gate, LinkId};
use crate::connection::wire::{Diff, Frame, Gap, Head};
use crate::event::{Event, Wire};
use crate::queue::Queued;
use crate::shared::from_unix_nanos;
use view::{Fate, View};

#[derive(Default)]
pub(crate) struct Interest {
    wanted: BTreeMap<ShardId, Wanted>,
    /// One per session: at most two, while one takes the other's place.
    views: Vec<View>,
    last_incarnation: u64,
}

/// A shard that the host wants.
struct Wanted {
    /// How many tokens there are; never 0.
    tokens: usize,
    /// Which subscription of the shard this is. What was brought by another
    /// one is not delivered.
    incarnation: u64,
    /// Up to where the host was told: the seqno of a diff, the end of a gap,
    /// the head of a resync, or what the host named when it subscribed.
    have: Option<u64>,
    /// The highest seqno that the host was told as a diff, or named when it
    /// subscribed: no diff at or below it is told. May be below `have`, for a
    /// gap can turn out to have claimed too much.
    delivered: Option<u64>,
}

/// What became of a message about a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Told to the host.
    Told,
    /// Told before.
    Duplicate,
    /// Not of a current subscription.
    Stale,
}

impl Interest {
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
                have,
                delivered: have,
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
        self.wanted.remove(&shard);
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

    pub(crate) fn detach(&mut self, link: LinkId) {
        self.views.retain(|view| view.link != link);
    }

    /// The next frame that makes the server follow. Unsubscribes go before
    /// subscribes, so that a shard that is in both ends subscribed.
    pub(crate) fn next_frame(&mut self, link: LinkId) -> Option<Frame> {
        let view = self.views.iter_mut().find(|view| view.link == link)?;
        let wanted = &self.wanted;
        view.next_frame(|shard| wanted.get(&shard).and_then(|wanted| wanted.have))
    }

    /// Whether the server has answered for all that is wanted, or all that it
    /// takes.
    pub(crate) fn is_settled(&self, link: LinkId) -> bool {
        self.view(link).is_none_or(View::is_settled)
    }

    /// How many shards are wanted that the session's server does not take.
    pub(crate) fn refused(&self, link: LinkId) -> usize {
        self.view(link).map_or(0, View::refused)
    }

    /// Shards that a v0 session has asked for since the last call. v0 does
    /// not answer; what was missed until then nobody can say.
    pub(crate) fn take_unanswerable(&mut self, link: LinkId, out: &mut Vec<Queued>) {
        let Some(view) = self.view_mut(link) else {
            return;
        };
        for shard in view.take_unanswerable() {
            if let Some(wanted) = self.wanted.get(&shard) {
                out.push(Queued::of_shard(
                    wanted.incarnation,
                    Event::Resync {
                        shard,
                        highest: None,
                    },
                ));
            }
        }
    }

    /// The server answered a subscribe for these shards.
    pub(crate) fn subscribed(
        &mut self,
        link: LinkId,
        request: u64,
        heads: &[Head],
        out: &mut Vec<Queued>,
    ) {
        let Some(view) = self.views.iter_mut().find(|view| view.link == link) else {
            return;
        };
        for head in heads {
            let Some(asked) = view.answer(head.shard, request) else {
                continue;
            };
            let Some(wanted) = self.wanted.get_mut(&head.shard) else {
                continue;
            };
            let highest = head.highest.filter(|&highest| highest <= MAX_SEQNO);
            match (asked, highest) {
                (Some(asked), Some(highest)) if highest >= asked => continue,
                (Some(_), Some(highest)) => {
                    // The server knows less than the host was told: one of
                    // the two is wrong, and the server's cursor stands above
                    // what it will accept next. From its own head, nothing
                    // that it accepts can be missed.
                    wanted.have = Some(highest);
                    wanted.delivered = wanted.delivered.min(Some(highest));
                    view.ask_again(head.shard);
                }
                // It has forgotten. What the host was told stays true.
                (Some(_), None) => {}
                (None, _) => wanted.have = wanted.have.max(highest),
            }
            out.push(Queued::of_shard(
                wanted.incarnation,
                Event::Resync {
                    shard: head.shard,
                    highest,
                },
            ));
        }
    }

    /// A diff came. `own_covers` says whether the host itself pushed every
    /// seqno of a range, which a v0 server does not echo.
    pub(crate) fn diff(
        &mut self,
        link: LinkId,
        diff: Diff,
        own_covers: impl FnOnce(u64, u64) -> bool,
        out: &mut Vec<Queued>,
    ) -> Outcome {
        let Diff {
            shard,
            seqno,
            committed,
            diff,
        } = diff;
        let Some((wanted, wire)) = self.live(link, shard) else {
            return Outcome::Stale;
        };
        if wanted.delivered.is_some_and(|last| seqno <= last) {
            return Outcome::Duplicate;
        }
        if wire == Wire::V0 {
            // v0 does not speak of holes, and of what was pushed while the
            // subscribe was under way neither end knows: the first diff says.
            let from = wanted.have.map_or(0, |have| have.saturating_add(1));
            let to = seqno.saturating_sub(1);
            if from < seqno && !own_covers(from, to) {
                out.push(Queued::of_shard(
                    wanted.incarnation,
                    Event::Gap {
                        shard,
                        from,
                        to,
                        highest: seqno,
                    },
                ));
            }
        }
        wanted.have = wanted.have.max(Some(seqno));
        wanted.delivered = Some(seqno);
        out.push(Queued::of_shard(
            wanted.incarnation,
            Event::Diff {
                shard,
                seqno,
                diff,
                committed: from_unix_nanos(committed),
            },
        ));
        Outcome::Told
    }

    /// A gap came. One below what was told is passed on (something surfaced
    /// late), and takes nothing back.
    pub(crate) fn gap(&mut self, link: LinkId, gap: &Gap, out: &mut Vec<Queued>) -> Outcome {
        let Gap {
            shard,
            from,
            to,
            highest,
        } = *gap;
        let Some((wanted, _)) = self.live(link, shard) else {
            return Outcome::Stale;
        };
        // Beyond the highest, it is only somebody's word.
        wanted.have = wanted.have.max(Some(to.min(highest)));
        out.push(Queued::of_shard(
            wanted.incarnation,
            Event::Gap {
                shard,
                from,
                to,
                highest,
            },
        ));
        Outcome::Told
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

    /// The shard, if this session's subscription of it was answered and is
    /// wanted still.
    fn live(&mut self, link: LinkId, shard: ShardId) -> Option<(&mut Wanted, Wire)> {
        let view = self.view(link)?;
        if view.fate(shard) != Fate::Live {
            return None;
        }
        let wire = view.wire;
        Some((self.wanted.get_mut(&shard)?, wire))
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
