//! What single steps cost: `cargo bench -p persist-pubsub-server`. What the
//! whole costs, `compat-tests/bench.sh` tells.
#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up says so"
)]

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use persist_pubsub_server::probe::{self, Fan};

const DIFF: usize = 900;
/// Diffs that wait for a session in `drain`.
const WAITING: usize = 64;

fn wire(v1: bool) -> &'static str {
    if v1 { "v1" } else { "v0" }
}

/// A publication, from its bytes to the log, with so many to be marked who
/// have read everything before.
fn publish(c: &mut Criterion) {
    let mut group = c.benchmark_group("publish-and-mark");
    for v1 in [false, true] {
        for subscribers in [0, 1, 10, 100] {
            let mut fan = Fan::new(v1, subscribers, DIFF).unwrap();
            let id = BenchmarkId::new(wire(v1), subscribers);
            group.bench_function(id, |b| {
                b.iter_custom(|times| {
                    let mut took = std::time::Duration::ZERO;
                    for _ in 0..times {
                        let message = fan.message();
                        let began = tokio::time::Instant::now();
                        assert!(fan.publish(&message));
                        took += began.elapsed();
                        assert!(subscribers == 0 || fan.drain() > 0);
                    }
                    took
                });
            });
        }
    }
}

/// What one socket is given of diffs that have been published.
fn drain(c: &mut Criterion) {
    let mut group = c.benchmark_group("drain-64");
    group.throughput(Throughput::Elements(WAITING as u64));
    for v1 in [false, true] {
        let mut fan = Fan::new(v1, 1, DIFF).unwrap();
        group.bench_function(wire(v1), |b| {
            b.iter_custom(|times| {
                let mut took = std::time::Duration::ZERO;
                for _ in 0..times {
                    for _ in 0..WAITING {
                        let message = fan.message();
                        assert!(fan.publish(&message));
                    }
                    let began = tokio::time::Instant::now();
                    assert!(fan.drain() > WAITING * DIFF);
                    took += began.elapsed();
                }
                took
            });
        });
    }
}

/// A message as it comes, and the frames that subscribers of both wire
/// versions are sent of it.
fn codecs(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec");
    let messages = [false, true].map(|v1| Fan::new(v1, 0, DIFF).unwrap().message());
    let [v0, v1] = messages;
    group.bench_function("v0-to-both", |b| {
        b.iter(|| probe::read_v0(&v0).unwrap());
    });
    group.bench_function("v1-to-both", |b| {
        b.iter(|| probe::spelled_v1(&v1).unwrap());
    });
    let mut body = Vec::new();
    for _ in 0..WAITING {
        body.push(0);
        body.extend_from_slice(&u32::try_from(v1.len()).unwrap().to_be_bytes());
        body.extend_from_slice(&v1);
    }
    let chunks: Vec<Bytes> = body.chunks(16_384).map(Bytes::copy_from_slice).collect();
    group.throughput(Throughput::Elements(WAITING as u64));
    group.bench_function("cut-64", |b| {
        b.iter_batched(
            || chunks.clone(),
            |chunks| probe::cut(1 << 20, chunks),
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, publish, drain, codecs);
criterion_main!(benches);
