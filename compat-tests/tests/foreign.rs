//! A gRPC implementation that is not ours reads our schema and speaks it.

use persist_pubsub_compat_tests::broadcaster::Broadcaster;
use persist_pubsub_compat_tests::child::Child;
use persist_pubsub_compat_tests::grpcurl::{Grpcurl, GrpcurlError, schema};
use persist_pubsub_compat_tests::recording;
use persist_pubsub_compat_tests::tools::left_out;
use persist_pubsub_compat_tests::v0_peer::Peer;
use persist_pubsub_compat_tests::v0_reader::Reader;
use persist_pubsub_compat_tests::v1_peer;
use persist_pubsub_compat_tests::wait::{until, within};
use persist_pubsub_proto::ShardId;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::{Failure, Verdict, server};

const V0: &str = "mz_persist_client/internal/service/service.proto";
const V1: &str = "persist/pubsub/v1/pubsub.proto";
const ADMIN: &str = "persist/pubsub/admin/v1/admin.proto";

const SHARD: ShardId = ShardId::new([0xf0; 16]);

/// grpcurl, unless the test is to be left out.
fn installed(test: &str) -> Option<Grpcurl> {
    Grpcurl::find()
        .inspect_err(|missing| left_out(&format!("foreign::{test}"), missing))
        .ok()
}

/// The ports of a server, as grpcurl names them.
fn ports(server: &Child) -> (String, String) {
    let addresses = server.addresses();
    (
        addresses.listen.to_string(),
        addresses.admin_listen.to_string(),
    )
}

/// Calls a method of AdminService, and returns the JSON that is printed.
async fn admin(
    grpcurl: &Grpcurl,
    address: &str,
    call: &str,
    request: &str,
) -> Result<serde_json::Value, Failure> {
    let call = format!("persist.pubsub.admin.v1.AdminService/{call}");
    let printed = grpcurl
        .run(&["-plaintext", "-d", request, address, &call])
        .await?;
    Ok(serde_json::from_str(&printed)?)
}

#[tokio::test]
async fn grpcurl_reads_the_schema() -> Verdict {
    let Some(grpcurl) = installed("grpcurl_reads_the_schema") else {
        return Ok(());
    };
    for (file, service) in [
        (V0, "mz_persist_client.internal.service.ProtoPersistPubSub"),
        (V1, "persist.pubsub.v1.PubSubService"),
        (ADMIN, "persist.pubsub.admin.v1.AdminService"),
    ] {
        let schema = schema(file);
        let mut arguments: Vec<&str> = schema.iter().map(String::as_str).collect();
        arguments.push("list");
        assert_eq!(grpcurl.run(&arguments).await?.trim(), service);
    }
    Ok(())
}

#[tokio::test]
async fn grpcurl_pushes_a_diff_in_v0() -> Verdict {
    let Some(grpcurl) = installed("grpcurl_pushes_a_diff_in_v0") else {
        return Ok(());
    };
    let server = Broadcaster::start(100).await?;
    let mut receiver = Peer::connect(&server.url(), "receiver").await?;
    let witness = Reader::connect(&server.url(), "witness").await?;
    let (_, recorded) = recording::named("v0-steady")?
        .pushes()
        .next()
        .ok_or("no push")?;
    receiver.sender().subscribe(recorded.shard).await?;
    witness.mark().await?.passed_by(receiver.sender()).await?;

    let message = format!(
        r#"{{"timestamp": {{"secs": "1", "nanos": 2}},
            "push_diff": {{"shard_id": "{}", "seqno": "9007199254740993", "diff": "AP8K"}}}}"#,
        recorded.shard
    );
    let schema = schema(V0);
    let mut arguments: Vec<&str> = schema.iter().map(String::as_str).collect();
    let url = server.url();
    let address = url.trim_start_matches("http://");
    arguments.extend(["-plaintext", "-d", "@", address]);
    arguments.push("mz_persist_client.internal.service.ProtoPersistPubSub/PubSub");
    grpcurl.run_with(&arguments, &message).await?;

    let push = receiver.receiver().expect_push("grpcurl's push").await?;
    assert_eq!(push.shard, recorded.shard);
    assert_eq!(push.seqno, 9_007_199_254_740_993);
    assert_eq!(&push.diff[..], [0x00, 0xff, 0x0a]);
    Ok(())
}

#[tokio::test]
async fn grpcurl_lists_and_describes_by_reflection() -> Verdict {
    let Some(grpcurl) = installed("grpcurl_lists_and_describes_by_reflection") else {
        return Ok(());
    };
    let server = server(&[]).await?;
    let (data, operators) = ports(&server);
    let v0 = "mz_persist_client.internal.service.ProtoPersistPubSub";
    let v1 = "persist.pubsub.v1.PubSubService";
    let admin = "persist.pubsub.admin.v1.AdminService";
    for (address, services) in [
        (&data, &[v0, v1, "grpc.health.v1.Health"][..]),
        (&operators, &[admin]),
    ] {
        let listed = grpcurl.run(&["-plaintext", address, "list"]).await?;
        for service in services {
            assert!(listed.lines().any(|l| l == *service), "{listed}");
        }
        // What is listed is there: each can be described.
        for service in listed.lines() {
            let arguments = ["-plaintext", address, "describe", service];
            let described = grpcurl.run(&arguments).await?;
            assert!(described.contains("rpc "), "{described}");
        }
    }
    let arguments = ["-plaintext", &data, "describe", ".persist.pubsub.v1.Hello"];
    let described = grpcurl.run(&arguments).await?;
    assert!(described.contains("environment_id = 4"), "{described}");
    Ok(())
}

#[tokio::test]
async fn grpcurl_checks_health() -> Verdict {
    let Some(grpcurl) = installed("grpcurl_checks_health") else {
        return Ok(());
    };
    let server = server(&[]).await?;
    let (data, _) = ports(&server);
    for service in ["", "persist.pubsub.v1.PubSubService"] {
        let request = format!(r#"{{"service": "{service}"}}"#);
        let call = "grpc.health.v1.Health/Check";
        let arguments = ["-plaintext", "-d", &request, &data, call];
        let health = grpcurl.run(&arguments).await?;
        assert!(health.contains(r#""status": "SERVING""#), "{health}");
    }
    Ok(())
}

#[tokio::test]
async fn grpcurl_shows_operators_what_there_is() -> Verdict {
    let Some(grpcurl) = installed("grpcurl_shows_operators_what_there_is") else {
        return Ok(());
    };
    let server = server(&[]).await?;
    let (_, address) = ports(&server);
    let mut v1 = v1_peer::Peer::connect(&server.url(), "shown-v1").await?;
    let v0 = Peer::connect(&server.url(), "shown-v0").await?;
    for number in 1..=3 {
        v1.follow(ShardId::new([number; 16]), None).await?;
    }
    let info = admin(&grpcurl, &address, "GetServerInfo", "{}").await?;
    assert_eq!(info["state"], "serving");
    assert_eq!(info["instanceId"], v1.welcome().server_instance_id);

    let names = async || {
        let listed = admin(&grpcurl, &address, "ListSessions", "{}").await.ok()?;
        let sessions = listed["sessions"].as_array()?.iter();
        let name = |s: &serde_json::Value| Some(s["callerId"].as_str()?.to_owned());
        let mut names: Vec<String> = sessions.filter_map(name).collect();
        names.sort();
        (names == ["shown-v0", "shown-v1"]).then_some(())
    };
    until("both sessions to be listed", names).await?;
    drop(v0);

    let mut shards = Vec::new();
    let mut token = String::new();
    loop {
        let request = format!(r#"{{"page_size": 2, "page_token": "{token}"}}"#);
        let page = admin(&grpcurl, &address, "ListShards", &request).await?;
        let ids = page["shards"].as_array().ok_or("no shards")?;
        assert!(ids.len() <= 2);
        shards.extend(ids.iter().map(|s| s["shardId"].clone()));
        match page["nextPageToken"].as_str() {
            None | Some("") => break,
            Some(next) => next.clone_into(&mut token),
        }
    }
    let expected: Vec<_> = (1..=3)
        .map(|n| serde_json::Value::from(ShardId::new([n; 16]).to_string()))
        .collect();
    assert_eq!(shards, expected);
    Ok(())
}

#[tokio::test]
async fn grpcurl_is_told_what_is_wrong() -> Verdict {
    let Some(grpcurl) = installed("grpcurl_is_told_what_is_wrong") else {
        return Ok(());
    };
    let server = server(&[]).await?;
    let (data, operators) = ports(&server);
    let service = "persist.pubsub.admin.v1.AdminService";
    for (address, method, request, says) in [
        (
            &operators,
            "ListShards",
            r#"{"page_size": 1001}"#,
            "page_size",
        ),
        (
            &operators,
            "ListShards",
            r#"{"page_token": "x"}"#,
            "page_token",
        ),
        (
            &operators,
            "ListSessions",
            r#"{"page_token": "x"}"#,
            "page_token",
        ),
        (
            &operators,
            "WatchShards",
            r#"{"shard_id": "x"}"#,
            "shard_id",
        ),
        (&operators, "Nonsense", "{}", "Nonsense"),
        // The operators' calls are not on the data port.
        (&data, "GetServerInfo", "{}", service),
    ] {
        let call = format!("{service}/{method}");
        let arguments = ["-plaintext", "-d", request, address, &call];
        match grpcurl.run(&arguments).await {
            Err(GrpcurlError::Failed { stderr, .. }) => {
                assert!(stderr.contains(says), "{method} {request}: {stderr}");
            }
            other => return Err(format!("{method} {request}: {other:?}").into()),
        }
    }
    Ok(())
}

#[tokio::test]
async fn grpcurl_watches_a_shard() -> Verdict {
    let Some(grpcurl) = installed("grpcurl_watches_a_shard") else {
        return Ok(());
    };
    let server = server(&[]).await?;
    let (_, operators) = ports(&server);
    let writer = v1_peer::Peer::connect(&server.url(), "writer").await?;
    let request = format!(r#"{{"shard_id": "{SHARD}"}}"#);
    let call = "persist.pubsub.admin.v1.AdminService/WatchShards";
    let mut watch = grpcurl.start(&["-plaintext", "-d", &request, &operators, call])?;
    let printed = watch.stdout.take().ok_or("no output")?;
    let mut lines = BufReader::new(printed).lines();
    let seen = within("a push in a watch", async {
        let mut again = tokio::time::interval(std::time::Duration::from_millis(50));
        let mut seqno = 0;
        loop {
            tokio::select! {
                // Until the watch has begun, nobody sees it.
                _ = again.tick() => {
                    seqno += 1;
                    writer.sender().publish(SHARD, seqno, 1, "diff").await?;
                }
                line = lines.next_line() => {
                    let line = line?.ok_or("grpcurl ended")?;
                    if line.contains("SHARD_EVENT_PUBLISHED") {
                        return Ok::<_, Failure>(line);
                    }
                }
            }
        }
    });
    assert!(seen.await??.contains("event"));
    watch.kill().await?;
    Ok(())
}

#[tokio::test]
async fn grpcurl_speaks_v1() -> Verdict {
    let Some(grpcurl) = installed("grpcurl_speaks_v1") else {
        return Ok(());
    };
    let server = server(&[]).await?;
    let (data, _) = ports(&server);
    let mut reader = v1_peer::Peer::connect(&server.url(), "reader").await?;
    reader.follow(SHARD, None).await?;
    // Bytes are base64 in JSON: 16 times 0xf0.
    let shard = "8PDw8PDw8PDw8PDw8PDw8A==";
    let messages = format!(
        r#"{{"hello": {{"client_name": "by hand", "mode": "SESSION_MODE_READ_WRITE", "min_revision": 1, "max_revision": 1}}}}
           {{"publish": {{"shard_id": "{shard}", "seqno": "7", "diff": "aGk="}}}}
           {{"subscribe": {{"request_id": "3", "shards": [{{"shard_id": "{shard}"}}]}}}}"#
    );
    let call = "persist.pubsub.v1.PubSubService/Session";
    let arguments = ["-plaintext", "-d", "@", &data, call];
    let printed = grpcurl.run_with(&arguments, &messages).await?;
    let diff = reader.receiver().expect_diff("grpcurl's diff").await?;
    assert_eq!((diff.seqno, diff.diff), (7, "hi".into()));
    let answers = serde_json::Deserializer::from_str(&printed)
        .into_iter::<serde_json::Value>()
        .collect::<Result<Vec<_>, _>>()?;
    assert_eq!(answers.len(), 2, "{printed}");
    assert_eq!(answers[0]["welcome"]["revision"], 1);
    let heads = &answers[1]["subscribed"];
    assert_eq!(
        (&heads["requestId"], &heads["shards"][0]["highestSeqno"]),
        (&"3".into(), &"7".into())
    );
    Ok(())
}

/// What an orchestrator does at the end of an upgrade, without any program of
/// ours.
#[tokio::test]
async fn grpcurl_raises_a_fence() -> Verdict {
    let Some(grpcurl) = installed("grpcurl_raises_a_fence") else {
        return Ok(());
    };
    let server = server(&[]).await?;
    let (_, address) = ports(&server);
    // Of generation 7.
    let mut v1 = v1_peer::Peer::connect(&server.url(), "fenced").await?;
    assert_eq!(
        admin(&grpcurl, &address, "GetFence", "{}").await?,
        serde_json::json!({})
    );
    let raised = admin(&grpcurl, &address, "SetFence", r#"{"generation": "8"}"#).await?;
    assert_eq!(raised["sessionsEnded"], "1", "{raised}");
    assert_eq!(raised["fence"]["epoch"], "1", "{raised}");
    v1.receiver().expect_fenced("to be told").await?;
    let census = admin(&grpcurl, &address, "ListGenerations", "{}").await?;
    assert_eq!(census["census"]["fences"][0]["generation"], "8", "{census}");
    let lower = admin(&grpcurl, &address, "SetFence", r#"{"generation": "7"}"#).await;
    let lower = format!("{:?}", lower.err());
    assert!(lower.contains("FailedPrecondition"), "{lower}");
    assert!(lower.contains("a fence only rises"), "{lower}");
    Ok(())
}
