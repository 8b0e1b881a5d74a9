//! Whole sessions: the bytes are a sequence of what hostile clients do to one
//! server, over several connections and in both wire versions, beside honest
//! ones. Nothing panics, bounds hold, the honest ones are served, and when all
//! have gone everything has been given back.

mod bystander;
mod peer;
mod server;

use std::cell::Cell;
use std::sync::Once;
use std::time::Duration;

use persist_pubsub_proto::v0::proto_pub_sub_message::Message as V0;
use persist_pubsub_proto::v1::session_request::Message as V1;
use persist_pubsub_proto::{ShardId, v0, v1};
use tokio::io::{AsyncWriteExt as _, DuplexStream};

use super::byte;
use crate::raw_connection::PREFACE;
use crate::v1_peer::hello;
use bystander::{Bystanders, SHARD, v0_message};
use peer::{Connection, Stream, request};
use server::{InMemory, Metrics};

/// Commands in a run.
const COMMANDS: usize = 100;
/// Hostile connections and streams at a time.
const CONNECTIONS: usize = 3;
const STREAMS: usize = 8;
/// A step of the clock.
const STEP: Duration = Duration::from_millis(20);
/// Longer than anything takes to be given back: an ended stream lingers for
/// 5 s, and the log keeps diffs for 2 s.
const AFTERWARDS: Duration = Duration::from_secs(15);

thread_local! {
    /// Panics on this thread, which is all there is of a run: tokio catches
    /// those of tasks.
    static PANICS: Cell<u32> = const { Cell::new(0) };
}

/// Runs the target.
///
/// # Panics
/// When something does not hold.
pub fn run(data: &[u8]) {
    count_panics();
    PANICS.set(0);
    // What is left to chance is the same in every run.
    fastrand::seed(1);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(Box::pin(play(data))),
        Err(error) => panic!("{error}"),
    }
    assert_eq!(PANICS.get(), 0, "a task panicked");
}

fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            before(info);
        }));
    });
}

/// Returns when nobody has anything to do any more: the clock moves only then.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

async fn play(mut data: &[u8]) {
    let server = InMemory::start().await;
    let mut bystanders = Bystanders::meet(&server).await;
    let mut hostile = Hostile::default();
    for _ in 0..COMMANDS {
        if data.is_empty() {
            break;
        }
        let command = byte(&mut data);
        if command % 16 == 15 {
            bystanders.are_served().await;
            bounds_hold(&server, &server.metrics().await);
        } else {
            hostile.act(command % 16, &server, &mut data).await;
            settle().await;
        }
    }
    bystanders.are_served().await;
    bounds_hold(&server, &server.metrics().await);
    drop(hostile);
    settle().await;
    bystanders.are_served().await;
    drop(bystanders);
    tokio::time::sleep(AFTERWARDS).await;
    everything_is_given_back(&server.metrics().await);
    server.stop().await;
}

fn bounds_hold(server: &InMemory, metrics: &Metrics) {
    let config = &server.config;
    let subscriptions = config.max_sessions * config.max_subscriptions_per_session;
    for (gauge, bound) in [
        ("persist_pubsub_connections", config.max_connections),
        ("persist_pubsub_handshakes", config.max_handshakes),
        ("persist_pubsub_shards", config.max_shards),
        ("persist_pubsub_log_bytes", config.log_bytes_total),
        ("persist_pubsub_subscriptions", subscriptions),
        (
            "mz_persist_pubsub_server_active_connections",
            config.max_sessions,
        ),
    ] {
        let value = metrics.gauge(gauge);
        assert!(value <= bound, "{gauge}: {value} of {bound}");
    }
}

fn everything_is_given_back(metrics: &Metrics) {
    for gauge in [
        "persist_pubsub_connections",
        "persist_pubsub_handshakes",
        "persist_pubsub_shards",
        "persist_pubsub_log_bytes",
        "persist_pubsub_subscriptions",
        "mz_persist_pubsub_server_active_connections",
    ] {
        assert_eq!(metrics.gauge(gauge), 0, "{gauge} when all have gone");
    }
}

/// Everybody who means ill.
#[derive(Default)]
struct Hostile {
    // Dropped before the connections that they are on.
    streams: [Option<Stream>; STREAMS],
    connections: [Option<Connection>; CONNECTIONS],
    raw: Option<DuplexStream>,
}

impl Hostile {
    /// Does what the next bytes say.
    async fn act(&mut self, command: u8, server: &InMemory, data: &mut &[u8]) {
        let which = byte(data);
        match command {
            0 | 1 => self.open(command == 1, which, server).await,
            2 => {
                // Above HTTP/2's handshake: whatever bytes.
                if self.raw.is_none() {
                    self.raw = server.connect();
                }
                let bytes = [PREFACE, take(data)].concat();
                self.write_raw(&bytes[usize::from(which) % 2 * PREFACE.len()..])
                    .await;
            }
            3 => self.raw = None,
            4 => self.connections[usize::from(which) % CONNECTIONS] = None,
            5 => tokio::time::sleep(STEP * u32::from(which)).await,
            6 => self.streams[usize::from(which) % STREAMS] = None,
            _ => {
                let stream = &mut self.streams[usize::from(which) % STREAMS];
                if let Some(stream) = stream {
                    speak(stream, command, data);
                }
            }
        }
    }

    async fn open(&mut self, v1: bool, which: u8, server: &InMemory) {
        let connection = &mut self.connections[usize::from(which) % CONNECTIONS];
        if connection.is_none()
            && let Some(pipe) = server.connect()
        {
            *connection = Connection::new(pipe).await;
        }
        // The server's settings have come: they bound what may be opened.
        settle().await;
        if let Some(connection) = connection {
            self.streams[usize::from(which / 3) % STREAMS] = connection.open(v1);
        }
    }

    /// Writes as much as the pipe takes.
    async fn write_raw(&mut self, bytes: &[u8]) {
        if let Some(raw) = &mut self.raw {
            let patience = Duration::from_secs(1);
            let written = tokio::time::timeout(patience, raw.write_all(bytes)).await;
            if !matches!(written, Ok(Ok(()))) {
                self.raw = None;
            }
        }
    }
}

/// Says something on a stream, or ends it.
fn speak(stream: &mut Stream, command: u8, data: &mut &[u8]) {
    match command {
        7 => stream.reset(),
        8 => stream.half_close(),
        9 => drop(stream.read()),
        10 => stream.send(take(data).to_vec()),
        11 => {
            let message = take(data);
            stream.say(message);
        }
        12 if stream.v1 => {
            let kind = byte(data);
            let mut hello = hello("hostile");
            hello.mode = i32::from(kind % 4);
            hello.max_revision = u32::from(kind / 4 % 4);
            hello.environment_id =
                ["", "default", "other", "another"][usize::from(kind / 16 % 4)].to_owned();
            stream.say(&request(V1::Hello(hello)));
        }
        13 => publish(stream, data),
        _ => subscribe(stream, data),
    }
}

/// A shard of a few; of these, one is the bystanders'.
fn shard(byte: u8) -> ShardId {
    match byte % 16 {
        0 => SHARD,
        n => ShardId::new([n; 16]),
    }
}

fn publish(stream: &mut Stream, data: &mut &[u8]) {
    let (which, seqno, size) = (byte(data), byte(data), byte(data));
    // Not on the bystanders': what is a hole to them would be no defect.
    let shard = shard(which % 15 + 1);
    let seqno = match seqno {
        0..=199 => u64::from(seqno),
        200..=227 => 1 << (seqno - 190),
        n => u64::MAX >> (n - 228),
    };
    // Up to about the largest message that is taken.
    let diff = vec![which; usize::from(size) * 9];
    stream.say(&if stream.v1 {
        request(V1::Publish(v1::Publish {
            shard_id: shard.to_bytes(),
            seqno,
            committed_unix_nanos: u64::from(size),
            diff: (size > 0).then(|| diff.into()),
        }))
    } else {
        v0_message(V0::PushDiff(v0::ProtoPushDiff {
            shard_id: shard.to_string(),
            seqno,
            diff: diff.into(),
        }))
    });
}

fn subscribe(stream: &mut Stream, data: &mut &[u8]) {
    let (kind, which) = (byte(data), byte(data));
    let shards: Vec<ShardId> = (0..=kind / 2 % 5)
        .map(|n| shard(which.wrapping_add(n)))
        .collect();
    let leave = kind % 2 == 1;
    if !stream.v1 {
        let shard_id = shard(which).to_string();
        return stream.say(&v0_message(if leave {
            V0::Unsubscribe(v0::ProtoUnsubscribe { shard_id })
        } else {
            V0::Subscribe(v0::ProtoSubscribe { shard_id })
        }));
    }
    let request_id = u64::from(kind / 16);
    stream.say(&request(if leave {
        V1::Unsubscribe(v1::Unsubscribe {
            request_id,
            shard_ids: shards.iter().map(ShardId::to_bytes).collect(),
        })
    } else {
        let seqno = byte(data);
        V1::Subscribe(v1::Subscribe {
            request_id,
            shards: shards
                .iter()
                .map(|shard| v1::ShardPosition {
                    shard_id: shard.to_bytes(),
                    seqno: (seqno > 0).then(|| u64::from(seqno)),
                })
                .collect(),
        })
    }));
}

/// Some bytes, as the next byte says.
fn take<'a>(data: &mut &'a [u8]) -> &'a [u8] {
    let length = usize::from(byte(data)).min(data.len());
    let (taken, rest) = data.split_at(length);
    *data = rest;
    taken
}
