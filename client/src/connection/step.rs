//! What a place's task waits for.

use std::future::Future;
use std::pin::Pin;

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
    /// flood from a server starves nothing; and nothing is read while the
    /// host has not taken what was read before.
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
            inbound = read(leaving.as_mut()), if reading => Step::FromLeaving(inbound),
            step = attend(current.as_mut(), reading, watching) => step,
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

async fn read(link: Option<&mut Link>) -> Result<Inbound, Reason> {
    match link {
        Some(link) => link.next().await,
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
