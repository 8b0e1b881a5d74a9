//! What alerts and the dashboard ask for is what a server tells.

use std::collections::BTreeSet;

use persist_pubsub_compat_tests::certificates::Authority;
use persist_pubsub_compat_tests::child::workspace;
use persist_pubsub_compat_tests::command_line::run;
use persist_pubsub_compat_tests::nats::conf::Conf;
use persist_pubsub_compat_tests::nats::{self, Nats};
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::raw_connection::{DATA, PREFACE, RawConnection, frame};
use persist_pubsub_compat_tests::replicas::Replicas;
use persist_pubsub_compat_tests::v1_peer;
use persist_pubsub_compat_tests::wait::until;
use persist_pubsub_proto::{ShardId, v1};

use super::{Verdict, server};

/// What the names of metrics begin with that replicas alone tell.
const OF_REPLICAS: &str = "persist_pubsub_backplane_";

const SHARD: ShardId = ShardId::new([0x0b; 16]);

/// Whoever comes over the plaintext port may publish and subscribe.
const IDENTITIES: &str = "[[identity]]
name = \"anybody\"
environment = \"default\"
rights = [\"publish\", \"subscribe\"]
plaintext = true
";

/// The names of metrics in rules and dashboard: whatever begins like one.
fn asked() -> std::io::Result<BTreeSet<String>> {
    let files = workspace().join("helm/persist-pubsub/files");
    let mut names = BTreeSet::new();
    for file in ["rules.yaml", "dashboard.json"] {
        let text = std::fs::read_to_string(files.join(file))?;
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        names.extend(
            words
                .filter(|word| {
                    ["persist_pubsub_", "mz_persist_pubsub_", "process_"]
                        .iter()
                        .any(|prefix| word.starts_with(prefix))
                })
                .map(str::to_owned),
        );
    }
    Ok(names)
}

#[tokio::test]
async fn every_metric_that_is_asked_for_is_told() -> Verdict {
    // One that tells of certificates and identities as well.
    let port = Authority::new("ours")?.issue(&["localhost"])?;
    let identities = port.file("identities.toml");
    std::fs::write(&identities, IDENTITIES)?;
    let flags = [
        format!("--tls-cert={}", port.file("tls.crt").display()),
        format!("--tls-key={}", port.file("tls.key").display()),
        format!("--tokens-file={}", identities.display()),
        "--listen-plaintext=127.0.0.1:0".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let server = server(&flags).await?;
    let operator = Operator::connect(&server).await?;
    let plaintext = server.addresses().listen_plaintext.ok_or("no port")?;
    // Some are told from their first time on: sessions, there and ended, a
    // refused message, a broken connection, somebody unknown.
    let url = format!("http://{plaintext}");
    assert!(operator.info().await.is_err(), "nobody is an operator here");
    let checked = run(&["check", "--timeout=1m", "--server", &url]).await?;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let peer = v1_peer::Peer::connect(&url, "peer").await?;
    peer.sender().publish(SHARD, u64::MAX, 1, "x").await?;
    let mut broken = RawConnection::connect(plaintext).await?;
    // DATA of no stream.
    let nonsense = [PREFACE, &frame(DATA, 0, 0, b"x")].concat();
    broken.write(&nonsense).await?;
    broken.closed("the end of a broken connection").await?;

    let mut asked = asked()?;
    // A server that is alone has none of these.
    asked.retain(|name| !name.starts_with(OF_REPLICAS));
    assert!(asked.len() > 30, "{asked:?}");
    all_are_told(&operator, &asked).await
}

#[tokio::test]
async fn every_metric_of_replicas_that_is_asked_for_is_told() -> Verdict {
    if !nats::found("every_metric_of_replicas_that_is_asked_for_is_told") {
        return Ok(());
    }
    let nats = Nats::start(&Conf::default()).await?;
    let replicas = Replicas::start(&[nats.address()], 2, &[]).await?;
    let mut asked = asked()?;
    asked.retain(|name| name.starts_with(OF_REPLICAS));
    assert!(asked.len() > 10, "{asked:?}");
    all_are_told(replicas.one(0).operator(), &asked).await
}

async fn all_are_told(operator: &Operator, asked: &BTreeSet<String>) -> Verdict {
    let mut missing = Vec::new();
    let told = until("every metric that is asked for", async || {
        let (_, text) = operator.get("/metrics").await.ok()?;
        let told: BTreeSet<&str> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split(['{', ' ']).next())
            .collect();
        let untold = asked.iter().filter(|name| !told.contains(name.as_str()));
        missing = untold.cloned().collect();
        missing.is_empty().then_some(())
    })
    .await;
    assert!(told.is_ok(), "nobody tells {missing:?}");
    Ok(())
}

/// The read-only one is not expected to publish, and the one that did is not
/// silent for as long as it has been there.
#[tokio::test]
async fn a_generation_that_may_publish_and_does_not_is_told() -> Verdict {
    let server = server(&[]).await?;
    let operator = Operator::connect(&server).await?;
    let mut peers = Vec::new();
    for (generation, mode) in [
        (7, v1::SessionMode::ReadWrite),
        (8, v1::SessionMode::ReadWrite),
        (9, v1::SessionMode::ReadOnly),
    ] {
        let hello = v1::Hello {
            deploy_generation: generation,
            mode: mode.into(),
            ..v1_peer::hello("peer")
        };
        peers.push(v1_peer::Peer::connect_as(&server.url(), hello).await?);
    }
    let silent = async |generation: u64| {
        let (_, text) = operator.get("/metrics").await.ok()?;
        let series =
            format!("persist_pubsub_generation_silent_seconds{{generation=\"{generation}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&series))?;
        line.parse::<f64>().ok()
    };
    // It came before the other.
    until("the newer one to be told as the less silent", async || {
        (silent(8).await? < silent(7).await?).then_some(())
    })
    .await?;
    // Until it publishes.
    peers[0].sender().publish(SHARD, 1, 1, "x").await?;
    until("the one that publishes to be the less silent", async || {
        (silent(7).await? < silent(8).await?).then_some(())
    })
    .await?;
    assert_eq!(silent(9).await, None);
    Ok(())
}
