//! A v1 session on a real connection, or in process, with a [`Witness`] beside it: it reads by
//! itself, and stops reading when it is told to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use persist_pubsub_proto::ShardId;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::v0_peer::PeerError;
use crate::v1_peer::{Peer, Receiver, Sender, Way, hello};
use crate::wait::within;
use crate::witness::{Broken, Truth, Witness};

/// What was committed, shared by all sessions of a test.
#[derive(Clone, Debug, Default)]
pub struct SharedTruth(Arc<Mutex<Truth>>);

impl SharedTruth {
    /// The truth of this moment.
    pub fn lock(&self) -> MutexGuard<'_, Truth> {
        lock(&self.0)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whoever panicked fails the test by that.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the reading half of a session found wrong.
#[derive(Debug, thiserror::Error)]
pub enum WatchedError {
    /// A promise.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The connection.
    #[error("the session of {0} ended: {1}")]
    Ended(String, String),
    /// In time; with what the witness misses.
    #[error("{0}")]
    Unsettled(String),
    /// Sending failed, or there is no connection.
    #[error(transparent)]
    Peer(#[from] PeerError),
}

/// How far the reading half has come.
#[derive(Debug, Default)]
struct Progress {
    heard: u64,
    failed: Option<WatchedError>,
}

/// See the module.
#[derive(Debug)]
pub struct Watched {
    name: String,
    sender: Sender,
    witness: Arc<Mutex<Witness>>,
    truth: SharedTruth,
    progress: watch::Sender<Progress>,
    /// Whether it reads.
    open: watch::Sender<bool>,
    task: JoinHandle<()>,
    requests: u64,
}

impl Watched {
    /// Connects, and begins to read.
    ///
    /// # Errors
    /// No connection, or no welcome.
    pub async fn connect<'a>(
        way: impl Into<Way<'a>>,
        name: &str,
        truth: &SharedTruth,
    ) -> Result<Self, PeerError> {
        let peer = Peer::connect_as(way, hello(name)).await?;
        let (sender, receiver) = peer.split();
        let witness = Arc::new(Mutex::new(Witness::new(name)));
        let progress = watch::Sender::new(Progress::default());
        let open = watch::Sender::new(true);
        let reading = Reading {
            name: name.to_owned(),
            witness: Arc::clone(&witness),
            truth: truth.clone(),
            progress: progress.clone(),
            open: open.subscribe(),
        };
        Ok(Self {
            name: name.to_owned(),
            sender,
            witness,
            truth: truth.clone(),
            progress,
            open,
            task: tokio::spawn(reading.run(receiver)),
            requests: 0,
        })
    }

    /// The witness, for what it is to know of others.
    pub fn witness(&self) -> MutexGuard<'_, Witness> {
        lock(&self.witness)
    }

    /// Lets it read, or not.
    pub fn read(&self, open: bool) {
        self.open.send_replace(open);
    }

    /// Subscribes, behind `have` if there is one.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn subscribe(&mut self, shards: &[(ShardId, Option<u64>)]) -> Result<(), PeerError> {
        self.requests += 1;
        self.witness().subscribing(self.requests, shards);
        self.sender.subscribe(self.requests, shards).await
    }

    /// Gives subscriptions back; of none, see [`Witness::unsubscribing`].
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn unsubscribe(&mut self, shards: &[ShardId]) -> Result<(), PeerError> {
        self.requests += 1;
        self.witness().unsubscribing(self.requests, shards);
        self.sender.unsubscribe(self.requests, shards).await
    }

    /// Publishes a committed diff; where none was committed with the seqno, it
    /// is announced.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn publish(&self, shard: ShardId, seqno: u64) -> Result<(), PeerError> {
        self.witness().publishing(shard, seqno);
        self.send(shard, seqno).await
    }

    /// The same of what another session publishes as well.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn publish_too(&self, shard: ShardId, seqno: u64) -> Result<(), PeerError> {
        self.witness().publishing_too(shard, seqno);
        self.send(shard, seqno).await
    }

    async fn send(&self, shard: ShardId, seqno: u64) -> Result<(), PeerError> {
        let committed = self.truth.lock().get(shard, seqno).cloned();
        let diff = committed.and_then(|c| Some((c.nanos.unwrap_or(0), c.diff?)));
        match diff {
            Some((nanos, diff)) => self.sender.publish(shard, seqno, nanos, diff).await,
            None => self.sender.announce(shard, seqno).await,
        }
    }

    /// Publishes what was never committed.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn lie(&self, shard: ShardId, seqno: u64) -> Result<(), PeerError> {
        let lie = Bytes::from_static(b"a lie");
        self.sender.publish(shard, seqno, 1, lie).await
    }

    /// Waits until what `done` looks for has been heard.
    ///
    /// # Errors
    /// A promise is broken first, the session ends, or it takes too long.
    pub async fn until(
        &self,
        what: &str,
        mut done: impl FnMut(&Witness) -> bool,
    ) -> Result<(), WatchedError> {
        let mut progress = self.progress.subscribe();
        let what = format!("{} to hear {what}", self.name);
        let heard = progress.wait_for(|p| p.failed.is_some() || done(&self.witness()));
        // What it returns holds a lock that `failure` needs.
        let waited = within(&what, heard).await.map(drop);
        match waited {
            Err(timed_out) => Err(WatchedError::Unsettled(timed_out.to_string())),
            Ok(()) => self.failure().map_or(Ok(()), Err),
        }
    }

    /// What went wrong, if something did.
    fn failure(&self) -> Option<WatchedError> {
        let mut failed = None;
        self.progress.send_if_modified(|p| {
            failed = p.failed.take();
            false
        });
        failed
    }

    /// Waits until every answer that is due was heard.
    ///
    /// # Errors
    /// As [`Watched::until`].
    pub async fn answered(&self) -> Result<(), WatchedError> {
        self.until("every answer", |witness| witness.unanswered() == 0)
            .await
    }

    /// Publishing has stopped: waits until the witness is content.
    ///
    /// # Errors
    /// The promise that is broken.
    pub async fn settle(&self) -> Result<(), WatchedError> {
        let settled = |witness: &Witness| witness.settle(&self.truth.lock()).is_ok();
        match self.until("all that it is owed", settled).await {
            Err(WatchedError::Unsettled(what)) => {
                let verdict = self.witness().settle(&self.truth.lock());
                Err(verdict.map_or_else(WatchedError::from, |()| WatchedError::Unsettled(what)))
            }
            other => other,
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Reading {
    name: String,
    witness: Arc<Mutex<Witness>>,
    truth: SharedTruth,
    progress: watch::Sender<Progress>,
    open: watch::Receiver<bool>,
}

impl Reading {
    async fn run(mut self, mut receiver: Receiver) {
        let failed = loop {
            if self.open.wait_for(|open| *open).await.is_err() {
                return;
            }
            let ended = |why: String| WatchedError::Ended(self.name.clone(), why);
            let message = match receiver.receive().await {
                Ok(Some(received)) => received.message,
                Ok(None) => break ended("OK".to_owned()),
                Err(error) => break ended(error.to_string()),
            };
            let heard = message.map_or(Ok(()), |message| {
                lock(&self.witness).hear(&self.truth.lock(), &message)
            });
            if let Err(broken) = heard {
                break broken.into();
            }
            self.progress.send_modify(|p| p.heard += 1);
        };
        self.progress.send_modify(|p| p.failed = Some(failed));
    }
}
