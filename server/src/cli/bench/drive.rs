//! Takes a run from the first connection to the report.

use std::io::{IsTerminal as _, Write as _};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::grpc::Grpc;
use super::load::Load;
use super::meter::{Meter, own_cpu};
use super::nats::Nats;
use super::pace::{Metronome, Pace};
use super::peer::{Job, Peer, Phase, Speaker, buffer};
use super::plan::Plan;
use super::relay::Relay;
use super::report::{Memory, Process, Report};
use super::v0::V0;
use super::v1::V1;
use super::{BenchArgs, Failure, Protocol};
use crate::process::Usage;

/// How long connecting, and subscribing, may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often the server's memory is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How often the progress line is written.
const PROGRESS: Duration = Duration::from_secs(1);
/// How long memory may take to come back when all have gone.
const RETURN: Duration = Duration::from_secs(5);

/// Data ports, as host:port: one server's, or those of two replicas.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) subscribe_at: String,
    pub(super) publish_at: String,
}

/// A run under way.
struct Run<'a> {
    args: &'a BenchArgs,
    load: Rc<Load>,
    meter: &'a Meter,
    /// Of each process that is measured.
    memory: Vec<Memory>,
    /// Ctrl-C came.
    interrupted: bool,
}

pub(super) async fn run(
    args: &BenchArgs,
    plan: Plan,
    places: &Places,
    meter: &Meter,
) -> Result<Report, Failure> {
    let load = Load::new(plan, args.window)?;
    let mut run = Run {
        args,
        load: Rc::clone(&load),
        meter,
        memory: Vec::new(),
        interrupted: false,
    };
    run.look(|memory, resident| memory.before = resident)
        .await?;
    let (phase, heard) = watch::channel(Phase::Connect);
    let stop = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    run.connect(places, &heard, &stop).await?;
    let connections = load.plan.publishers + load.plan.subscribers + load.plan.stalled;
    run.until("every connection to be answered", || {
        load.ready.get() >= connections
    })
    .await?;
    let connect = began.elapsed();
    run.look(|memory, resident| memory.connected = resident)
        .await?;

    let began = Instant::now();
    let _ = phase.send(Phase::Subscribe);
    let wanted = load.plan.subscriptions();
    run.until("every subscription to stand", || {
        load.subscribed.get() >= wanted
    })
    .await?;
    let subscribe = began.elapsed();
    run.look(|memory, resident| memory.subscribed = resident)
        .await?;

    let _ = phase.send(Phase::Push);
    let _metronome = args
        .rate
        .map(|rate| Metronome::start(rate, args.burst, &load.may_push));
    run.pass(args.warmup).await?;
    let warm = load.counts.get();
    load.latencies.borrow_mut().reset();
    load.latest_push.set(0);
    let (usage, own, began) = (meter.read().await?, own_cpu(), Instant::now());
    run.pass(args.duration).await?;
    let pushing = began.elapsed();
    stop.store(true, Ordering::Relaxed);
    let _ = phase.send(Phase::Settle);
    run.settle().await?;
    let took = began.elapsed();
    let own = own_cpu().saturating_sub(own);
    let after = run
        .look(|memory, resident| memory.loaded = resident)
        .await?;
    drop((phase, heard));
    run.after_all().await?;

    let counts = load.counts.get();
    let latencies = load.latencies.borrow().clone();
    Ok(Report {
        wire: args.wire,
        counts: counts.since(&warm),
        whole: counts,
        latencies,
        latest_push: Duration::from_nanos(load.latest_push.get()),
        connect,
        subscribe,
        pushing,
        took,
        own,
        processes: usage
            .iter()
            .zip(&after)
            .zip(run.memory)
            .map(|((before, after), memory)| Process {
                cpu: after.cpu.saturating_sub(before.cpu),
                memory,
            })
            .collect(),
        interrupted: run.interrupted,
        connections,
        subscriptions: wanted,
        shards: load.plan.shards,
    })
}

impl Run<'_> {
    async fn connect(
        &self,
        places: &Places,
        phase: &watch::Receiver<Phase>,
        stop: &Arc<AtomicBool>,
    ) -> Result<(), Failure> {
        let load = &self.load;
        let plan = &load.plan;
        let buffer = buffer();
        let pace = |publisher| match self.args.rate {
            None => Pace::saturating(stop),
            Some(rate) => Pace::steady(rate, self.args.burst, publisher, plan.publishers, stop),
        };
        let publishers = (0..plan.publishers).map(|index| Job::Publisher {
            index,
            pace: pace(index),
        });
        let subscribers = (0..plan.subscribers).map(|index| Job::Subscriber { index });
        let stalled = (0..plan.stalled).map(|_| Job::Stalled);
        for (n, job) in publishers.chain(subscribers).chain(stalled).enumerate() {
            let address = match &job {
                Job::Publisher { .. } => &places.publish_at,
                Job::Subscriber { .. } | Job::Stalled => &places.subscribe_at,
            };
            let stream = TcpStream::connect(address)
                .await
                .map_err(|e| format!("cannot reach {address}: {e}"))?;
            stream.set_nodelay(true)?;
            let shards = match &job {
                Job::Publisher { .. } => None,
                Job::Subscriber { index } => Some(plan.followed(*index).collect()),
                Job::Stalled => Some(plan.followed(n).collect()),
            };
            let caller = format!("persist-pubsub bench {n}");
            match self.args.wire {
                Protocol::V0 => {
                    let v0 = V0::new(Rc::clone(load), shards);
                    self.spawn(Grpc::new(v0, address, caller), stream, job, phase, &buffer);
                }
                Protocol::V1 => {
                    let v1 = V1::new(Rc::clone(load), shards);
                    self.spawn(Grpc::new(v1, address, caller), stream, job, phase, &buffer);
                }
                Protocol::Nats => {
                    let nats = Nats::new(Rc::clone(load), shards);
                    self.spawn(nats, stream, job, phase, &buffer);
                }
                Protocol::Relay => {
                    let relay = Relay::new(shards.map(|shards| shards.len()));
                    self.spawn(relay, stream, job, phase, &buffer);
                }
            }
        }
        Ok(())
    }

    fn spawn(
        &self,
        speaker: impl Speaker + 'static,
        stream: TcpStream,
        job: Job,
        phase: &watch::Receiver<Phase>,
        buffer: &Rc<std::cell::RefCell<Vec<u8>>>,
    ) {
        let load = Rc::clone(&self.load);
        let peer = Peer::new(load, speaker, stream, job, phase.clone(), Rc::clone(buffer));
        // Ends when the phases do.
        tokio::task::spawn_local(peer.run());
    }

    /// Remembers how much memory each process has now.
    async fn look(&mut self, remember: impl Fn(&mut Memory, u64)) -> Result<Vec<Usage>, Failure> {
        let usages = self.meter.read().await?;
        self.memory.resize(usages.len(), Memory::default());
        for (memory, usage) in self.memory.iter_mut().zip(&usages) {
            remember(memory, usage.resident);
        }
        Ok(usages)
    }

    fn check(&self) -> Result<(), Failure> {
        self.load.failure().map_or(Ok(()), Err)
    }

    /// Waits for what the connections do.
    async fn until(&self, what: &str, done: impl Fn() -> bool) -> Result<(), Failure> {
        let waiting = async {
            while !done() {
                self.check()?;
                tokio::select! {
                    () = self.load.changed.notified() => {}
                    _ = tokio::signal::ctrl_c() => return Err("interrupted".into()),
                }
            }
            Ok(())
        };
        tokio::time::timeout(PATIENCE, waiting)
            .await
            .map_err(|_| format!("waited {PATIENCE:?} for {what}"))?
    }

    /// Lets time pass, and looks now and then. Ctrl-C ends it early.
    async fn pass(&mut self, time: Duration) -> Result<(), Failure> {
        let end = Instant::now() + time;
        let mut looks = tokio::time::interval(LOOK);
        let mut progress = Progress::new(&self.load);
        while !self.interrupted {
            tokio::select! {
                () = tokio::time::sleep_until(end) => break,
                _ = tokio::signal::ctrl_c() => self.interrupted = true,
                _ = looks.tick() => {
                    self.check()?;
                    self.look(|memory, resident| memory.peak = memory.peak.max(resident))
                        .await?;
                    progress.show(&self.load, end.saturating_duration_since(Instant::now()));
                }
            }
        }
        progress.clear();
        Ok(())
    }

    /// Waits for what is on its way, as long as that may take.
    async fn settle(&mut self) -> Result<(), Failure> {
        let end = Instant::now() + self.args.settle;
        while !self.load.is_complete() {
            self.check()?;
            tokio::select! {
                () = self.load.changed.notified() => {}
                () = tokio::time::sleep_until(end) => break,
                _ = tokio::signal::ctrl_c() => {
                    self.interrupted = true;
                    break;
                }
            }
        }
        Ok(())
    }

    /// The server's memory when the connections have gone, once it does not
    /// change any more.
    async fn after_all(&mut self) -> Result<(), Failure> {
        let end = Instant::now() + RETURN;
        let (mut last, mut same) = (u64::MAX, 0);
        while same < 4 && Instant::now() < end {
            let usages = self.look(|memory, resident| memory.gone = resident).await?;
            if usages.is_empty() {
                break;
            }
            let now = usages.iter().map(|usage| usage.resident).sum::<u64>();
            same = if now.abs_diff(last) <= last / 100 {
                same + 1
            } else {
                0
            };
            last = now;
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

/// A line on the terminal, if there is one, written over and over.
struct Progress {
    on: bool,
    at: Instant,
    pushed: u64,
    delivered: u64,
}

impl Progress {
    fn new(load: &Load) -> Self {
        let counts = load.counts.get();
        Self {
            on: std::io::stderr().is_terminal(),
            at: Instant::now(),
            pushed: counts.pushed,
            delivered: counts.delivered,
        }
    }

    fn show(&mut self, load: &Load, left: Duration) {
        let took = self.at.elapsed();
        if !self.on || took < PROGRESS {
            return;
        }
        let counts = load.counts.get();
        let per_second =
            |n: u64| n * 1000 / u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut lately = load.lately.borrow_mut();
        // A terminal that has gone is no reason to stop.
        let _ = write!(
            std::io::stderr(),
            "\r\x1b[K{} pushes/s  {} deliveries/s  p50 {} us  p99 {} us  {} s left",
            per_second(counts.pushed - self.pushed),
            per_second(counts.delivered - self.delivered),
            lately.value_at_quantile(0.5) / 1000,
            lately.value_at_quantile(0.99) / 1000,
            left.as_secs(),
        );
        lately.reset();
        (self.at, self.pushed, self.delivered) = (Instant::now(), counts.pushed, counts.delivered);
    }

    fn clear(&self) {
        if self.on {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
