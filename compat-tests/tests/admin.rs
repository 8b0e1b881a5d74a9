//! The operators' calls.

use std::collections::BTreeSet;

use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::recording::Push;
use persist_pubsub_compat_tests::wait::until;
use persist_pubsub_compat_tests::{v0_peer, v1_peer};
use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::admin_v1::{ListSessionsRequest, ListShardsRequest};
use persist_pubsub_proto::v1::Hello;
use tonic::Code;

use super::{Failure, Verdict, server};

const SHARD: ShardId = ShardId::new([0x42; 16]);

fn of(environment: &str, name: &str) -> Hello {
    Hello {
        environment_id: environment.to_owned(),
        ..v1_peer::hello(name)
    }
}

#[tokio::test]
async fn the_server_says_what_it_is() -> Verdict {
    let server = server(&["--v0-environment=home"]).await?;
    let operator = Operator::connect(&server).await?;
    let peer = v1_peer::Peer::connect(&server.url(), "peer").await?;
    let info = operator.info().await?;
    assert_eq!(info.instance_id, peer.welcome().server_instance_id);
    assert_eq!(info.version, peer.welcome().server_version);
    assert_eq!(info.listen_address, server.addresses().listen.to_string());
    assert_eq!(
        (info.state.as_str(), info.v0_environment.as_str()),
        ("serving", "home")
    );
    assert_eq!((info.min_revision, info.max_revision), (1, 1));
    assert!(info.started_at.is_some());
    Ok(())
}

#[tokio::test]
async fn sessions_are_listed_in_pages_and_by_environment() -> Verdict {
    let server = server(&[]).await?;
    let operator = Operator::connect(&server).await?;
    let mut peers = Vec::new();
    for number in 0..7 {
        let environment = if number % 2 == 0 { "even" } else { "" };
        let hello = of(environment, &format!("peer-{number}"));
        peers.push(v1_peer::Peer::connect_as(&server.url(), hello).await?);
    }
    let v0 = v0_peer::Peer::connect(&server.url(), "old").await?;
    v0.sender().subscribe(SHARD).await?;
    let push = Push {
        shard: SHARD,
        seqno: 1,
        diff: "x".into(),
    };
    peers[1].follow(SHARD, Some(0)).await?;
    v0.sender().push(push).await?;
    peers[1].receiver().expect_diff("a diff").await?;
    until("all to be listed", async || {
        (operator.sessions().await.ok()?.len() == 8).then_some(())
    })
    .await?;

    for (environment, page_size, pages, count) in [
        ("", 3, 3, 8),
        ("", 8, 1, 8),
        ("", 4, 2, 8),
        ("even", 3, 2, 4),
        ("none", 3, 1, 0),
        ("default", 1, 4, 4),
    ] {
        let mut ids = Vec::new();
        let mut token = String::new();
        let mut seen = 0;
        loop {
            let request = ListSessionsRequest {
                environment: environment.to_owned(),
                page_size,
                page_token: token,
                ..ListSessionsRequest::default()
            };
            let page = operator
                .admin
                .clone()
                .list_sessions(request)
                .await?
                .into_inner();
            assert!(page.sessions.len() <= page_size as usize);
            assert!(
                page.sessions
                    .iter()
                    .all(|s| environment.is_empty() || s.environment == environment)
            );
            ids.extend(page.sessions.iter().map(|s| s.session_id));
            token = page.next_page_token;
            seen += 1;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(
            (seen, ids.len()),
            (pages, count),
            "{environment:?} by {page_size}"
        );
        assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    }

    let sessions = operator.sessions().await?;
    let old = sessions
        .iter()
        .find(|s| s.wire_version == "v0")
        .ok_or("no v0")?;
    assert_eq!(
        (old.caller_id.as_str(), old.environment.as_str()),
        ("old", "default")
    );
    assert_eq!(
        (old.generation, old.subscriptions, old.diffs_in),
        (None, 1, 1)
    );
    let one = sessions
        .iter()
        .find(|s| s.caller_id == "peer-1")
        .ok_or("no peer-1")?;
    assert_eq!(one.session_id, peers[1].welcome().session_id);
    assert_eq!(
        (one.wire_version.as_str(), one.mode.as_str()),
        ("v1", "read-write")
    );
    assert_eq!(
        (one.generation, one.role.as_str()),
        (Some(7), "compat-tests")
    );
    assert_eq!(
        (
            one.diffs_out,
            one.subscriptions,
            one.client_version.as_str()
        ),
        (1, 1, "1.2.3")
    );
    assert!(one.bytes_in > 0 && one.bytes_out > 0 && one.connected_since.is_some());
    Ok(())
}

#[tokio::test]
async fn shards_are_listed_in_pages_by_prefix_and_environment() -> Verdict {
    let server = server(&[]).await?;
    let operator = Operator::connect(&server).await?;
    let mut home = v1_peer::Peer::connect(&server.url(), "home").await?;
    let mut away = v1_peer::Peer::connect_as(&server.url(), of("away", "away")).await?;
    for number in 0..10 {
        let shard = ShardId::new([number * 16; 16]);
        let peer = if number < 6 { &mut home } else { &mut away };
        for seqno in 5..=8 {
            peer.sender().publish(shard, seqno, 1, "diff").await?;
        }
        assert_eq!(peer.follow(shard, None).await?, Some(8));
    }
    for (environment, shard_prefix, page_size, pages, count) in [
        ("", "", 4, 3, 10),
        ("", "", 5, 2, 10),
        ("away", "", 3, 2, 4),
        ("default", "", 100, 1, 6),
        ("", "s5050", 3, 1, 1),
        ("away", "s5050", 3, 1, 0),
    ] {
        let mut keys = Vec::new();
        let mut token = String::new();
        let mut seen = 0;
        loop {
            let request = ListShardsRequest {
                environment: environment.to_owned(),
                shard_prefix: shard_prefix.to_owned(),
                page_size,
                page_token: token,
                ..ListShardsRequest::default()
            };
            let page = operator
                .admin
                .clone()
                .list_shards(request)
                .await?
                .into_inner();
            assert!(page.shards.len() <= page_size as usize);
            keys.extend(page.shards.into_iter().map(|s| (s.environment, s.shard_id)));
            token = page.next_page_token;
            seen += 1;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(
            (seen, keys.len()),
            (pages, count),
            "{environment:?} {shard_prefix:?} by {page_size}"
        );
        assert!(keys.is_sorted_by(|a, b| a < b), "{keys:?}");
    }
    let shards = operator.shards().await?;
    let shard = shards.first().ok_or("no shard")?;
    assert_eq!(
        (shard.head_seqno, shard.oldest_seqno, shard.newest_seqno),
        (Some(8), Some(5), Some(8))
    );
    assert_eq!(
        (shard.log_entries, shard.subscribers, shard.held_back),
        (4, 1, 0)
    );
    assert!(
        shard.log_bytes > 0 && shard.diffs_per_second > 0.0,
        "{shard:?}"
    );
    Ok(())
}

#[tokio::test]
async fn wrong_arguments_are_named() -> Verdict {
    let server = server(&[]).await?;
    let operator = Operator::connect(&server).await?;
    let admin = operator.admin.clone();
    let sessions = |page_size, token: &str| ListSessionsRequest {
        page_size,
        page_token: token.to_owned(),
        ..ListSessionsRequest::default()
    };
    let shards = |page_size, token: &str| ListShardsRequest {
        page_size,
        page_token: token.to_owned(),
        ..ListShardsRequest::default()
    };
    let mut refused = Vec::new();
    for (page_size, token) in [
        (1001, ""),
        (u32::MAX, ""),
        (0, "nonsense"),
        (0, "-1"),
        (0, "\u{e9}"),
    ] {
        let names = if token.is_empty() {
            "page_size"
        } else {
            "page_token"
        };
        let status = admin
            .clone()
            .list_sessions(sessions(page_size, token))
            .await;
        refused.push((names, status.err()));
        let status = admin.clone().list_shards(shards(page_size, token)).await;
        refused.push((names, status.err()));
    }
    for shard in ["nonsense", "s", "42424242-4242-4242-4242-424242424242"] {
        let error = operator.watch("", shard).await.err();
        let status = match error {
            Some(persist_pubsub_compat_tests::operator::OperatorError::Status(s)) => Some(s),
            _ => None,
        };
        refused.push(("shard_id", status));
    }
    for (names, status) in refused {
        let status = status.ok_or("a wrong argument was taken")?;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains(names), "{names}: {status:?}");
    }
    Ok(())
}

#[tokio::test]
async fn metrics_have_names_that_do_not_grow() -> Verdict {
    let server = server(&[]).await?;
    let operator = Operator::connect(&server).await?;
    let series = async || {
        let (code, metrics) = operator.get("/metrics").await?;
        assert_eq!(code, 200);
        let names = metrics.lines().filter(|line| !line.starts_with('#'));
        let names = names.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned()));
        Ok::<BTreeSet<String>, Failure>(names.collect())
    };
    let mut peers = Vec::new();
    for generation in 1..=40 {
        let hello = Hello {
            deploy_generation: generation,
            ..of(
                &format!("environment-{generation}"),
                &format!("peer-{generation}"),
            )
        };
        let mut peer = v1_peer::Peer::connect_as(&server.url(), hello).await?;
        peer.follow(SHARD, None).await?;
        peer.sender().publish(SHARD, 1, 1, "x").await?;
        peers.push(peer);
    }
    let names = series().await?;
    for name in [
        "mz_persist_pubsub_server_active_connections",
        "mz_persist_pubsub_server_broadcasted_diff_count",
        "mz_persist_pubsub_server_broadcasted_diff_bytes",
        "mz_persist_pubsub_server_broadcasted_diff_dropped_channel_full",
        r#"mz_persist_pubsub_server_call_count{call="push"}"#,
        r#"mz_persist_pubsub_server_call_count{call="subscribe"}"#,
        r#"mz_persist_pubsub_server_call_count{call="unsubscribe"}"#,
        r#"mz_persist_pubsub_server_operation_seconds{op="push"}"#,
        r#"mz_persist_pubsub_server_operation_seconds{op="cleanup"}"#,
    ] {
        assert!(names.contains(name), "{name} is missing");
    }
    let sessions = names
        .iter()
        .filter(|n| n.starts_with("persist_pubsub_sessions{"));
    assert!(sessions.count() <= 18, "a series for each generation");
    for text in ["environment-", "peer-", &SHARD.to_string()] {
        assert!(!names.iter().any(|n| n.contains(text)), "{text} is a label");
    }
    Ok(())
}
