//! What a place's task is told to do, and how it does it.

use std::sync::Arc;

use tokio::time::sleep;

use super::gate::LinkId;
use super::link::Link;
use super::step::Next;
use super::{Connection, LINGER};
use crate::backoff::Backoff;
use crate::event::Reason;
use crate::merge::End;
use crate::settings::Settings;
use crate::shared::lock;

/// What a place's task is to do. The last word counts.
#[derive(Clone)]
pub(crate) struct Order {
    pub(crate) settings: Arc<Settings>,
    /// Send what waits, and end.
    pub(crate) finish: Option<Finish>,
    /// A session that has been answered for everything that is wanted.
    pub(crate) settled: Option<LinkId>,
}

/// Why a task ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finish {
    /// The host has let go of its handles, and is told nothing of sessions.
    HandlesGone,
    /// The settings do not want it any more.
    NotWanted,
}

impl Connection {
    pub(super) fn obey(&mut self) {
        let order = self.orders.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.settings, order.settings);
        if (before.backoff_first, before.backoff_cap)
            != (self.settings.backoff_first, self.settings.backoff_cap)
        {
            self.backoff = Backoff::new(&self.settings, self.config.stable_after);
        }
        if let Some(finish) = order.finish {
            if let Some(link) = &self.current {
                // What was pushed for it goes out still.
                link.gate.want(self.shared.settings().mode);
            }
            if self.finishing.is_none() {
                self.finish(finish);
            }
            return;
        }
        // First, for it takes the place of one that is lost.
        if self.is_overdue(self.leaving.as_ref()) {
            self.left(End::Lost);
        }
        if self.is_overdue(self.current.as_ref()) {
            self.lost(Reason::Unanswered(self.config.subscribe_timeout));
        }
        if before.mode != self.settings.mode {
            self.change_mode();
        }
        if self.replacing
            && self.replaced.is_none()
            && self
                .current
                .as_ref()
                .is_some_and(|l| Some(l.id) == order.settled)
            && let Some(before) = &self.leaving
        {
            before.gate.keep_mode();
            before.gate.finish();
            self.replaced = Some(Box::pin(sleep(LINGER)));
        }
    }

    /// Whether the session's server has left a subscribe unanswered for too long.
    fn is_overdue(&self, link: Option<&Link>) -> bool {
        link.is_some_and(|link| lock(&self.shared.interest).is_overdue(link.id))
    }

    /// Has the sessions follow the settings' mode: on their streams where they
    /// can, else by a new session that takes their place.
    fn change_mode(&mut self) {
        let mode = self.settings.mode;
        if let Some(link) = &self.leaving {
            // It ends soon, whether or not it can.
            link.gate.want(mode);
        }
        let asked = match self.current.as_ref().map(|link| link.gate.want(mode)) {
            Some(Some(settled)) => {
                self.unsettled = None;
                if !settled {
                    self.unsettle();
                }
                true
            }
            Some(None) => false,
            None => true,
        };
        // An attempt that is under way says what is not so any more.
        if !asked || matches!(self.next, Next::Dial(_)) {
            self.dial();
        }
    }

    /// A server that knows the request, and does not answer it, is replaced.
    pub(super) fn unsettle(&mut self) {
        self.unsettled = Some(Box::pin(sleep(self.config.subscribe_timeout)));
    }

    /// What waits goes out, then the session ends.
    fn finish(&mut self, finish: Finish) {
        self.next = Next::Nothing;
        self.unsettled = None;
        self.left(End::Complete);
        match &self.current {
            Some(link) => {
                link.gate.finish();
                self.finishing = Some(Box::pin(sleep(LINGER)));
                if finish == Finish::NotWanted {
                    tracing::info!(server = %self.place, "leaving the pubsub server");
                }
            }
            None => self.done = true,
        }
    }
}
