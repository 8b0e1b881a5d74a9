//! A client of some kind at work, and what it hears.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use persist_pubsub_proto::ShardId;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::server::Failure;
use crate::recording::Push;
use crate::v0_client::{Connection, Host, Order, Orders};
use crate::v0_peer::PeerError;
use crate::wait::within;

/// Which generation every client under test is of. Of a v0 client the server
/// knows it by its name.
pub const GENERATION: u64 = 7;
/// What is heard and not yet asked for: more than a scenario has.
const HEARD: usize = 4_096;

/// A kind of client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientKind {
    /// What deployed processes sent, as it was recorded.
    V0Recorded,
    /// One that behaves as deployed ones do.
    V0Scripted,
    /// The client crate of a release, and the program built with it.
    Released(String, PathBuf),
    /// This workspace's, likewise.
    Today(PathBuf),
}

impl ClientKind {
    /// As the table shows it.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::V0Recorded => "v0, recorded".to_owned(),
            Self::V0Scripted => "v0, scripted".to_owned(),
            Self::Released(version, _) => format!("client {version}"),
            Self::Today(_) => "client of today".to_owned(),
        }
    }

    /// Whether it is the client crate.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Released(..) | Self::Today(_))
    }
}

/// What a client hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A diff.
    Diff(ShardId, u64, Bytes),
    /// These diffs will not come.
    Gap(ShardId, u64, u64),
    /// What was missed is not known.
    Resync(ShardId),
    /// A session began, in this wire version.
    Connected(String),
    /// It is over.
    Disconnected(String),
    /// The generation is fenced out.
    Fenced(u64),
}

/// One at work. Dropping it ends it.
pub struct Client {
    way: Way,
    heard: mpsc::Receiver<Heard>,
}

enum Way {
    V0 {
        orders: Orders,
        shards: std::sync::Arc<Deployed>,
        task: JoinHandle<()>,
    },
    Crate {
        _child: Box<Child>,
        orders: ChildStdin,
        reading: JoinHandle<()>,
    },
}

impl Client {
    /// Starts one, and waits until it has a session.
    ///
    /// # Errors
    /// It has not.
    pub async fn start(kind: &ClientKind, url: &str) -> Result<Self, Failure> {
        let (hear, heard) = mpsc::channel(HEARD);
        let name = "matrix-client";
        let way = match kind {
            ClientKind::V0Recorded => return Err("a recording takes no orders".into()),
            ClientKind::V0Scripted => {
                let (orders, connection) = Connection::new(url, name, None);
                let shards = std::sync::Arc::new(Deployed {
                    shards: Mutex::default(),
                    hear,
                });
                let host = std::sync::Arc::clone(&shards);
                let task = tokio::spawn(async move { connection.run(&*host).await });
                Way::V0 {
                    orders,
                    shards,
                    task,
                }
            }
            ClientKind::Released(_, program) | ClientKind::Today(program) => {
                let mut child = Command::new(program)
                    .args([url, name, &GENERATION.to_string()])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .kill_on_drop(true)
                    .spawn()?;
                let (Some(orders), Some(out)) = (child.stdin.take(), child.stdout.take()) else {
                    return Err("a child without pipes".into());
                };
                let reading = tokio::spawn(async move {
                    let mut lines = BufReader::new(out).lines();
                    while let Ok(Some(line)) = lines.next_line().await {
                        let Some(heard) = parse(&line) else { return };
                        if hear.send(heard).await.is_err() {
                            return;
                        }
                    }
                });
                Way::Crate {
                    _child: Box::new(child),
                    orders,
                    reading,
                }
            }
        };
        let mut client = Self { way, heard };
        client.connected().await?;
        Ok(client)
    }

    /// Follows a shard from a state.
    ///
    /// # Errors
    /// It has ended.
    pub async fn subscribe(&mut self, shard: ShardId, state: u64) -> Result<(), Failure> {
        match &mut self.way {
            Way::V0 { orders, shards, .. } => {
                shards.all().insert(shard);
                orders.give(Order::Follow(shard));
                Ok(())
            }
            Way::Crate { orders, .. } => say(orders, format!("subscribe {shard} {state}")).await,
        }
    }

    /// Publishes a diff.
    ///
    /// # Errors
    /// It has ended.
    pub async fn push(&mut self, shard: ShardId, seqno: u64, diff: &Bytes) -> Result<(), Failure> {
        match &mut self.way {
            Way::V0 { orders, .. } => {
                let diff = diff.clone();
                orders.give(Order::Push(Push { shard, seqno, diff }));
                Ok(())
            }
            Way::Crate { orders, .. } => {
                let hex: String = diff.iter().map(|byte| format!("{byte:02x}")).collect();
                say(orders, format!("push {shard} {seqno} {hex}")).await
            }
        }
    }

    /// What it hears next.
    ///
    /// # Errors
    /// Nothing comes.
    pub async fn hear(&mut self, what: &str) -> Result<Heard, Failure> {
        let heard = within(&format!("the client to hear {what}"), self.heard.recv()).await?;
        Ok(heard.ok_or_else(|| format!("the client ended; it had to hear {what}"))?)
    }

    /// What it has heard, if there is something that was not asked for yet.
    pub fn heard(&mut self) -> Option<Heard> {
        self.heard.try_recv().ok()
    }

    /// Hears on until what is wanted, and returns that.
    ///
    /// # Errors
    /// It does not come.
    pub async fn hear_until<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(&Heard) -> Option<T>,
    ) -> Result<T, Failure> {
        loop {
            if let Some(found) = wanted(&self.hear(what).await?) {
                return Ok(found);
            }
        }
    }

    /// Waits until it has a session: the wire version.
    ///
    /// # Errors
    /// It has not.
    pub async fn connected(&mut self) -> Result<String, Failure> {
        self.hear_until("that it is connected", |heard| match heard {
            Heard::Connected(wire) => Some(wire.clone()),
            _ => None,
        })
        .await
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        match &self.way {
            Way::V0 { task, .. } => task.abort(),
            Way::Crate { reading, .. } => reading.abort(),
        }
    }
}

async fn say(orders: &mut ChildStdin, line: String) -> Result<(), Failure> {
    Ok(orders.write_all(format!("{line}\n").as_bytes()).await?)
}

fn parse(line: &str) -> Option<Heard> {
    let (kind, rest) = line.split_once(' ')?;
    let mut words = rest.split(' ');
    Some(match kind {
        "diff" => {
            let (shard, seqno) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            let hex = words.next()?;
            let pairs = (0..hex.len()).step_by(2);
            let byte = |at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
            let diff: Option<Vec<_>> = pairs.map(byte).collect();
            Heard::Diff(shard, seqno, diff?.into())
        }
        "gap" => Heard::Gap(
            words.next()?.parse().ok()?,
            words.next()?.parse().ok()?,
            words.next()?.parse().ok()?,
        ),
        "resync" => Heard::Resync(words.next()?.parse().ok()?),
        "connected" => Heard::Connected(rest.to_owned()),
        "disconnected" => Heard::Disconnected(rest.to_owned()),
        "fenced" => Heard::Fenced(words.next()?.parse().ok()?),
        _ => return None,
    })
}

/// The process of a v0 client: it reads no state, for there is no store here.
struct Deployed {
    shards: Mutex<BTreeSet<ShardId>>,
    hear: mpsc::Sender<Heard>,
}

impl Deployed {
    fn all(&self) -> std::sync::MutexGuard<'_, BTreeSet<ShardId>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, heard: Heard) {
        // More than a scenario has: what is lost is missed, and told.
        let _ = self.hear.try_send(heard);
    }
}

impl Host for Deployed {
    fn shards(&self) -> Vec<ShardId> {
        self.all().iter().copied().collect()
    }

    async fn refresh(&self, _: ShardId) {}

    fn hear(&self, push: Push) {
        self.say(Heard::Diff(push.shard, push.seqno, push.diff));
    }

    fn connected(&self) {
        self.say(Heard::Connected("v0".to_owned()));
    }

    fn lost(&self, why: &PeerError) {
        self.say(Heard::Disconnected(why.to_string()));
    }
}
