//! The public API as hosts use it, written down where the compiler reads it.
//!
//! A change that this file does not compile with breaks hosts: it needs a new
//! major version, or to be undone. What is added changes nothing here, and is
//! to be added here with its release. (The real check of a release against the
//! one before it, `cargo semver-checks`, needs one before it.)

use std::error::Error;
use std::fmt::{Debug, Display};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_core::Stream;
use persist_pubsub_client::{
    Client, Config, ConfigError, DEFAULT_PORT, Event, Events, Io, Mode, OperatingSystem, Reason,
    ServerInfo, ShardId, Stats, Subscription, System, Wire, WirePreference, connect, connect_by,
};

/// Handles go anywhere; the stream goes to its one consumer, on any thread.
const fn any_thread<T: Send + Sync + 'static>() {}
const fn one_consumer<T: Stream<Item = Event> + Send + Unpin + Debug + 'static>() {}
const fn error<T: Error + Send + Sync + Clone + PartialEq + 'static>() {}
const fn shown<T: Display + Copy + PartialEq>() {}
const fn system<T: System>() {}

const _: () = {
    any_thread::<Client>();
    any_thread::<Subscription>();
    any_thread::<Config>();
    one_consumer::<Events>();
    error::<ConfigError>();
    error::<Reason>();
    shown::<Wire>();
    system::<OperatingSystem>();
};

const _: fn(Config) -> (Client, Events) = connect;
const _: fn(Config, OperatingSystem) -> (Client, Events) = connect_by;
const _: fn(&Client) -> Client = Client::clone;
const _: fn(&Client, &ShardId, u64, Bytes) = Client::push_diff;
const _: fn(&Client, &ShardId) -> Subscription = Client::subscribe;
const _: fn(&Client, &ShardId, u64) -> Subscription = Client::subscribe_from;
const _: fn(&Client) -> Stats = Client::stats;
const _: fn(&Subscription) -> ShardId = Subscription::shard;
const _: u16 = DEFAULT_PORT;

#[cfg(feature = "metrics")]
const _: fn(&Client, &prometheus::Registry) -> Result<(), persist_pubsub_client::RegistryError> = {
    error_of_metrics::<persist_pubsub_client::RegistryError>();
    let _ = Client::unregister_metrics;
    Client::register_metrics
};
#[cfg(feature = "metrics")]
const fn error_of_metrics<T: Error + Send + Sync + 'static>() {}

/// Every setting.
fn settings() -> Result<Config, ConfigError> {
    let time = Duration::from_secs(1);
    let config = Config::new("http://persist-pubsub:6879")?
        .client_name("name")
        .client_version("version")
        .client_build("build")
        .environment_id("environment")
        .deploy_generation(17)
        .role("role")
        .mode(Mode::ReadOnly)
        .mode(Mode::ReadWrite)
        .wire(WirePreference::Auto)
        .wire(WirePreference::V1)
        .wire(WirePreference::V0)
        .backoff(time, time)?
        .stable_after(time)
        .connect_timeout(time)
        .handshake_timeout(time)
        .keepalive(time, time)
        .push_buffer(1, 1)
        .reannounce(time, 1)
        .event_buffer(1, 1)
        .merge_grace(time)
        .merge_buffer(1, 1)
        .resync_spread(time)
        .subscribe_timeout(time);
    Ok(config)
}

/// Every event, with all that a host reads of it. New ones may come: hosts
/// have an arm for them.
fn words(event: Event) -> Option<String> {
    Some(match event {
        Event::Diff {
            shard,
            seqno,
            diff,
            committed,
        } => {
            let _: (ShardId, u64, Bytes, Option<SystemTime>) = (shard, seqno, diff, committed);
            format!("{shard} {seqno}")
        }
        Event::Gap {
            shard,
            from,
            to,
            highest,
        } => {
            let _: (ShardId, u64, u64, u64) = (shard, from, to, highest);
            format!("{shard} {from} {to} {highest}")
        }
        Event::Resync { shard, highest } => {
            let _: (ShardId, Option<u64>) = (shard, highest);
            format!("{shard}")
        }
        Event::Connected { wire, server } => {
            let ServerInfo {
                instance_id,
                version,
                session_id,
                ..
            } = server;
            let _: (Wire, &str, &str, u64) = (wire, &instance_id, &version, session_id);
            match wire {
                Wire::V0 | Wire::V1 => format!("{wire}"),
            }
        }
        Event::Disconnected { reason } => match reason {
            Reason::Unreachable(_)
            | Reason::Refused(_)
            | Reason::Status {
                code: _,
                message: _,
            }
            | Reason::Ended
            | Reason::Silent(_)
            | Reason::HandshakeTimeout(_)
            | Reason::Unanswered(_)
            | Reason::Broken
            | Reason::Protocol(_) => format!("{reason}"),
            _ => return None,
        },
        Event::Fenced {
            generation,
            epoch,
            reason,
        } => {
            let _: (u64, u64, &str) = (generation, epoch, &reason);
            reason
        }
        _ => return None,
    })
}

/// Every number.
fn numbers(stats: &Stats) -> (bool, [u64; 23]) {
    let numbers = [
        stats.attempts,
        stats.established,
        stats.failed,
        stats.lost,
        stats.pushes,
        stats.sent,
        stats.sent_bytes,
        stats.pushes_dropped,
        stats.announced,
        stats.announcements_dropped,
        stats.buffered_bytes,
        stats.subscribes,
        stats.unsubscribes,
        stats.diffs,
        stats.diff_bytes,
        stats.duplicates,
        stats.stale,
        stats.gaps,
        stats.resyncs,
        stats.resyncs_cancelled,
        stats.rejected,
        stats.malformed,
        stats.refused_shards,
    ];
    (stats.connected, numbers)
}

/// A host's own system.
struct Nowhere;

impl System for Nowhere {
    fn look_up<'a>(&'a self, _: &'a str, _: u16) -> Waiting<'a, Vec<SocketAddr>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn connect(&self, _: SocketAddr) -> Waiting<'static, Box<dyn Io>> {
        Box::pin(async { Err(std::io::ErrorKind::NotFound.into()) })
    }

    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }
}

type Waiting<'a, T> =
    std::pin::Pin<Box<dyn std::future::Future<Output = std::io::Result<T>> + Send + 'a>>;

/// Somebody runs what is written here, so that it is not merely dead text.
#[tokio::test]
async fn the_api_as_hosts_use_it() {
    let (client, mut events) = connect_by(settings().unwrap(), Nowhere);
    assert_eq!(numbers(&client.stats()), (false, [0; 23]));
    let shard = ShardId::new([1; 16]);
    let token = client.subscribe(&shard);
    assert_eq!(token.shard(), shard);
    client.push_diff(&shard, 1, Bytes::new());
    drop((client, token));
    let told = crate::peer::soon("the end", events.next()).await;
    assert_eq!(told.and_then(words), None);
}
