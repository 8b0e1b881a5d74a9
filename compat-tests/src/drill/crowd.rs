//! A thousand connections that move from one network to another, at once or
//! slowly, as when routes change: a child process, so that what it costs is
//! not the drill's.

use std::process::{ExitCode, Stdio};
use std::time::Duration;

use persist_pubsub_client::{Config, Event, Mode, connect};
use persist_pubsub_proto::ShardId;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::process::orders;
use super::{Failure, shards};
use crate::v0_peer::Peer;
use crate::wait::within;

/// How many there are: half of either wire version.
pub const CONNECTIONS: usize = 1_000;
/// Shards that each of them follows. Nobody writes them.
const QUIET: usize = 4;
/// Every so manieth follows a shard that is written as well.
const LISTENING: usize = 25;
/// How long one that could not connect waits.
const RETRY: Duration = Duration::from_millis(100);
const THERE: &str = "there";

/// A crowd, as the drill sees it. Dropping it kills it.
pub struct Crowd {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Crowd {
    /// Starts one, and waits until everybody is connected.
    ///
    /// # Errors
    /// They are not.
    pub async fn start(url: &str) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("crowd")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (Some(orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a child without pipes".into());
        };
        let mut crowd = Self {
            child,
            orders,
            answers: BufReader::new(answers).lines(),
        };
        crowd.move_to(url, Duration::ZERO).await?;
        Ok(crowd)
    }

    /// Everybody leaves and comes again elsewhere, each at a moment of its
    /// own within a time. Returns how long it took until all were there.
    ///
    /// # Errors
    /// They are not.
    pub async fn move_to(&mut self, url: &str, within_time: Duration) -> Result<Duration, Failure> {
        let began = Instant::now();
        let order = format!("{} {url}\n", within_time.as_millis());
        self.orders.write_all(order.as_bytes()).await?;
        let answer = within("a crowd to have moved", self.answers.next_line()).await??;
        match answer.as_deref() {
            Some(THERE) => Ok(began.elapsed()),
            other => Err(format!("the crowd said {other:?}").into()),
        }
    }

    /// Everybody leaves.
    ///
    /// # Errors
    /// The child does not end.
    pub async fn end(mut self) -> Result<(), Failure> {
        drop(self.orders);
        within("a crowd to leave", self.child.wait()).await??;
        Ok(())
    }
}

/// Where everybody has to be.
#[derive(Clone, Debug, Default)]
struct Order {
    url: String,
    within: Duration,
    number: u64,
}

/// The child's side: obeys until its input ends.
///
/// # Errors
/// An order makes no sense, or nobody reads.
pub async fn run() -> Result<ExitCode, Failure> {
    let order = watch::Sender::new(Order::default());
    let (there, mut arrivals) = mpsc::channel(CONNECTIONS);
    for number in 0..CONNECTIONS {
        tokio::spawn(one(number, order.subscribe(), there.clone()));
    }
    let mut orders = orders::lines();
    let mut out = tokio::io::stdout();
    while let Some(line) = orders.recv().await {
        let (millis, url) = line.split_once(' ').ok_or("no order")?;
        let within = Duration::from_millis(millis.parse()?);
        let mut number = 0;
        order.send_modify(|order| {
            order.number += 1;
            number = order.number;
            order.within = within;
            order.url = url.to_owned();
        });
        let mut missing = CONNECTIONS;
        while missing > 0 {
            let arrived = arrivals.recv().await.ok_or("nobody is left")?;
            missing -= usize::from(arrived == number);
        }
        out.write_all(format!("{THERE}\n").as_bytes()).await?;
        out.flush().await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One of them. Says the order's number whenever it is where it has to be.
async fn one(number: usize, mut order: watch::Receiver<Order>, there: mpsc::Sender<u64>) {
    let mut shards: Vec<_> = (0..QUIET).map(|n| quiet(number * QUIET + n)).collect();
    if number.is_multiple_of(LISTENING) {
        shards.push(shards::id(*shards::TABLES.start()));
    }
    let name = format!("crowd-{number}");
    loop {
        let now = order.borrow_and_update().clone();
        let stay = async {
            if now.number == 0 {
                return std::future::pending().await;
            }
            let millis = u64::try_from(now.within.as_millis()).unwrap_or(u64::MAX);
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..=millis))).await;
            let mut arrival = Arrival {
                there: there.clone(),
                number: now.number,
                was_said: false,
            };
            loop {
                // Whatever ends it: it comes again.
                let _: Result<(), Failure> = if number.is_multiple_of(2) {
                    v0(&name, &now.url, &shards, &mut arrival).await
                } else {
                    v1(&name, &now.url, &shards, &mut arrival).await
                };
                tokio::time::sleep(RETRY).await;
            }
        };
        tokio::select! {
            () = stay => {}
            changed = order.changed() => if changed.is_err() { return },
        }
    }
}

/// Says once that one is where it has to be.
struct Arrival {
    there: mpsc::Sender<u64>,
    number: u64,
    was_said: bool,
}

impl Arrival {
    async fn say(&mut self) {
        if !std::mem::replace(&mut self.was_said, true) {
            // Nobody waits: the crowd leaves.
            let _ = self.there.send(self.number).await;
        }
    }
}

fn quiet(number: usize) -> ShardId {
    let mut bytes = [0xc0; 16];
    bytes[8..].copy_from_slice(&(number as u64).to_be_bytes());
    ShardId::new(bytes)
}

async fn v0(
    name: &str,
    url: &str,
    shards: &[ShardId],
    arrival: &mut Arrival,
) -> Result<(), Failure> {
    let (sender, mut receiver) = Peer::connect(url, name).await?.split();
    for shard in shards {
        sender.subscribe(*shard).await?;
    }
    arrival.say().await;
    while receiver.receive_push().await?.is_some() {}
    Ok(())
}

async fn v1(
    name: &str,
    url: &str,
    shards: &[ShardId],
    arrival: &mut Arrival,
) -> Result<(), Failure> {
    let config = Config::new(url)?
        .client_name(name)
        .role("crowd")
        .mode(Mode::ReadOnly);
    let (client, mut events) = connect(config);
    let _tokens: Vec<_> = shards.iter().map(|shard| client.subscribe(shard)).collect();
    while let Some(event) = events.next().await {
        if let Event::Connected { .. } = event {
            arrival.say().await;
        }
    }
    Ok(())
}
