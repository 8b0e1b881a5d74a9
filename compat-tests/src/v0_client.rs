//! The connection of a deployed v0 client: it reads a shard's state before it
//! subscribes, comes back after a lost connection as slowly as the real one,
//! and loses what its process pushes meanwhile.

use std::future::Future;
use std::time::Duration;

use persist_pubsub_proto::ShardId;
use tokio::sync::mpsc;

use crate::recording::Push;
use crate::v0_peer::{KeepAlive, Peer, PeerError, Receiver};

/// How often a deployed reader polls.
pub const POLL: Duration = Duration::from_millis(1_200);
/// How long it waits after a lost connection.
pub const AFTER_LOSS: Duration = Duration::from_secs(5);
/// The delays between its attempts, doubling.
const RETRY: (Duration, Duration) = (Duration::from_millis(125), Duration::from_secs(60));
/// What waits to be sent. What does not fit is dropped: so it is in the
/// deployed client, with a queue of this length or another.
const QUEUE: usize = 1_024;
/// How long an attempt to connect may take.
const ATTEMPT: Duration = Duration::from_secs(5);

/// The process that a connection belongs to.
pub trait Host: Send + Sync {
    /// The shards that it follows, at this moment.
    fn shards(&self) -> Vec<ShardId>;
    /// Reads a shard's state in the store.
    fn refresh(&self, shard: ShardId) -> impl Future<Output = ()> + Send;
    /// A diff came.
    fn hear(&self, push: Push);
    /// A connection stands, and every shard was subscribed to.
    fn connected(&self);
    /// A connection is over, for this reason; `connected` may not have been
    /// said of it.
    fn lost(&self, why: &PeerError);
}

/// What a process tells its connection.
#[derive(Clone, Debug)]
pub enum Order {
    /// A diff that it committed.
    Push(Push),
    /// It follows one more shard, whose state it has read.
    Follow(ShardId),
    /// It follows a shard no more.
    Leave(ShardId),
}

/// The way to a connection. When the last clone is gone, what was said is
/// sent and the stream is closed in order.
#[derive(Clone, Debug)]
pub struct Orders(mpsc::Sender<Order>);

impl Orders {
    /// Says it, if there is room: deployed clients drop what does not fit,
    /// and whatever is said without a connection.
    pub fn give(&self, order: Order) {
        let _ = self.0.try_send(order);
    }
}

/// A connection to be: where it leads, and who is there.
#[derive(Debug)]
pub struct Connection {
    /// The server.
    pub url: String,
    /// The caller id.
    pub name: String,
    /// HTTP/2 pings.
    pub keep_alive: Option<KeepAlive>,
    orders: mpsc::Receiver<Order>,
}

impl Connection {
    /// One that [`run`](Self::run) will make.
    #[must_use]
    pub fn new(url: &str, name: &str, keep_alive: Option<KeepAlive>) -> (Orders, Self) {
        let (sender, orders) = mpsc::channel(QUEUE);
        let connection = Self {
            url: url.to_owned(),
            name: name.to_owned(),
            keep_alive,
            orders,
        };
        (Orders(sender), connection)
    }

    /// Connects, again and again, until every [`Orders`] is gone.
    pub async fn run(mut self, host: &impl Host) {
        let mut retry = RETRY.0;
        loop {
            let attempt = Peer::connect_alive(&self.url, &self.name, self.keep_alive);
            let pause = match tokio::time::timeout(ATTEMPT, attempt).await {
                Ok(Ok(peer)) => {
                    retry = RETRY.0;
                    match self.serve(peer, host).await {
                        Ok(()) => return,
                        Err(why) => host.lost(&why),
                    }
                    AFTER_LOSS
                }
                _ => {
                    let now = retry;
                    retry = (retry * 2).min(RETRY.1);
                    now
                }
            };
            // What is pushed meanwhile is lost; what is followed is known.
            let lose = async { while self.orders.recv().await.is_some() {} };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = lose => return,
            }
        }
    }

    /// One connection, until it ends; or until nobody is left to say
    /// anything.
    async fn serve(&mut self, peer: Peer, host: &impl Host) -> Result<(), PeerError> {
        let (sender, receiver) = peer.split();
        let speak = async {
            for shard in host.shards() {
                // First the state, then the subscription.
                host.refresh(shard).await;
                sender.subscribe(shard).await?;
            }
            host.connected();
            while let Some(order) = self.orders.recv().await {
                match order {
                    Order::Push(push) => sender.push(push).await?,
                    Order::Follow(shard) => sender.subscribe(shard).await?,
                    Order::Leave(shard) => sender.unsubscribe(shard).await?,
                }
            }
            // A half-close: what was said before it arrives.
            drop(sender);
            Ok::<(), PeerError>(())
        };
        let mut hear = std::pin::pin!(hear(receiver, host));
        tokio::select! {
            ended = &mut hear => return ended,
            spoken = speak => spoken?,
        }
        // The server ends the stream when it has taken everything.
        let _ = tokio::time::timeout(ATTEMPT, hear).await;
        Ok(())
    }
}

/// Never returns `Ok`.
async fn hear(mut receiver: Receiver, host: &impl Host) -> Result<(), PeerError> {
    while let Some(push) = receiver.receive_push().await? {
        host.hear(push);
    }
    Err(PeerError::Ended)
}
