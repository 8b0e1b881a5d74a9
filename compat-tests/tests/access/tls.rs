//! Certificates on both ends.

use persist_pubsub_client::{Config, Event, Tls, connect};
use persist_pubsub_compat_tests::certificates::Authority;
use persist_pubsub_compat_tests::child::{Child, ChildError, Folder};
use persist_pubsub_compat_tests::command_line::run;
use persist_pubsub_compat_tests::entrant::Entrant;
use persist_pubsub_compat_tests::grpcurl::Grpcurl;
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::recording::Push;
use persist_pubsub_compat_tests::tools::left_out;
use persist_pubsub_compat_tests::v0_peer;
use persist_pubsub_compat_tests::v0_peer::PeerError;
use persist_pubsub_compat_tests::v1_peer::Peer;
use persist_pubsub_compat_tests::wait::{until, within};
use persist_pubsub_proto::ShardId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::super::{Verdict, server};
use super::{https, refs, tls_flags};

const SHARD: ShardId = ShardId::new([0x71; 16]);
const SPIFFE: &str = "spiffe://cluster.local/ns/materialize/sa/environmentd";

async fn failed_in_tls(operator: &Operator, port: &str) -> Option<f64> {
    let series = format!("persist_pubsub_tls_handshake_errors_total{{port=\"{port}\"}}");
    operator.metric(&series).await.ok()
}

#[tokio::test]
async fn only_certificates_of_the_authority_and_a_name_get_in() -> Verdict {
    let ours = Authority::new("ours")?;
    let theirs = Authority::new("ours")?;
    let port = ours.issue(&["localhost"])?;
    let mut flags = tls_flags("", &port);
    flags.push(format!("--tls-client-ca={}", port.file("ca.crt").display()));
    flags.push(format!("--tls-allowed-names={SPIFFE},reader.internal"));
    let server = server(&refs(&flags)).await?;
    let operator = Operator::connect(&server).await?;
    let at = || Entrant::new(&https(&server)).trusting(&ours);

    let mut reader =
        Peer::connect(&at().showing(&ours.issue(&["reader.internal"])?), "reader").await?;
    reader.follow(SHARD, Some(0)).await?;
    let mut turned_away = 0.0;
    for (what, entrant) in [
        ("no certificate", at()),
        (
            "another authority",
            at().showing(&theirs.issue(&["reader.internal"])?),
        ),
        ("another name", at().showing(&ours.issue(&["other"])?)),
        (
            "a name within a name",
            at().showing(&ours.issue(&["x.reader.internal", "spiffe://cluster.local/ns"])?),
        ),
        (
            "the right common name",
            at().showing(&ours.issue(&["common-name"])?),
        ),
        (
            "expired",
            at().showing(&ours.issue_until(&["reader.internal"], 2020)?),
        ),
        ("no TLS", Entrant::new(&server.url())),
    ] {
        let refused = Peer::connect(&entrant, what).await;
        assert!(refused.is_err(), "{what} got in");
        turned_away += 1.0;
        until(&format!("{what} to be counted"), async || {
            (failed_in_tls(&operator, "data").await? >= turned_away).then_some(())
        })
        .await?;
    }
    // The server proves itself as well.
    let mistrusts = Entrant::new(&https(&server))
        .trusting(&theirs)
        .showing(&ours.issue(&["reader.internal"])?);
    let refused = Peer::connect(&mistrusts, "mistrusts").await;
    assert!(
        matches!(refused, Err(PeerError::Transport(_))),
        "{refused:?}"
    );

    let writer = at().showing(&ours.issue(&["whatever", SPIFFE])?);
    let writer = Peer::connect(&writer, "writer").await?;
    writer.sender().publish(SHARD, 1, 1, "over TLS").await?;
    let diff = reader.receiver().expect_diff("the diff").await?;
    assert_eq!(diff.diff, "over TLS");
    let log = server.log();
    assert!(log.contains("connection failed in TLS"), "{log}");
    Ok(())
}

#[tokio::test]
async fn a_plaintext_port_beside_tls_serves_v0() -> Verdict {
    let ours = Authority::new("ours")?;
    let port = ours.issue(&["localhost"])?;
    let mut flags = tls_flags("", &port);
    flags.push("--listen-plaintext=127.0.0.1:0".to_owned());
    let server = server(&refs(&flags)).await?;
    let plain = server.addresses().listen_plaintext;
    let plain = format!("http://{}", plain.ok_or("no plaintext port")?);
    let mut old = v0_peer::Peer::connect(&plain, "old").await?;
    old.sender().subscribe(SHARD).await?;

    let config = Config::new(&https(&server))?.tls(Tls::ca_file(port.file("ca.crt")));
    let (client, mut events) = connect(config);
    let token = client.subscribe(&SHARD);
    let connected = |event: &Event| matches!(event, Event::Resync { .. });
    loop {
        let event = within("the answer to the subscription", events.next()).await?;
        if connected(&event.ok_or("the client has ended")?) {
            break;
        }
    }
    until("the old one to hear the new one", async || {
        client.push_diff(&SHARD, 1, "new".into());
        let heard = tokio::time::timeout(
            std::time::Duration::from_millis(100),
            old.receiver().receive_push(),
        );
        heard.await.ok()?.ok()?
    })
    .await?;
    let push = Push {
        shard: SHARD,
        seqno: 2,
        diff: "old".into(),
    };
    old.sender().push(push).await?;
    loop {
        let event = within("the old one's diff", events.next()).await?;
        if let Some(Event::Diff { diff, .. }) = &event {
            assert_eq!(diff, "old");
            break;
        }
        assert!(event.is_some(), "the client has ended");
    }
    drop(token);
    Ok(())
}

#[tokio::test]
async fn a_peer_that_stalls_in_tls_is_bounded_like_others() -> Verdict {
    let ours = Authority::new("ours")?;
    let port = ours.issue(&["localhost"])?;
    let mut flags = [tls_flags("", &port), tls_flags("admin-", &port)].concat();
    flags.push("--handshake-timeout=300ms".to_owned());
    flags.push("--max-handshakes=2".to_owned());
    let server = server(&refs(&flags)).await?;
    for port in [server.addresses().listen, server.addresses().admin_listen] {
        let mut stalled = Vec::new();
        for _ in 0..6 {
            let mut tcp = TcpStream::connect(port).await?;
            // A record's head, and the beginning of a ClientHello.
            tcp.write_all(&[22, 3, 1, 2, 0, 1, 0]).await?;
            stalled.push(tcp);
        }
        for mut tcp in stalled {
            let mut rest = Vec::new();
            // Reset or closed, and nothing said.
            let ended = tcp.read_to_end(&mut rest);
            let _ = within("a stalled connection to be closed", ended).await?;
        }
    }
    let at = Entrant::new(&https(&server)).trusting(&ours);
    Peer::connect(&at, "not stalled").await?;
    Ok(())
}

/// A kubelet's TCP probe comes every two seconds: counted and logged, it would
/// hide who really cannot connect.
#[tokio::test]
async fn a_probe_of_the_port_is_no_failure() -> Verdict {
    let ours = Authority::new("ours")?;
    let port = ours.issue(&["localhost"])?;
    let server = server(&refs(&tls_flags("", &port))).await?;
    let operator = Operator::connect(&server).await?;
    let address = server.addresses().listen;
    // Nothing, the beginning of a ClientHello, and what is no TLS.
    for said in [&b""[..], &[22, 3, 1, 2, 0, 1, 0], b"GET / HTTP/1.1\r\n\r\n"] {
        let mut tcp = TcpStream::connect(address).await?;
        tcp.write_all(said).await?;
        // Of the last, the server may have closed it already.
        let _ = tcp.shutdown().await;
        let mut rest = Vec::new();
        let ended = tcp.read_to_end(&mut rest);
        let _ = within("the connection to be closed", ended).await?;
    }
    let logged = || server.log().matches("connection failed in TLS").count();
    until("the last of them to be logged", async || {
        (logged() >= 1).then_some(())
    })
    .await?;
    assert_eq!(logged(), 1, "{}", server.log());
    assert_eq!(failed_in_tls(&operator, "data").await, Some(1.0));
    Ok(())
}

#[tokio::test]
async fn grpcurl_and_the_command_line_speak_tls_to_both_ports() -> Verdict {
    let ours = Authority::new("ours")?;
    let port = ours.issue(&["localhost", "127.0.0.1"])?;
    let person = ours.issue(&["operator.internal"])?;
    let ca = port.file("ca.crt").display().to_string();
    let mut flags = [tls_flags("", &port), tls_flags("admin-", &port)].concat();
    flags.push(format!("--tls-client-ca={ca}"));
    flags.push(format!("--admin-tls-client-ca={ca}"));
    let server = server(&refs(&flags)).await?;
    let addresses = server.addresses();
    let (certificate, key) = (person.file("tls.crt"), person.file("tls.key"));
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());

    let shown = [
        format!("--tls-ca={ca}"),
        format!("--tls-cert={certificate}"),
        format!("--tls-key={key}"),
    ];
    let (data, admin) = (
        format!("--server=https://{}", addresses.listen),
        format!("--admin=https://{}", addresses.admin_listen),
    );
    let shard = SHARD.to_string();
    let mut push = vec!["push", &data, &shard, "1", "hello"];
    push.extend(shown.iter().map(String::as_str));
    let pushed = run(&push).await?;
    assert_eq!(pushed.code, Some(0), "{pushed:?}");
    let mut shards = vec!["shards", &admin];
    shards.extend(shown.iter().map(String::as_str));
    let listed = run(&shards).await?;
    assert!(listed.output.contains(&shard), "{listed:?}");
    // What containers and charts ask.
    let operators = format!("--server=https://{}", addresses.admin_listen);
    for (command, port) in [
        ("check", &data),
        ("healthcheck", &data),
        ("healthcheck", &operators),
    ] {
        let mut asked = vec![command, "--timeout=1m", port];
        asked.extend(shown.iter().map(String::as_str));
        let said = run(&asked).await?;
        assert_eq!(said.code, Some(0), "{command} {port}: {said:?}");
    }
    // Without the authority nothing is sent, and the flag is named.
    let blind = run(&["shards", &admin]).await?;
    assert_eq!(blind.code, Some(2));
    assert!(blind.error.contains("--tls-ca"), "{blind:?}");
    // Without a certificate it is the server that refuses.
    let ca_alone = run(&["shards", &admin, &shown[0]]).await?;
    assert_eq!(ca_alone.code, Some(1), "{ca_alone:?}");

    let name = "access::tls::grpcurl_and_the_command_line_speak_tls_to_both_ports";
    let grpcurl = match Grpcurl::find() {
        Ok(grpcurl) => grpcurl,
        Err(missing) => {
            left_out(name, &missing);
            return Ok(());
        }
    };
    for (address, service) in [
        (addresses.listen, "persist.pubsub.v1.PubSubService"),
        (
            addresses.admin_listen,
            "persist.pubsub.admin.v1.AdminService",
        ),
    ] {
        let address = address.to_string();
        let arguments = [
            "-cacert",
            &ca,
            "-cert",
            &certificate,
            "-key",
            &key,
            &address,
            "list",
        ];
        let services = grpcurl.run(&arguments).await?;
        assert!(services.contains(service), "{services}");
        let refused = grpcurl.run(&["-cacert", &ca, &address, "list"]).await;
        assert!(refused.is_err());
    }
    Ok(())
}

#[tokio::test]
async fn files_that_cannot_be_are_named_with_what_is_wrong() -> Verdict {
    let (ours, folder) = (Authority::new("ours")?, Folder::new()?);
    let (one, other) = (ours.issue(&["localhost"])?, ours.issue(&["localhost"])?);
    let nonsense = folder.path().join("nonsense");
    std::fs::write(&nonsense, "nonsense")?;
    let cert = |path: &std::path::Path| format!("--tls-cert={}", path.display());
    let key = |path: &std::path::Path| format!("--tls-key={}", path.display());
    let nowhere = std::path::Path::new("/nowhere/tls.crt");
    let (good_cert, good_key) = (one.file("tls.crt"), one.file("tls.key"));
    for (flags, expected) in [
        (vec![cert(nowhere), key(&good_key)], "--tls-cert"),
        (vec![cert(nowhere), key(&good_key)], "cannot be read"),
        (vec![cert(&nonsense), key(&good_key)], "no certificate"),
        (vec![cert(&good_key), key(&good_key)], "no certificate"),
        (vec![cert(&good_cert), key(&nonsense)], "no private key"),
        (vec![cert(&good_cert), key(&good_cert)], "no private key"),
        (
            vec![cert(&good_cert), key(&other.file("tls.key"))],
            "is not the key of the first certificate",
        ),
        (vec![cert(folder.path()), key(&good_key)], "no regular file"),
        (vec![cert(&good_cert)], "needs --tls-key"),
        (vec![key(&good_key)], "needs --tls-cert"),
        (
            vec![
                cert(&good_cert),
                key(&good_key),
                format!("--tls-client-ca={}", nonsense.display()),
            ],
            "'--tls-client-ca'",
        ),
        (
            vec![
                cert(&good_cert),
                key(&good_key),
                "--tls-allowed-names=a".to_owned(),
            ],
            "needs --tls-client-ca",
        ),
        (
            vec!["--admin-tls-client-ca=/x".to_owned()],
            "needs --admin-tls-cert",
        ),
        (
            vec!["--listen-plaintext=127.0.0.1:0".to_owned()],
            "needs --tls-cert",
        ),
        (
            vec![format!("--tokens-file={}", nonsense.display())],
            "not TOML at line 1",
        ),
        (vec!["--max-sessions-per-identity=0".to_owned()], "1 to"),
        (vec!["--reload-interval=1ms".to_owned()], "10ms to 1h"),
    ] {
        match Child::start(&flags).await {
            Err(ChildError::Exited { status, log }) => {
                assert_eq!(status.code(), Some(2), "{flags:?}: {log}");
                assert!(log.contains(expected), "{flags:?}: {log}");
            }
            other => return Err(format!("{flags:?}: {other:?}").into()),
        }
    }
    Ok(())
}
