//! What a place's task waits for.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use tokio::time::Sleep;

use super::Connection;
use super::link::Link;
use super::wire::{Inbound, Refusal};
use crate::event::Reason;

pub(super) type Timer = Pin<Box<Sleep>>;

/// What there is of the next session.
pub(super) enum Next {
    Nothing,
    Wait(Timer),
    Dial(Pin<Box<dyn Future<Output = Result<Box<Link>, Refusal>> + Send>>),
}

/// What came first.
pub(super) enum Step {
    Ordered,
    /// Nobody gives orders any more.
    Gone,
    Waited,
    Dialled(Result<Box<Link>, Refusal>),
    Retry,
    Overdue,
    Replaced,
    /// The server has not said that the mode has changed.
    Unsettled,
    /// Whether there is room for what is read.
    Reads(bool),
    FromLeaving(Result<Inbound, Reason>),
    FromCurrent(Result<Inbound, Reason>),
    Broken,
}

impl Connection {
    /// Waits for whatever comes first. Reading is last in the order, so that a
    /// flood from a server starves nothing, and the sessions take turns in it;
    /// nothing is read while the host has not taken what was read before.
    pub(super) async fn step(&mut self) -> Step {
        let Self {
            shared,
            orders,
            current,
            leaving,
            next,
            retry,
            finishing,
            replaced,
            unsettled,
            reading,
            leaving_first,
            ..
        } = self;
        let room = shared.queue.room();
        let may_read = !shared.queue.is_full();
        if may_read != *reading {
            return Step::Reads(may_read);
        }
        let reading = *reading;
        // A half-closed writing half is let go of in good order.
        let watching = !reading && finishing.is_none();
        tokio::select! {
            biased;
            changed = orders.changed() => match changed {
                Ok(()) => Step::Ordered,
                Err(_) => Step::Gone,
            },
            step = next.ready() => step,
            () = maybe(retry.as_mut()) => Step::Retry,
            () = maybe(finishing.as_mut()) => Step::Overdue,
            () = maybe(replaced.as_mut()) => Step::Replaced,
            // While nothing is read, no answer can come.
            () = maybe(unsettled.as_mut()), if reading => Step::Unsettled,
            () = room, if !reading => Step::Reads(true),
            step = first_of(
                read(leaving.as_mut().filter(|_| reading)),
                attend(current.as_mut(), reading, watching),
                *leaving_first,
            ) => step,
        }
    }
}

impl Next {
    async fn ready(&mut self) -> Step {
        match self {
            Self::Nothing => std::future::pending().await,
            Self::Wait(timer) => {
                timer.as_mut().await;
                Step::Waited
            }
            Self::Dial(dial) => Step::Dialled(dial.as_mut().await),
        }
    }
}

async fn maybe(timer: Option<&mut Timer>) {
    match timer {
        Some(timer) => timer.as_mut().await,
        None => std::future::pending().await,
    }
}

/// Whichever is done first; if both are, the one that is asked first.
async fn first_of(
    leaving: impl Future<Output = Step>,
    current: impl Future<Output = Step>,
    leaving_first: bool,
) -> Step {
    let (mut leaving, mut current) = (pin!(leaving), pin!(current));
    poll_fn(|cx| {
        if leaving_first && let Poll::Ready(step) = leaving.as_mut().poll(cx) {
            return Poll::Ready(step);
        }
        match current.as_mut().poll(cx) {
            Poll::Pending if !leaving_first => leaving.as_mut().poll(cx),
            polled => polled,
        }
    })
    .await
}

async fn read(leaving: Option<&mut Link>) -> Step {
    match leaving {
        Some(link) => Step::FromLeaving(link.next().await),
        None => std::future::pending().await,
    }
}

/// Reads, or while that has to wait, watches whether the connection lives.
async fn attend(link: Option<&mut Link>, reading: bool, watching: bool) -> Step {
    match link {
        Some(link) if reading => Step::FromCurrent(link.next().await),
        Some(link) if watching => {
            link.broken().await;
            Step::Broken
        }
        _ => std::future::pending().await,
    }
}
