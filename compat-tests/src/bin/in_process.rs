//! Measures what a diff costs from `push_diff` to its event, in process against
//! loopback TCP: `cargo run --release -p persist-pubsub-compat-tests --bin in_process`.
//!
//! One server, and for each way a client that writes and one that reads, all in
//! this process; so the CPU time is that of server and both clients together.
//! The two ways take turns, because a shared machine's figures move.

use std::time::Duration;

use bytes::Bytes;
use persist_pubsub_client::{Client, Config, Event, Events, Home, Subscription, connect};
use persist_pubsub_proto::ShardId;
use persist_pubsub_server::app;
use tokio::time::Instant;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const DIFF_BYTES: usize = 900;
const TURNS: usize = 5;
/// One diff under way at a time, so many of them a turn.
const ALONE: u64 = 2_000;
/// As many diffs a turn, so many under way.
const SATURATED: u64 = 50_000;
const IN_FLIGHT: u64 = 1_024;

/// A writer and a reader of one shard, and what was measured.
struct Pair {
    name: &'static str,
    shard: ShardId,
    writer: Client,
    _own: Events,
    events: Events,
    _reader: Client,
    _token: Subscription,
    seqno: u64,
    diff: Bytes,
    latencies: Vec<Duration>,
    alone: Cost,
    saturated: Cost,
}

#[derive(Default)]
struct Cost {
    diffs: u64,
    elapsed: Duration,
    cpu: Duration,
}

impl Pair {
    async fn open(name: &'static str, home: Home, shard: u8) -> Result<Self, Failure> {
        let shard = ShardId::new([shard; 16]);
        let (writer, mut own) = connect(Config::with_homes([home.clone()]));
        let (reader, mut events) = connect(Config::with_homes([home]));
        let token = reader.subscribe_from(&shard, 0);
        for events in [&mut own, &mut events] {
            match events.next().await {
                Some(Event::Connected { .. }) => {}
                other => return Err(format!("{other:?} instead of a session").into()),
            }
        }
        // The answer: nothing is known of the shard.
        match events.next().await {
            Some(Event::Resync { .. }) => {}
            other => return Err(format!("{other:?} instead of an answer").into()),
        }
        Ok(Self {
            name,
            shard,
            writer,
            _own: own,
            events,
            _reader: reader,
            _token: token,
            seqno: 0,
            diff: Bytes::from(vec![7; DIFF_BYTES]),
            latencies: Vec::new(),
            alone: Cost::default(),
            saturated: Cost::default(),
        })
    }

    fn push(&mut self) {
        self.seqno += 1;
        self.writer
            .push_diff(&self.shard, self.seqno, self.diff.clone());
    }

    async fn hear(&mut self) -> Result<u64, Failure> {
        match self.events.next().await {
            Some(Event::Diff { seqno, .. }) => Ok(seqno),
            other => Err(format!("{}: {other:?} instead of a diff", self.name).into()),
        }
    }

    async fn alone(&mut self) -> Result<(), Failure> {
        let (began, cpu) = (Instant::now(), cpu_time()?);
        for _ in 0..ALONE {
            let pushed = Instant::now();
            self.push();
            self.hear().await?;
            self.latencies.push(pushed.elapsed());
        }
        self.alone.add(ALONE, began, cpu)
    }

    async fn saturated(&mut self) -> Result<(), Failure> {
        let (began, cpu) = (Instant::now(), cpu_time()?);
        let (first, last) = (self.seqno, self.seqno + SATURATED);
        let mut heard = first;
        while heard < last {
            while self.seqno < last && self.seqno - heard < IN_FLIGHT {
                self.push();
            }
            heard = self.hear().await?;
        }
        self.saturated.add(SATURATED, began, cpu)
    }

    fn report(&mut self) {
        self.latencies.sort_unstable();
        let at = |percent: usize| {
            let index = (self.latencies.len() * percent / 100).min(self.latencies.len() - 1);
            self.latencies[index].as_secs_f64() * 1e6
        };
        println!(
            "{:<10}  alone: p50 {:.1}, p99 {:.1}, max {:.1} us, {:.1} us CPU   saturated: {:.0} diffs/s, {:.2} us CPU",
            self.name,
            at(50),
            at(99),
            at(100),
            self.alone.cpu_each(),
            self.saturated.diffs as f64 / self.saturated.elapsed.as_secs_f64(),
            self.saturated.cpu_each(),
        );
    }
}

impl Cost {
    fn add(&mut self, diffs: u64, began: Instant, cpu: Duration) -> Result<(), Failure> {
        self.diffs += diffs;
        self.elapsed += began.elapsed();
        self.cpu += cpu_time()? - cpu;
        Ok(())
    }

    /// In microseconds.
    fn cpu_each(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.diffs as f64
    }
}

/// CPU time of all threads of this process.
fn cpu_time() -> Result<Duration, Failure> {
    let mut nanos = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let path = task?.path().join("schedstat");
        let stat = std::fs::read_to_string(path)?;
        let first = stat.split(' ').next().ok_or("an empty schedstat")?;
        nanos += first.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanos))
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let config = persist_pubsub_server::config::Config::default();
    let server = app::start(config, std::future::pending()).await?;
    let network = Home::at(&server.data_addr().to_string())?;
    let mut pairs = [
        Pair::open("loopback", network, 1).await?,
        Pair::open("in process", Home::in_process(server.in_process()), 2).await?,
    ];
    for _ in 0..TURNS {
        for pair in &mut pairs {
            pair.alone().await?;
            pair.saturated().await?;
        }
    }
    println!(
        "{DIFF_BYTES}-byte diffs, 1 writer, 1 reader; CPU of server and clients together, each diff"
    );
    pairs.iter_mut().for_each(Pair::report);
    Ok(())
}
