//! The other replicas, as the backplane knows them.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::roll::Memory;
use super::{Answering, Asking, Peer, Peers, Roll};
use crate::backplane::{Backplane, LinkStatus};

/// The kind of an `OperatorQuestion`.
const OPERATOR: &str = "operator";

/// Asks over the backplane.
#[derive(Debug)]
pub(crate) struct Others {
    me: Peer,
    /// Gone with its server.
    backplane: Weak<Backplane>,
    memory: Mutex<Memory>,
}

impl Others {
    pub(crate) fn of(backplane: &Arc<Backplane>) -> Self {
        Self {
            me: Peer::new(backplane.name(), backplane.instance()),
            backplane: Arc::downgrade(backplane),
            memory: Mutex::default(),
        }
    }
}

/// Answers the others, as long as `answering` is kept.
pub(crate) fn serve(backplane: &Backplane, answering: &Arc<Answering>) {
    let answering = Arc::downgrade(answering);
    backplane.serve(OPERATOR, move |question| {
        let answering = answering.upgrade();
        async move {
            match answering {
                Some(answering) => answering.answer(question).await,
                // The server ends.
                None => Bytes::new(),
            }
        }
    });
}

impl Peers for Others {
    fn roll(&self) -> Roll {
        let Some(backplane) = self.backplane.upgrade() else {
            return Roll::default();
        };
        let connected = matches!(backplane.status(), LinkStatus::Connected(_));
        let heard = backplane.heard().into_iter();
        let present = heard.map(|(peer, at)| (Peer::new(&peer.name, &peer.instance), at));
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.look(
            &self.me,
            connected,
            present.collect(),
            &backplane.take_left(),
            Instant::now(),
        )
    }

    fn ask<'a>(&'a self, instance: &'a str, question: Bytes, within: Duration) -> Asking<'a> {
        Box::pin(async move {
            let backplane = self.backplane.upgrade();
            let backplane = backplane.ok_or_else(|| "the server ends".to_owned())?;
            let answer = backplane.ask_one(instance, OPERATOR, question, within);
            answer.await.map_err(|error| error.to_string())
        })
    }
}
