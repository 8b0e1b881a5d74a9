//! A model process: the child's side. It obeys orders that come as lines on
//! its standard input, and reports on its standard output what happens in it.
//! When its input ends, it ends.

pub(super) mod orders;
mod pubsub;
mod writing;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::time::MissedTickBehavior;

use self::pubsub::Pubsub;
use self::writing::Writers;
use super::cache::Cache;
use super::consensus::Consensus;
use super::content::Content;
use super::record::{How, Record};
use super::shards::{self, Number, Role};
use super::{Failure, now};
use crate::v0_client::POLL;

/// How often what happened is reported.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// How often is looked for what is to be polled.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Who the process is.
#[derive(Clone, Debug, clap::Args)]
pub struct Who {
    /// Its name: the caller id, the client's name.
    #[arg(long)]
    pub name: String,
    /// Its generation.
    #[arg(long)]
    pub generation: u64,
    /// What it is.
    #[arg(long)]
    pub role: Role,
    /// The wire version that it speaks.
    #[arg(long)]
    pub wire: Wire,
    /// The pubsub server, if there is one.
    #[arg(long)]
    pub pubsub: Option<String>,
    /// The consensus store.
    #[arg(long)]
    pub store: String,
    /// It begins read-only, and writes once it is promoted.
    #[arg(long)]
    pub read_only: bool,
}

/// A wire version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Wire {
    /// That of deployed processes.
    V0,
    /// That of the client crate.
    V1,
}

/// What everything in the process uses.
pub(super) struct Process {
    who: Who,
    store: Consensus,
    cache: Cache,
}

impl Process {
    /// Brings a state up to date. Whether there was anything new.
    async fn fetch(&self, shard: Number, how: How) -> bool {
        let Some((state, _)) = self.cache.position(shard) else {
            return false;
        };
        match self.store.since(shard, state).await {
            Ok(rows) => self.cache.read(shard, &rows, how) > 0,
            Err(why) => {
                self.wrong(&format!("the store did not answer: {why}"));
                false
            }
        }
    }

    fn wrong(&self, what: &str) {
        let what = what.to_owned();
        self.cache.record(Record::Wrong { at: now(), what });
    }
}

/// Runs one, until it is told to quit, is fenced out, or nobody is left to
/// tell it anything.
///
/// # Errors
/// There is no store, or an order makes no sense.
pub async fn run(who: Who) -> Result<ExitCode, Failure> {
    let process = Arc::new(Process {
        store: Consensus::connect(&who.store).await?,
        cache: Cache::new(who.generation),
        who,
    });
    let mut reporting = tokio::spawn(report(Arc::clone(&process)));
    let polling = tokio::spawn(poll(Arc::clone(&process)));
    let mut pubsub = Pubsub::start(&process)?;
    let writers = Writers::start(&process, pubsub.publisher());
    let ended: Result<(), Failure> = tokio::select! {
        ended = obey(&process, &mut pubsub, &writers) => ended,
        by = process.cache.fenced() => {
            let why = format!("the catalog: by generation {by}");
            process.cache.record(Record::Fenced { at: now(), why });
            Ok(())
        }
        // Nobody listens: the drill is gone.
        _ = &mut reporting => Ok(()),
    };
    writers.stop().await;
    pubsub.end().await;
    polling.abort();
    reporting.abort();
    let _ = reporting.await;
    write(&process).await?;
    ended.map(|()| ExitCode::SUCCESS)
}

/// Orders, until the last.
async fn obey(
    process: &Arc<Process>,
    pubsub: &mut Pubsub,
    writers: &Writers,
) -> Result<(), Failure> {
    let mut lines = orders::lines();
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            why = pubsub.fenced() => {
                process.cache.record(Record::Fenced { at: now(), why });
                return Ok(());
            }
        };
        let Some(line) = line else { return Ok(()) };
        let words: Vec<_> = line.split(' ').collect();
        let number = |at: usize| -> Result<u64, Failure> {
            let word = words.get(at).ok_or_else(|| format!("no order: {line:?}"))?;
            Ok(word.parse()?)
        };
        let order = number(0)?;
        match words.get(1).copied().unwrap_or_default() {
            "follow" => {
                for shard in number(2)?..=number(3)? {
                    pubsub.follow(process, Number::try_from(shard)?).await;
                }
            }
            "leave" => pubsub.leave(process, Number::try_from(number(2)?)?),
            "write" => {
                let shards = Number::try_from(number(2)?)?..=Number::try_from(number(3)?)?;
                writers.pace(shards, Duration::from_millis(number(4)?));
            }
            "promote" => pubsub.promote(),
            "fence" => {
                let fence = number(2)?;
                writers.commit(shards::CATALOG, fence).await;
            }
            "quit" => return Ok(()),
            _ => return Err(format!("no order: {line:?}").into()),
        }
        process.cache.record(Record::Done { at: now(), order });
    }
}

/// Reads every shard of which nothing was heard for as long as a poll takes.
async fn poll(process: Arc<Process>) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        for shard in process.cache.still(POLL) {
            process.fetch(shard, How::Polled).await;
        }
    }
}

async fn report(process: Arc<Process>) -> std::io::Result<()> {
    let mut ticks = tokio::time::interval(REPORT_EVERY);
    loop {
        ticks.tick().await;
        write(&process).await?;
    }
}

async fn write(process: &Process) -> std::io::Result<()> {
    let mut text = String::new();
    for record in process.cache.take_records() {
        text.push_str(&record.to_string());
        text.push('\n');
    }
    let mut out = tokio::io::stdout();
    out.write_all(text.as_bytes()).await?;
    out.flush().await
}

/// The next diff of a shard whose digest is `after`.
fn content(process: &Process, after: super::content::Digest, fence: u64) -> Content {
    Content {
        generation: process.who.generation,
        fence,
        after,
    }
}
