//! What a call costs its host. `cargo bench -p persist-pubsub-client`; the
//! figures stand in the README. `tests/all/cost.rs` counts the allocations.
//!
//! `cpu` is what a call costs the thread that makes it: its own processor time,
//! on a busy machine too. `time` is how long the thread needs for one call,
//! while so many make calls at once: on fewer cores than threads that is
//! mostly waiting to run.

// A bench that cannot be set up says so and ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// The tests' peer can do more than read.
#![allow(dead_code, unused_imports)]

#[path = "../tests/all/peer.rs"]
mod peer;
#[path = "../tests/all/script.rs"]
mod script;

use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use persist_pubsub_client::{Client, Events, Mode, ShardId, Subscription, connect};
use rustix::time::{ClockId, Timespec};
use tokio::runtime::Runtime;

use peer::{Peer, V1};

/// What each thread writes, and the host wants. A shard has one writer at a
/// time, and its seqnos are consecutive.
const SHARDS: u64 = 16;
/// Pushes between two looks at whether the network has taken them.
const BURST: u64 = 64;
/// A usual diff, in bytes.
const DIFF: usize = 900;
const THREADS: [u64; 2] = [1, 8];

/// So many calls by one of the threads: what they took, by this clock.
type Calls = fn(&Client, u64, u64, Clock) -> Duration;
/// The time now, from any fixed moment.
type Clock = fn() -> Duration;

fn wall() -> Duration {
    at(rustix::time::clock_gettime(ClockId::Monotonic))
}

/// Of this thread alone.
fn cpu() -> Duration {
    at(rustix::time::clock_gettime(ClockId::ThreadCPUTime))
}

fn at(time: Timespec) -> Duration {
    Duration::try_from(time).unwrap()
}

/// A client, and what keeps it in its condition.
struct Host {
    client: Client,
    _tokens: Vec<Subscription>,
    /// Carries the connection, and the peer's.
    runtime: Runtime,
}

#[derive(Clone, Copy, Debug)]
enum Condition {
    /// A peer reads whatever comes, on the same cores; it has taken one burst
    /// before the next is measured.
    Connected,
    /// Nobody listens; the buffer is full, and every push drops another.
    Offline,
    /// It may not publish.
    ReadOnly,
}

impl Host {
    fn new(condition: Condition) -> Self {
        let runtime = Runtime::new().unwrap();
        let client = runtime.block_on(async {
            let mut peer = Peer::<V1>::start().await;
            let config = peer.config().push_buffer(1 << 20, 1_000);
            match condition {
                Condition::Offline => {
                    let unused = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                    let nobody = peer::config(unused.local_addr().unwrap());
                    drop(unused);
                    let (client, events) = connect(nobody.push_buffer(1 << 20, 1_000));
                    tokio::spawn(hear(events));
                    client
                }
                Condition::Connected | Condition::ReadOnly => {
                    let mode = match condition {
                        Condition::ReadOnly => Mode::ReadOnly,
                        _ => Mode::ReadWrite,
                    };
                    let (client, mut events) = connect(config.mode(mode));
                    let mut session = peer.welcome().await;
                    peer::expect_connected(&mut events).await;
                    tokio::spawn(hear(events));
                    tokio::spawn(async move {
                        session.hear_gone().await;
                        drop(peer);
                    });
                    client
                }
            }
        });
        let tokens = (0..8 * SHARDS).map(|n| client.subscribe(&shard(n)));
        Self {
            _tokens: tokens.collect(),
            client,
            runtime,
        }
    }

    /// How long `iters` calls take on each of so many threads.
    /// The longest of them by the wall's clock; their mean by their own.
    fn on_threads(&self, threads: u64, iters: u64, calls: Calls, clock: Clock) -> Duration {
        let begin = std::sync::Barrier::new(usize::try_from(threads).unwrap());
        let took: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads)
                .map(|thread| {
                    let begin = &begin;
                    scope.spawn(move || {
                        begin.wait();
                        calls(&self.client, thread, iters, clock)
                    })
                })
                .collect();
            let took = threads.into_iter().map(|thread| thread.join().unwrap());
            took.collect()
        });
        if std::ptr::fn_addr_eq(clock, cpu as Clock) {
            took.iter().sum::<Duration>() / u32::try_from(threads).unwrap()
        } else {
            took.into_iter().max().unwrap_or_default()
        }
    }
}

async fn hear(mut events: Events) {
    while events.next().await.is_some() {}
}

fn shard(n: u64) -> ShardId {
    let mut bytes = [7; 16];
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    ShardId::new(bytes)
}

fn pushes(client: &Client, thread: u64, iters: u64, clock: Clock) -> Duration {
    // A thread's own, as each of a host's diffs is.
    let diff = Bytes::from(vec![7; DIFF]);
    let mut took = Duration::ZERO;
    let mut n = 0;
    while n < iters {
        let burst = BURST.min(iters - n);
        let since = clock();
        for n in n..n + burst {
            let shard = shard(thread * SHARDS + n % SHARDS);
            client.push_diff(&shard, n / SHARDS, diff.clone());
        }
        took += clock() - since;
        n += burst;
        while client.stats().connected && client.stats().buffered_bytes > 0 {
            std::thread::yield_now();
        }
    }
    took
}

fn subscribes(client: &Client, thread: u64, iters: u64, clock: Clock) -> Duration {
    let since = clock();
    for n in 0..iters {
        let unknown = (8 + thread) * 1_000 + n % 1_000;
        drop(client.subscribe(&shard(unknown)));
    }
    clock() - since
}

fn shares(client: &Client, thread: u64, iters: u64, clock: Clock) -> Duration {
    let since = clock();
    for n in 0..iters {
        drop(client.subscribe(&shard(thread * SHARDS + n % SHARDS)));
    }
    clock() - since
}

fn measure(criterion: &mut Criterion, name: &str, calls: Calls) {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(1));
    for condition in [
        Condition::Connected,
        Condition::Offline,
        Condition::ReadOnly,
    ] {
        let host = Host::new(condition);
        for threads in THREADS {
            for (name, clock) in [("time", wall as Clock), ("cpu", cpu)] {
                group.bench_function(format!("{condition:?}, {threads} threads, {name}"), |b| {
                    b.iter_custom(|iters| host.on_threads(threads, iters, calls, clock));
                });
            }
        }
    }
    group.finish();
}

fn push_diff(criterion: &mut Criterion) {
    measure(criterion, "push_diff", pushes);
}

fn subscribe(criterion: &mut Criterion) {
    measure(criterion, "subscribe and drop", subscribes);
    measure(criterion, "subscribe and drop, shared", shares);
}

criterion_group!(
    name = calls;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = push_diff, subscribe
);
criterion_main!(calls);
