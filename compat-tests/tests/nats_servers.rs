//! The instrument itself: nats-servers as children.

use async_nats::{Client, ConnectOptions};
use nkeys::KeyPair;
use persist_pubsub_compat_tests::certificates::Authority;
use persist_pubsub_compat_tests::nats::cluster::Cluster;
use persist_pubsub_compat_tests::nats::conf::{Conf, Denied};
use persist_pubsub_compat_tests::nats::jwt::Operator;
use persist_pubsub_compat_tests::nats::{self, Nats};
use persist_pubsub_compat_tests::proxy::Proxy;
use persist_pubsub_compat_tests::wait::{until, within};
use tokio_stream::StreamExt as _;

use super::{Failure, Verdict};

/// What one says the other hears.
async fn hears(speaker: &Client, listener: &Client) -> Verdict {
    let mut heard = listener.subscribe("subject").await?;
    listener.flush().await?;
    // A subscription reaches the other members of a cluster a moment later.
    until("a message to be heard", async || {
        speaker.publish("subject", "word".into()).await.ok()?;
        let next = tokio::time::timeout(std::time::Duration::from_millis(50), heard.next());
        next.await.ok()?
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_cluster_is_one_and_its_members_come_back() -> Verdict {
    if !nats::found("a_cluster_is_one_and_its_members_come_back") {
        return Ok(());
    }
    let mut cluster = Cluster::start(&Conf::default(), 3).await?;
    let connect = |url: String| async_nats::connect(url);
    let mut clients = Vec::new();
    for member in 0..3 {
        clients.push(connect(cluster.member(member).url()).await?);
    }
    hears(&clients[0], &clients[1]).await?;
    hears(&clients[2], &clients[0]).await?;
    // It tells clients of no other member: they would go past their lines.
    for client in &clients {
        assert_eq!(client.server_info().connect_urls, Vec::<String>::new());
    }
    cluster.member(1).kill().await?;
    hears(&clients[0], &clients[2]).await?;
    cluster.restart(1).await?;
    cluster.is_whole().await?;
    let back = connect(cluster.member(1).url()).await?;
    hears(&back, &clients[0]).await
}

#[tokio::test]
async fn one_that_is_started_anew_has_nothing() -> Verdict {
    if !nats::found("one_that_is_started_anew_has_nothing") {
        return Ok(());
    }
    let mut nats = Nats::start(&Conf::default().jetstream()).await?;
    let line = Proxy::start(nats.address()).await?;
    let url = format!("nats://{}", line.address());
    // Not by `create_key_value`: it cannot read what 2.9 says of an account.
    let streams = async || {
        let jetstream = async_nats::jetstream::new(async_nats::connect(&url).await?);
        let names: Vec<_> = jetstream.stream_names().collect().await;
        Ok::<_, Failure>(names.into_iter().flatten().collect::<Vec<_>>())
    };
    let jetstream = async_nats::jetstream::new(async_nats::connect(&url).await?);
    let config = async_nats::jetstream::stream::Config {
        name: "stream".to_owned(),
        num_replicas: 1,
        ..Default::default()
    };
    jetstream.create_stream(config).await?;
    assert_eq!(streams().await?, ["stream"]);
    nats.restart().await?;
    line.switch(nats.address());
    assert_eq!(streams().await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn it_lets_in_whom_it_should() -> Verdict {
    if !nats::found("it_lets_in_whom_it_should") {
        return Ok(());
    }
    let enters = async |nats: &Nats, options: ConnectOptions| {
        let entering = Box::pin(options.connect(nats.url()));
        within("NATS' answer", entering)
            .await
            .is_ok_and(|it| it.is_ok())
    };
    let denied = Denied {
        publish: &["no.>"],
        subscribe: &["never"],
    };
    let nats = Nats::start(&Conf::default().user("name", "word", denied)).await?;
    let login = |word: &str| ConnectOptions::with_user_and_password("name".into(), word.into());
    assert!(enters(&nats, login("word")).await);
    assert!(!enters(&nats, login("other")).await);
    assert!(!enters(&nats, ConnectOptions::new()).await);

    let nats = Nats::start(&Conf::default().token("token")).await?;
    let login = |token: &str| ConnectOptions::with_token(token.into());
    assert!(enters(&nats, login("token")).await);
    assert!(!enters(&nats, login("other")).await);

    let (ours, other) = (KeyPair::new_user(), KeyPair::new_user());
    let conf = Conf::default().nkey(&ours.public_key(), Denied::default());
    let nats = Nats::start(&conf).await?;
    assert!(enters(&nats, ConnectOptions::with_nkey(ours.seed()?)).await);
    assert!(!enters(&nats, ConnectOptions::with_nkey(other.seed()?)).await);

    let (ours, other) = (Operator::new()?, Operator::new()?);
    let nats = Nats::start(&ours.trusted_by(Conf::default())).await?;
    let login = |of: &Operator| -> Result<_, Failure> {
        Ok(ConnectOptions::with_credentials(&of.credentials()?)?)
    };
    assert!(enters(&nats, login(&ours)?).await);
    assert!(!enters(&nats, login(&other)?).await);

    let authority = Authority::new("authority")?;
    let server = authority.issue(&["127.0.0.1"])?;
    let nats = Nats::start(&Conf::default().tls(&server, true)).await?;
    let trusting = || ConnectOptions::new().add_root_certificates(server.file("ca.crt"));
    let client = authority.issue(&["client"])?;
    let showing = trusting().add_client_certificate(client.file("tls.crt"), client.file("tls.key"));
    assert!(enters(&nats, showing).await);
    assert!(!enters(&nats, trusting()).await);
    Ok(())
}
