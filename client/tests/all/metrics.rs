//! What a scrape of the host's registry shows.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use persist_pubsub_client::connect;
use persist_pubsub_proto::v1;
use persist_pubsub_proto::v1::session_response::Message as Heard;
use prometheus::{IntGauge, Registry, TextEncoder};

use crate::peer::{
    Peer, V1, event, expect_connected, expect_disconnected, payload, shard, soon, until,
};

const PREFIX: &str = "mz_persist_pubsub_client_";

fn scrape(registry: &Registry) -> String {
    let mut text = String::new();
    TextEncoder::new()
        .encode_utf8(&registry.gather(), &mut text)
        .unwrap();
    text
}

/// What is scraped under this name and label.
fn value(registry: &Registry, name: &str) -> f64 {
    let text = scrape(registry);
    let line = text.lines().find_map(|line| {
        line.strip_prefix(PREFIX)?
            .strip_prefix(name)?
            .strip_prefix(' ')
    });
    line.unwrap_or_else(|| panic!("no {name} in:\n{text}"))
        .parse()
        .unwrap()
}

fn shows(registry: &Registry, expected: &[(&str, f64)]) {
    for (name, expected) in expected {
        let shown = value(registry, name);
        assert!((shown - expected).abs() < 1e-9, "{name}: {shown}");
    }
}

fn stamped(seqno: u64, age: Duration) -> Heard {
    let committed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - age;
    Heard::Diff(v1::Diff {
        shard_id: shard(1).to_bytes(),
        seqno,
        committed_unix_nanos: committed.as_nanos().try_into().unwrap(),
        diff: payload(seqno),
    })
}

#[tokio::test]
async fn a_scrape_shows_what_happened() {
    let registry = Registry::new();
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    client.register_metrics(&registry).unwrap();
    shows(&registry, &[("grpc_connected", 0.0)]);

    let token = client.subscribe_from(&shard(1), 0);
    drop(client.subscribe(&shard(2)));
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    session.grant(Some(0)).await;
    // Two that are old, one of which has no stamp, and one from the future.
    session.say(stamped(1, Duration::from_secs(3))).await;
    session.diff(shard(1), 2).await;
    session.diff(shard(1), 2).await;
    session.gap(shard(1), 3, 4, 4).await;
    let ahead = SystemTime::now() + Duration::from_secs(600);
    let ahead = ahead.duration_since(UNIX_EPOCH).unwrap();
    session
        .say(Heard::Diff(v1::Diff {
            shard_id: shard(1).to_bytes(),
            seqno: 5,
            committed_unix_nanos: ahead.as_nanos().try_into().unwrap(),
            diff: payload(5),
        }))
        .await;
    for _ in 0..4 {
        event(&mut events).await;
    }
    client.push_diff(&shard(3), 7, payload(7));
    client.push_diff(&shard(3), u64::MAX, payload(7));
    session.publish().await;
    shows(
        &registry,
        &[
            ("grpc_connected", 1.0),
            ("homes_connected", 1.0),
            ("grpc_connection_established_count", 1.0),
            ("grpc_connect_call_attempt_count", 1.0),
            ("grpc_error_count", 0.0),
            ("call_received{call=\"push\"}", 3.0),
            ("call_succeeded{call=\"push\"}", 1.0),
            ("call_succeeded{call=\"subscribe\"}", 2.0),
            ("call_succeeded{call=\"unsubscribe\"}", 1.0),
            ("call_failed{call=\"push\"}", 1.0),
            ("call_bytes_sent{call=\"push\"}", payload(7).len() as f64),
            ("gap_count", 1.0),
            ("resync_count", 0.0),
            ("duplicate_dropped_count", 1.0),
            ("approx_diff_apply_latency_seconds_count", 2.0),
            // The one from the future has no age, the other at least its own.
            (
                "approx_diff_apply_latency_seconds_bucket{le=\"0.0001\"}",
                1.0,
            ),
            ("approx_diff_apply_latency_seconds_bucket{le=\"2.5\"}", 1.0),
        ],
    );
    assert!(value(&registry, "approx_diff_apply_latency_seconds_sum") >= 3.0);

    drop(token);
    session.fail(tonic::Status::unavailable("bye")).await;
    expect_disconnected(&mut events).await;
    shows(
        &registry,
        &[
            ("grpc_connected", 0.0),
            ("homes_connected", 0.0),
            ("grpc_error_count", 1.0),
            ("call_succeeded{call=\"unsubscribe\"}", 2.0),
        ],
    );
    drop(peer);
    until(&client, "an attempt that fails", |stats| stats.failed > 0).await;
    assert!(value(&registry, "grpc_error_count") >= 2.0);
}

#[tokio::test]
async fn a_registry_takes_one_client() {
    let mut peer = Peer::<V1>::start().await;
    let registry = Registry::new();
    let (first, mut events) = connect(peer.config());
    let (second, _) = connect(peer.config());
    first.register_metrics(&registry).unwrap();
    let before = scrape(&registry);
    for twice in [&first, &second] {
        let error = twice.register_metrics(&registry).unwrap_err().to_string();
        assert!(error.contains("cannot register mz_persist_pubsub_client_*"));
        assert!(error.contains("one client"), "{error}");
    }
    assert_eq!(before.lines().count(), scrape(&registry).lines().count());

    // What is registered does not keep a connection that nobody holds.
    let _session = peer.welcome().await;
    drop(first);
    soon("the end", async { while events.next().await.is_some() {} }).await;
    shows(&registry, &[("grpc_connected", 0.0)]);
    second.unregister_metrics(&registry).unwrap();
    assert_eq!(scrape(&registry), "");
    second.register_metrics(&registry).unwrap();
    second.unregister_metrics(&registry).unwrap();
    let error = second.unregister_metrics(&registry).unwrap_err();
    assert!(error.to_string().contains("cannot unregister"), "{error}");
}

#[tokio::test]
async fn a_name_that_is_taken_is_an_error() {
    let peer = Peer::<V1>::start().await;
    let (client, _events) = connect(peer.config());
    let registry = Registry::new();
    let taken = IntGauge::new(format!("{PREFIX}gap_count"), "of somebody else").unwrap();
    registry.register(Box::new(taken)).unwrap();
    let error = client.register_metrics(&registry).unwrap_err();
    assert!(error.to_string().contains("cannot register"), "{error}");
    assert_eq!(scrape(&registry).lines().count(), 3);
}
