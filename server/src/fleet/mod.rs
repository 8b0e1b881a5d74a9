//! All replicas as one: what operators ask of any of them, and the fences that
//! are their environment's.
//!
//! The replica that is asked puts an operator's call to the others, and merges
//! what they answer. Nothing is left out in silence: who did not answer in
//! time, or has not been heard of for a while without having said goodbye, is
//! named in the answer. Without a backplane a server is all there is.

mod agreement;
mod answering;
mod bucket;
mod call;
mod gather;
mod merge;
mod others;
mod roll;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use persist_pubsub_proto::admin_v1 as pb;
use tonic::Status;

pub(crate) use agreement::{Agreed, Agreement, Holder};
pub(crate) use answering::{Answering, fitting};
pub(crate) use bucket::Bucket;
use call::{Call, Paged};
pub(crate) use gather::{Gather, Shown};
pub(crate) use others::{Others, serve};
pub(crate) use roll::{Peer, Roll};

/// Which replicas an operator means: all.
const ALL: &str = "all";
/// The one that is asked.
pub(crate) const THIS: &str = "this";
/// Names that mean something else.
pub(crate) const RESERVED: [&str; 2] = [ALL, THIS];

/// What a replica answers a question, or why it does not.
pub(crate) type Asking<'a> = Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send + 'a>>;

/// The other replicas.
pub(crate) trait Peers: fmt::Debug + Send + Sync + 'static {
    /// Who there is.
    fn roll(&self) -> Roll;

    /// Asks one replica, and waits for its answer for so long.
    fn ask<'a>(&'a self, instance: &'a str, question: Bytes, within: Duration) -> Asking<'a>;
}

/// This replica and the others.
#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    me: Peer,
    others: Option<Arc<dyn Peers>>,
}

/// Which replicas a call is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The one that is asked.
    This,
    /// One of the others.
    One(Peer),
    /// All.
    All,
}

impl Fleet {
    pub(crate) fn new(me: Peer, others: Option<Arc<dyn Peers>>) -> Self {
        Self { me, others }
    }

    /// This server, replica or not.
    pub(crate) fn own(&self) -> &Peer {
        &self.me
    }

    /// This replica. None: it is the only server.
    pub(crate) fn me(&self) -> Option<&Peer> {
        self.others.as_ref().map(|_| &self.me)
    }

    /// What a call's `replica` means.
    pub(crate) fn scope(&self, named: &str) -> Result<Scope, Status> {
        let Some(others) = &self.others else {
            return match named {
                "" | ALL | THIS => Ok(Scope::This),
                _ if self.me.is(named) => Ok(Scope::This),
                _ => Err(Status::not_found(format!(
                    "there is no replica '{}': the server has no --backplane, and is '{}'",
                    named.escape_debug(),
                    self.me.name
                ))),
            };
        };
        match named {
            "" | ALL => return Ok(Scope::All),
            THIS => return Ok(Scope::This),
            _ => {}
        }
        let roll = others.roll();
        let this = self.me.is(named).then_some(&self.me);
        let found: Vec<_> = roll.present.iter().filter(|p| p.is(named)).collect();
        match (this, &found[..]) {
            (Some(_), []) => Ok(Scope::This),
            (None, [peer]) => Ok(Scope::One((*peer).clone())),
            (None, []) => Err(unknown(named, &self.me, &roll)),
            (this, found) => {
                let ids = this.into_iter().chain(found.iter().copied());
                let ids: Vec<_> = ids.map(|peer| peer.instance.as_str()).collect();
                Err(Status::failed_precondition(format!(
                    "several replicas are called '{}': name one by its instance id, {}",
                    named.escape_debug(),
                    ids.join(" or ")
                )))
            }
        }
    }
}

fn unknown(named: &str, me: &Peer, roll: &Roll) -> Status {
    let silent = roll
        .missing()
        .find(|replica| replica.silent && Peer::new(&replica.name, &replica.instance_id).is(named));
    if let Some(replica) = silent {
        return Status::unavailable(format!("replica '{}': {}", replica.name, replica.missing));
    }
    let known = std::iter::once(me).chain(&roll.present);
    let known: Vec<_> = known.map(|peer| peer.name.as_str()).collect();
    Status::not_found(format!(
        "there is no replica '{}': there are {}{}",
        named.escape_debug(),
        known.join(", "),
        if roll.connected {
            ""
        } else {
            "; the backplane is not connected"
        },
    ))
}

/// As operators are shown it.
pub(crate) fn show_replica(peer: &Peer, missing: impl Into<String>) -> pb::Replica {
    pb::Replica {
        name: peer.name.clone(),
        instance_id: peer.instance.clone(),
        missing: missing.into(),
        server: None,
        silent: false,
    }
}
