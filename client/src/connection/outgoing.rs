//! The writing half of a session: the stream that the network polls.
//!
//! It pulls, when the network has room, from what is wanted and from what was
//! pushed; nothing is queued between. So control goes before diffs, what is
//! not sent yet can still change, and a push wakes the network's task without
//! a detour.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep};

use super::gate::{Gate, LinkId, Phase, Terms};
use super::wire::Frame;
use crate::shared::{Shared, lock};

pub(super) struct Outgoing<M> {
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    link: LinkId,
    /// Said first, before the gate opens.
    greeting: Option<M>,
    encode: fn(Frame, &Shared) -> Option<M>,
    /// Since when nothing was said.
    quiet_since: Instant,
    heartbeat: Option<Pin<Box<Sleep>>>,
    /// The network let go of the stream: the reading half hears of it by the
    /// sender's end.
    _dropped: oneshot::Sender<()>,
}

impl<M> Outgoing<M> {
    pub(super) fn new(
        shared: Arc<Shared>,
        gate: Arc<Gate>,
        link: LinkId,
        greeting: Option<M>,
        encode: fn(Frame, &Shared) -> Option<M>,
        dropped: oneshot::Sender<()>,
    ) -> Self {
        Self {
            shared,
            gate,
            link,
            greeting,
            encode,
            quiet_since: Instant::now(),
            heartbeat: None,
            _dropped: dropped,
        }
    }

    /// The next frame that there is a reason to send now.
    fn frame(&self, terms: Terms, finishing: bool, now: Instant) -> Option<Frame> {
        if !finishing && let Some(frame) = lock(&self.shared.interest).next_frame(self.link, now) {
            // What a v0 session asks for, it has to tell the host itself, and
            // the answer of a v1 server is awaited for a time.
            if matches!(frame, Frame::Subscribe { .. }) {
                self.shared.nudge.notify_one();
            }
            return Some(frame);
        }
        if !self.gate.publishes() {
            return None;
        }
        let push = lock(&self.shared.outbox).pull(self.link, terms.takes, now, &self.shared.stats);
        let mode = || self.gate.next_mode().map(Frame::SetMode);
        push.map(Frame::Publish).or_else(mode)
    }

    /// Ready when nothing was said for the interval.
    fn poll_heartbeat(&mut self, terms: Terms, cx: &mut Context<'_>) -> Poll<()> {
        let Some(interval) = terms.heartbeat else {
            return Poll::Pending;
        };
        let timer = self
            .heartbeat
            .get_or_insert_with(|| Box::pin(sleep(interval)));
        // The timer is not moved with every message: when it goes off, it is
        // set for the rest.
        while timer.as_mut().poll(cx).is_ready() {
            let due = self.quiet_since + interval;
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
        Poll::Pending
    }
}

impl<M: Unpin> Stream for Outgoing<M> {
    type Item = M;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<M>> {
        let this = self.get_mut();
        loop {
            // Registers first: what changes from here on wakes us again.
            let (terms, finishing) = match this.gate.enter(cx.waker()) {
                Phase::Greeting => {
                    return match this.greeting.take() {
                        Some(greeting) => Poll::Ready(Some(greeting)),
                        None => Poll::Pending,
                    };
                }
                Phase::Open(terms) => (terms, false),
                Phase::Finishing(terms) => (terms, true),
            };
            let now = Instant::now();
            let frame = match this.frame(terms, finishing, now) {
                Some(frame) => frame,
                None if finishing && this.gate.publishes() => return Poll::Ready(None),
                // What waits goes out when the server has said yes.
                None if finishing => return Poll::Pending,
                None => match this.poll_heartbeat(terms, cx) {
                    Poll::Ready(()) => Frame::Heartbeat,
                    Poll::Pending => return Poll::Pending,
                },
            };
            if let Some(message) = (this.encode)(frame, &this.shared) {
                this.quiet_since = now;
                return Poll::Ready(Some(message));
            }
        }
    }
}
