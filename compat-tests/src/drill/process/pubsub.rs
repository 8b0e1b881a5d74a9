//! How a process hears of writes and tells of its own: over v0 as deployed
//! processes do, by the client crate, or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use persist_pubsub_client::{Client, Config, Event, Events, Mode, Subscription, connect};
use persist_pubsub_proto::ShardId;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Process, Wire};
use crate::drill::Failure;
use crate::drill::cache::Outcome;
use crate::drill::record::How;
use crate::drill::shards::{self, Number};
use crate::recording::Push;
use crate::v0_client::{Connection, Host, Order, Orders};
use crate::v0_peer::PeerError;

/// How long the last of what was said may take when the process ends.
const LAST: Duration = Duration::from_secs(10);

/// A process's pubsub.
pub(super) enum Pubsub {
    None,
    V0 {
        orders: Orders,
        task: JoinHandle<()>,
    },
    V1(V1),
}

/// The client crate at work.
pub(super) struct V1 {
    client: Client,
    tokens: BTreeMap<Number, Subscription>,
    hearing: JoinHandle<()>,
    fenced: oneshot::Receiver<String>,
}

/// What writers publish by.
#[derive(Clone)]
pub(super) enum Publisher {
    None,
    V0(Orders),
    V1(Client),
}

impl Publisher {
    pub(super) fn push(&self, shard: Number, seqno: u64, diff: Bytes) {
        let shard = shards::id(shard);
        match self {
            Self::None => {}
            Self::V0(orders) => orders.give(Order::Push(Push { shard, seqno, diff })),
            Self::V1(client) => client.push_diff(&shard, seqno, diff),
        }
    }
}

impl Pubsub {
    pub(super) fn start(process: &Arc<Process>) -> Result<Self, Failure> {
        let who = &process.who;
        let Some(url) = &who.pubsub else {
            return Ok(Self::None);
        };
        Ok(match who.wire {
            Wire::V0 => {
                let (orders, connection) = Connection::new(url, &who.name, None);
                let host = Arc::clone(process);
                let task = tokio::spawn(async move { connection.run(&*host).await });
                Self::V0 { orders, task }
            }
            Wire::V1 => {
                let mode = if who.read_only {
                    Mode::ReadOnly
                } else {
                    Mode::ReadWrite
                };
                Self::V1(V1::start(process, url, mode)?)
            }
        })
    }

    pub(super) fn publisher(&self) -> Publisher {
        match self {
            Self::None => Publisher::None,
            Self::V0 { orders, .. } => Publisher::V0(orders.clone()),
            Self::V1(v1) => Publisher::V1(v1.client.clone()),
        }
    }

    /// Reads a shard's state, then subscribes.
    pub(super) async fn follow(&mut self, process: &Process, shard: Number) {
        process.cache.follow(shard);
        process.fetch(shard, How::Read).await;
        match self {
            Self::None => {}
            Self::V0 { orders, .. } => orders.give(Order::Follow(shards::id(shard))),
            Self::V1(v1) => v1.follow(process, shard),
        }
    }

    /// Follows a shard no more.
    pub(super) fn leave(&mut self, process: &Process, shard: Number) {
        process.cache.leave(shard);
        match self {
            Self::None => {}
            Self::V0 { orders, .. } => orders.give(Order::Leave(shards::id(shard))),
            Self::V1(v1) => {
                v1.tokens.remove(&shard);
            }
        }
    }

    /// The process may write from now on. v0 knows no modes.
    pub(super) fn promote(&self) {
        if let Self::V1(v1) = self {
            v1.client.set_mode(Mode::ReadWrite);
        }
    }

    /// Waits until the server says that the process's generation is fenced
    /// out. v0 cannot say it.
    pub(super) async fn fenced(&mut self) -> String {
        if let Self::V1(v1) = self
            && let Ok(why) = (&mut v1.fenced).await
        {
            return why;
        }
        std::future::pending().await
    }

    /// Says what is left to be said, and ends. The publishers are gone.
    pub(super) async fn end(self) {
        match self {
            Self::None => {}
            Self::V0 { orders, task } => {
                drop(orders);
                let _ = tokio::time::timeout(LAST, task).await;
            }
            Self::V1(v1) => v1.end().await,
        }
    }
}

impl V1 {
    fn start(process: &Arc<Process>, url: &str, mode: Mode) -> Result<Self, Failure> {
        let who = &process.who;
        let config = Config::new(url)?
            .client_name(&who.name)
            .role(who.role.name())
            .deploy_generation(who.generation)
            .mode(mode);
        let (client, events) = connect(config);
        let (tell, fenced) = oneshot::channel();
        Ok(Self {
            client,
            tokens: BTreeMap::new(),
            hearing: tokio::spawn(hear(Arc::clone(process), events, tell)),
            fenced,
        })
    }

    fn follow(&mut self, process: &Process, shard: Number) {
        let state = process.cache.position(shard).map_or(0, |(state, _)| state);
        let token = self.client.subscribe_from(&shards::id(shard), state);
        self.tokens.insert(shard, token);
    }

    async fn end(self) {
        // The last of the client and its tokens: what waits is sent.
        drop((self.client, self.tokens));
        let _ = tokio::time::timeout(LAST, self.hearing).await;
    }
}

/// What a host of the client crate does.
async fn hear(process: Arc<Process>, mut events: Events, fenced: oneshot::Sender<String>) {
    while let Some(event) = events.next().await {
        match event {
            Event::Diff {
                shard, seqno, diff, ..
            } => {
                let Some(shard) = shards::number(shard) else {
                    continue;
                };
                if process.cache.told(shard, seqno, &diff) == Outcome::Discarded {
                    process.wrong(&format!(
                        "diff {seqno} of shard {shard} came, and nothing was said of what is missing"
                    ));
                    process.fetch(shard, How::Fetched).await;
                }
            }
            Event::Gap { shard, to, .. } => fetch_unless_reached(&process, shard, Some(to)).await,
            Event::Resync { shard, highest } => {
                fetch_unless_reached(&process, shard, highest).await;
            }
            Event::Connected { .. } => process.cache.up(),
            Event::Disconnected { reason } => process.cache.down(&reason),
            Event::Fenced {
                generation, reason, ..
            } => {
                let _ = fenced.send(format!("the service: by generation {generation}: {reason}"));
                return;
            }
            _ => {}
        }
    }
}

async fn fetch_unless_reached(process: &Process, shard: ShardId, to: Option<u64>) {
    let Some(shard) = shards::number(shard) else {
        return;
    };
    let state = process.cache.position(shard).map_or(0, |(state, _)| state);
    if to.is_none_or(|to| state < to) {
        process.fetch(shard, How::Fetched).await;
    }
}

impl Host for Process {
    fn shards(&self) -> Vec<ShardId> {
        self.cache.shards().into_iter().map(shards::id).collect()
    }

    async fn refresh(&self, shard: ShardId) {
        if let Some(shard) = shards::number(shard) {
            self.fetch(shard, How::Fetched).await;
        }
    }

    fn hear(&self, push: Push) {
        if let Some(shard) = shards::number(push.shard) {
            self.cache.told(shard, push.seqno, &push.diff);
        }
    }

    fn connected(&self) {
        self.cache.up();
    }

    fn lost(&self, why: &PeerError) {
        self.cache.down(why);
    }
}
