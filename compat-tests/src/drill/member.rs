//! A model process, as the drill sees it: a child that takes orders and
//! reports.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStdin, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Failure;
use super::process::{Who, Wire};
use super::record::{How, Record};
use super::shards::Number;
use crate::wait::within;

/// A process at work. Dropping it kills the child.
#[derive(Debug)]
pub struct Member {
    who: Who,
    child: tokio::process::Child,
    orders: ChildStdin,
    last_order: u64,
    seen: watch::Receiver<Seen>,
    reading: JoinHandle<Result<Vec<Record>, Failure>>,
}

/// What it has reported, as far as the drill waits for it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Its states.
    pub states: BTreeMap<Number, u64>,
    /// The session that it has; 0 for none.
    pub session: u64,
    /// Sessions that began.
    pub sessions: u64,
    /// The last order that it has carried out.
    done: u64,
    /// Why it was fenced out.
    pub fenced: Option<String>,
    /// Its output has ended.
    ended: bool,
}

impl Seen {
    fn take(&mut self, record: &Record) {
        match record {
            Record::Moved {
                shard, seqno, how, ..
            } => {
                let state = self.states.entry(*shard).or_default();
                // One that read a shard anew begins below.
                *state = if *how == How::Read {
                    *seqno
                } else {
                    (*state).max(*seqno)
                };
            }
            Record::Up { session, .. } => {
                self.session = *session;
                self.sessions = *session;
            }
            Record::Down { .. } => self.session = 0,
            Record::Fenced { why, .. } => self.fenced = Some(why.clone()),
            Record::Done { order, .. } => self.done = *order,
            Record::Discarded { .. } | Record::Wrong { .. } => {}
        }
    }
}

/// All that a process left.
#[derive(Debug)]
pub struct Left {
    /// Who it was.
    pub who: Who,
    /// Everything that happened in it, in order.
    pub records: Vec<Record>,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its standard error.
    pub errors: String,
}

impl Member {
    /// Starts one.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn start(who: Who) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("process");
        command.args(["--name", &who.name, "--store", &who.store]);
        command.args(["--generation", &who.generation.to_string()]);
        command.args(["--role", who.role.name()]);
        command.args(["--wire", if who.wire == Wire::V0 { "v0" } else { "v1" }]);
        if let Some(url) = &who.pubsub {
            command.args(["--pubsub", url]);
        }
        if who.read_only {
            command.arg("--read-only");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (Some(orders), Some(out)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a child without pipes".into());
        };
        let see = watch::Sender::new(Seen::default());
        let seen = see.subscribe();
        let reading = tokio::spawn(async move {
            let mut lines = BufReader::new(out).lines();
            let mut records = Vec::new();
            while let Some(line) = lines.next_line().await? {
                let record: Record = line.parse()?;
                see.send_modify(|seen| seen.take(&record));
                records.push(record);
            }
            see.send_modify(|seen| seen.ended = true);
            Ok(records)
        });
        Ok(Self {
            who,
            child,
            orders,
            last_order: 0,
            seen,
            reading,
        })
    }

    /// Who it is.
    #[must_use]
    pub fn who(&self) -> &Who {
        &self.who
    }

    /// What it has reported so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Waits until it has reported what is wanted.
    ///
    /// # Errors
    /// It does not, or ends before.
    pub async fn wait(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(&Seen) -> bool,
    ) -> Result<(), Failure> {
        let what = format!("{} {what}", self.who.name);
        let mut is_so = false;
        let seen = self.seen.wait_for(|seen| {
            is_so = wanted(seen);
            is_so || seen.ended
        });
        // The end of the output is told before the sender goes.
        let _ = within(&what, seen).await?;
        if is_so {
            Ok(())
        } else {
            Err(format!("{what}: it has ended").into())
        }
    }

    /// Follows these shards: reads their states, then subscribes.
    ///
    /// # Errors
    /// It has ended.
    pub async fn follow(&mut self, shards: RangeInclusive<Number>) -> Result<(), Failure> {
        let (first, last) = shards.into_inner();
        self.order(&format!("follow {first} {last}")).await
    }

    /// Follows a shard no more.
    ///
    /// # Errors
    /// It has ended.
    pub async fn leave(&mut self, shard: Number) -> Result<(), Failure> {
        self.order(&format!("leave {shard}")).await
    }

    /// Writes these shards at this pace from now on, if its role writes them;
    /// zero: not at all.
    ///
    /// # Errors
    /// It has ended.
    pub async fn write(
        &mut self,
        shards: RangeInclusive<Number>,
        pace: Duration,
    ) -> Result<(), Failure> {
        let (first, last) = shards.into_inner();
        let pace = pace.as_millis();
        self.order(&format!("write {first} {last} {pace}")).await
    }

    /// May write from now on.
    ///
    /// # Errors
    /// It has ended.
    pub async fn promote(&mut self) -> Result<(), Failure> {
        self.order("promote").await
    }

    /// Writes to the catalog that generations below this are fenced out.
    ///
    /// # Errors
    /// It has ended.
    pub async fn fence(&mut self, below: u64) -> Result<(), Failure> {
        self.order(&format!("fence {below}")).await
    }

    /// Gives an order, and waits until it is carried out.
    async fn order(&mut self, order: &str) -> Result<(), Failure> {
        self.last_order += 1;
        let number = self.last_order;
        let line = format!("{number} {order}\n");
        let said = self.orders.write_all(line.as_bytes()).await;
        said.map_err(|why| format!("{} cannot be told to {order}: {why}", self.who.name))?;
        self.wait(&format!("to {order}"), |seen| seen.done >= number)
            .await
    }

    /// Tells it to end, and waits until it has.
    ///
    /// # Errors
    /// It does not end.
    pub async fn quit(mut self) -> Result<Left, Failure> {
        self.last_order += 1;
        let line = format!("{} quit\n", self.last_order);
        // It may have ended by itself.
        let _ = self.orders.write_all(line.as_bytes()).await;
        self.left().await
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// It does not end.
    pub async fn left(self) -> Result<Left, Failure> {
        let Self {
            who,
            child,
            orders,
            reading,
            ..
        } = self;
        let what = format!("{} to end", who.name);
        let output = within(&what, child.wait_with_output()).await??;
        drop(orders);
        let records = within(&what, reading).await???;
        Ok(Left {
            who,
            records,
            status: output.status,
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}
