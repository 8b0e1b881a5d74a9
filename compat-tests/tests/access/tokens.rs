//! Tokens: who is known, in which environment, with which rights.

use persist_pubsub_client::{Config, Event, Token, connect};
use persist_pubsub_compat_tests::certificates::Authority;
use persist_pubsub_compat_tests::child::Child;
use persist_pubsub_compat_tests::command_line::run;
use persist_pubsub_compat_tests::entrant::Entrant;
use persist_pubsub_compat_tests::grpcurl::Grpcurl;
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::recording::Push;
use persist_pubsub_compat_tests::tools::left_out;
use persist_pubsub_compat_tests::v0_peer;
use persist_pubsub_compat_tests::v1_peer::{self, Peer};
use persist_pubsub_compat_tests::wait::{until, within};
use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::admin_v1::admin_service_client::AdminServiceClient;
use persist_pubsub_proto::admin_v1::{DrainRequest, ListSessionsRequest};
use persist_pubsub_proto::v1::RejectionCode;
use persist_pubsub_proto::v1::session_request::Message;
use tonic::{Code, Request};

use super::super::{Failure, Verdict, server};
use super::{Identities, hello_of, https, refs, status, tls_flags, turned_away};

const SHARD: ShardId = ShardId::new([0x73; 16]);

const FILE: &str = r#"
[[identity]]
name = "blue"
environment = "blue-0"
rights = ["publish", "subscribe"]
tokens = ["blue-blue-blue-blue"]
certificates = ["spiffe://cluster/blue"]

[[identity]]
name = "green"
environment = "green-0"
rights = ["publish", "subscribe"]
tokens = ["green-green-green"]

[[identity]]
name = "blue-reader"
environment = "blue-0"
rights = ["subscribe"]
tokens = ["reader-of-blue-only"]

[[identity]]
name = "blue-writer"
environment = "blue-0"
rights = ["publish"]
tokens = ["writer-of-blue-only"]

[[identity]]
name = "deployed"
environment = "blue-0"
rights = ["publish", "subscribe"]
plaintext = true

[[identity]]
name = "dashboard"
rights = ["read"]
tokens = ["dashboard-dashboard"]

[[identity]]
name = "on-call"
rights = ["admin"]
tokens = ["on-call-on-call-on-call"]
"#;

const TOKENS: [&str; 6] = [
    "blue-blue-blue-blue",
    "green-green-green",
    "reader-of-blue-only",
    "writer-of-blue-only",
    "dashboard-dashboard",
    "on-call-on-call-on-call",
];

/// A server that knows them, and what it read that from.
async fn guarded(more: &[String]) -> Result<(Child, Identities), Failure> {
    let identities = Identities::new(FILE)?;
    let mut flags = vec![identities.flag()];
    flags.extend_from_slice(more);
    Ok((server(&refs(&flags)).await?, identities))
}

/// No token stands in what the server wrote.
fn assert_silent(server: &Child) {
    let log = server.log();
    for token in TOKENS {
        assert!(!log.contains(token), "{token}: {log}");
    }
}

#[tokio::test]
async fn nobody_hears_or_says_anything_outside_their_environment() -> Verdict {
    let (server, _file) = guarded(&[]).await?;
    let with = |token| Entrant::new(&server.url()).with_token(token);
    let (blue, green) = (with("blue-blue-blue-blue"), with("green-green-green"));

    let mut blue_reader = Peer::connect_as(&blue, hello_of("blue-0")).await?;
    let mut green_reader = Peer::connect_as(&green, hello_of("")).await?;
    let mut old = v0_peer::Peer::connect_as(&with("reader-of-blue-only")).await?;
    blue_reader.follow(SHARD, Some(0)).await?;
    green_reader.follow(SHARD, Some(0)).await?;
    old.sender().subscribe(SHARD).await?;
    let writer = Peer::connect_as(&blue, hello_of("")).await?;
    writer.sender().publish(SHARD, 1, 1, "blue's").await?;
    assert_eq!(
        blue_reader.receiver().expect_diff("blue's").await?.diff,
        "blue's"
    );
    assert_eq!(old.receiver().expect_push("blue's").await?.diff, "blue's");
    let writer = v0_peer::Peer::connect_as(&green).await?;
    let push = Push {
        shard: SHARD,
        seqno: 1,
        diff: "green's".into(),
    };
    writer.sender().push(push).await?;
    // The first that comes to it, though blue's was there before.
    assert_eq!(
        green_reader.receiver().expect_diff("green's").await?.diff,
        "green's"
    );
    blue_reader.sender().unsubscribe(9, &[]).await?;
    blue_reader
        .receiver()
        .expect_unsubscribed("an answer, nothing else")
        .await?;

    let (sender, mut receiver) = v1_peer::open(&blue).await?;
    sender.say(Message::Hello(hello_of("green-0"))).await?;
    let rejected = receiver.expect_rejected("another's environment").await?;
    assert_eq!(rejected.code(), RejectionCode::NotAllowed);
    assert!(rejected.reason.contains("'blue'"), "{}", rejected.reason);
    let end = within("the end", receiver.receive()).await?;
    let (code, _) = status(end.err().ok_or("it goes on")?)?;
    assert_eq!(code, Code::PermissionDenied);
    assert_silent(&server);
    Ok(())
}

#[tokio::test]
async fn whoever_is_not_known_gets_no_session_but_health_and_schema() -> Verdict {
    let (server, _file) = guarded(&[]).await?;
    let operator = Operator::connect(&server).await?;
    let nobody = Entrant::new(&server.url());
    for entrant in [
        nobody.clone(),
        nobody.clone().with_token("blue-blue-blue-blu"),
        nobody.clone().with_token("blue-blue-blue-bluf"),
        nobody.clone().with_token(""),
    ] {
        let away = turned_away(&entrant, hello_of("")).await?;
        assert_eq!(away.code(), Code::Unauthenticated, "{away:?}");
        let old = v0_peer::Peer::connect_as(&entrant).await;
        let (code, _) = status(old.err().ok_or("v0 got in")?)?;
        assert_eq!(code, Code::Unauthenticated);
    }
    let series = "persist_pubsub_access_refused_total{port=\"data\",reason=\"unauthenticated\"}";
    assert_eq!(operator.metric(series).await?, 8.0);
    let name = "access::tokens::whoever_is_not_known_gets_no_session_but_health_and_schema";
    match Grpcurl::find() {
        Ok(grpcurl) => {
            let address = server.addresses().listen.to_string();
            let health = ["-plaintext", &address, "grpc.health.v1.Health/Check"];
            assert!(grpcurl.run(&health).await?.contains("SERVING"));
            let list = grpcurl.run(&["-plaintext", &address, "list"]).await?;
            assert!(list.contains("PubSubService"), "{list}");
        }
        Err(missing) => left_out(name, &missing),
    }
    assert_silent(&server);
    Ok(())
}

#[tokio::test]
async fn a_right_that_is_missing_costs_the_message() -> Verdict {
    let (server, _file) = guarded(&[]).await?;
    let operator = Operator::connect(&server).await?;
    let with = |token| Entrant::new(&server.url()).with_token(token);
    let mut reader = Peer::connect(&with("reader-of-blue-only"), "reader").await?;
    for seqno in 1..=2 {
        reader.sender().publish(SHARD, seqno, 1, "x").await?;
        let rejected = reader.receiver().expect_rejected("no right").await?;
        assert_eq!(rejected.code(), RejectionCode::NotAllowed);
        assert_eq!((rejected.seqno, rejected.shard_id.len()), (Some(seqno), 16));
    }
    assert_eq!(
        reader.follow(SHARD, Some(0)).await?,
        None,
        "nothing was taken"
    );

    let mut writer = Peer::connect(&with("writer-of-blue-only"), "writer").await?;
    writer.sender().subscribe(5, &[(SHARD, None)]).await?;
    let rejected = writer.receiver().expect_rejected("no right").await?;
    assert_eq!(rejected.code(), RejectionCode::NotAllowed);
    assert_eq!(rejected.request_id, 5);
    let old = v0_peer::Peer::connect_as(&with("reader-of-blue-only")).await?;
    let push = Push {
        shard: SHARD,
        seqno: 7,
        diff: "x".into(),
    };
    old.sender().push(push).await?;
    until("the old one's push to be counted", async || {
        let refused = operator.rejected("v0", "not_allowed").await.ok()?;
        (refused >= 1.0).then_some(())
    })
    .await?;
    writer.sender().publish(SHARD, 1, 1, "allowed").await?;
    assert_eq!(
        reader.receiver().expect_diff("a diff").await?.diff,
        "allowed"
    );
    Ok(())
}

#[tokio::test]
async fn a_certificate_or_the_plaintext_port_makes_somebody_known_too() -> Verdict {
    let ours = Authority::new("ours")?;
    let port = ours.issue(&["localhost"])?;
    let mut flags = tls_flags("", &port);
    flags.push(format!("--tls-client-ca={}", port.file("ca.crt").display()));
    flags.push("--listen-plaintext=127.0.0.1:0".to_owned());
    let (server, _file) = guarded(&flags).await?;
    let at = || Entrant::new(&https(&server)).trusting(&ours);
    let blue = at().showing(&ours.issue(&["spiffe://cluster/blue"])?);
    let mut reader = Peer::connect_as(&blue, hello_of("blue-0")).await?;
    reader.follow(SHARD, Some(0)).await?;

    let plain = server.addresses().listen_plaintext;
    let plain = format!("http://{}", plain.ok_or("no plaintext port")?);
    let deployed = v0_peer::Peer::connect(&plain, "deployed").await?;
    let push = Push {
        shard: SHARD,
        seqno: 1,
        diff: "deployed".into(),
    };
    deployed.sender().push(push).await?;
    assert_eq!(
        reader.receiver().expect_diff("a diff").await?.diff,
        "deployed"
    );

    let stranger = at().showing(&ours.issue(&["spiffe://cluster/red"])?);
    let away = turned_away(&stranger, hello_of("")).await?;
    assert_eq!(away.code(), Code::Unauthenticated);
    // A token counts before the certificate, also a wrong one.
    let green = blue.clone().with_token("green-green-green");
    Peer::connect_as(&green, hello_of("green-0")).await?;
    let wrong = turned_away(&blue.with_token("no-such-token-here"), hello_of("")).await?;
    assert_eq!(wrong.code(), Code::Unauthenticated);
    Ok(())
}

#[tokio::test]
async fn the_client_crate_shows_its_token() -> Verdict {
    let (server, file) = guarded(&[]).await?;
    let path = file.folder.path().join("token");
    std::fs::write(&path, "blue-blue-blue-blue\n")?;
    let config = Config::new(&server.url())?
        .environment_id("blue-0")
        .token(Token::file(path));
    let (client, mut events) = connect(config);
    let _token = client.subscribe(&SHARD);
    loop {
        let event = within("a session", events.next()).await?;
        match event.ok_or("the client has ended")? {
            Event::Connected { .. } => return Ok(()),
            other => println!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_operators_port_asks_for_rights_and_says_who_sent_it_away() -> Verdict {
    let (mut server, file) = guarded(&[]).await?;
    let admin = format!("http://{}", server.addresses().admin_listen);
    let operator = Operator::connect(&server).await?;
    for path in ["/metrics", "/livez", "/readyz"] {
        assert_eq!(operator.get(path).await?.0, 200, "{path}");
    }
    assert_eq!(operator.get("/anything-else").await?.0, 401);

    let channel = Entrant::new(&admin).connect().await?;
    let mut service = AdminServiceClient::new(channel);
    let bearing = |token: &str| -> Result<_, Failure> {
        let mut metadata = tonic::metadata::MetadataMap::new();
        metadata.insert("authorization", format!("Bearer {token}").parse()?);
        Ok(metadata)
    };
    for (token, reads, drains) in [
        ("", Code::Unauthenticated, Code::Unauthenticated),
        (
            "nobody-nobody-nobody",
            Code::Unauthenticated,
            Code::Unauthenticated,
        ),
        (
            "blue-blue-blue-blue",
            Code::PermissionDenied,
            Code::PermissionDenied,
        ),
        ("dashboard-dashboard", Code::Ok, Code::PermissionDenied),
    ] {
        let mut list = Request::new(ListSessionsRequest::default());
        let mut drain = Request::new(DrainRequest::default());
        if !token.is_empty() {
            *list.metadata_mut() = bearing(token)?;
            *drain.metadata_mut() = bearing(token)?;
        }
        let listed = service.list_sessions(list).await;
        let drained = service.drain(drain).await;
        assert_eq!(
            listed.err().map_or(Code::Ok, |s| s.code()),
            reads,
            "{token}"
        );
        assert_eq!(
            drained.err().map_or(Code::Ok, |s| s.code()),
            drains,
            "{token}"
        );
    }
    // The command line, too.
    let path = file.folder.path().join("token");
    std::fs::write(&path, "dashboard-dashboard")?;
    let (admin, path) = (format!("--admin={admin}"), path.display().to_string());
    let reader = Entrant::new(&server.url()).with_token("reader-of-blue-only");
    let session = Peer::connect(&reader, "somebody").await?;
    let listed = run(&["sessions", &admin, "--token-file", &path]).await?;
    assert_eq!(listed.code, Some(0), "{listed:?}");
    assert!(listed.output.contains("  blue-reader  "), "{listed:?}");
    drop(session);
    let refused = run(&["sessions", &admin]).await?;
    assert_eq!(refused.code, Some(1), "{refused:?}");

    let mut drain = Request::new(DrainRequest {
        reason: "an upgrade".to_owned(),
    });
    *drain.metadata_mut() = bearing("on-call-on-call-on-call")?;
    service.drain(drain).await?;
    assert!(server.wait().await?.success());
    let log = server.log();
    assert!(
        log.contains("AdminService/Drain") && log.contains("on-call"),
        "{log}"
    );
    assert!(log.contains("an upgrade"), "{log}");
    assert_silent(&server);
    Ok(())
}
