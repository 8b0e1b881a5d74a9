//! **advisory**: with the server slow, gone or wrong, the process that embeds the
//! client never blocks, never fails and never grows without bound.
//!
//! A push takes a short lock and goes to a bounded buffer, out of which the
//! oldest fall; events wait in a bounded queue, and the network is not read while
//! it is full.
//!
//! Mutations: `events-are-unbounded`, `pushes-are-unbounded`.

use bytes::Bytes;
use persist_pubsub_client::{Config as ClientConfig, Event, Home, connect};
use persist_pubsub_compat_tests::wait::within;

use super::super::{Failure, Verdict};
use super::storm::{Arena, Ways, config, replicas_for, shard};

const PUSHES: u64 = 20_000;
const BYTES: usize = 1_000;
const BUFFER: usize = 256 * 1024;

#[tokio::test]
async fn advisory() -> Verdict {
    // Nobody there: a port that is taken, so that nobody else gets it, and on
    // which nobody listens.
    let gone = tokio::net::TcpSocket::new_v4()?;
    gone.bind(([127, 0, 0, 1], 0).into())?;
    pushes_are_bounded(Home::at(&gone.local_addr()?.to_string())?).await?;
    // Somebody who takes connections and never says a word.
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    pushes_are_bounded(Home::at(&mute.local_addr()?.to_string())?).await?;
    // The real server, and a host that does not read its events.
    events_are_bounded(Ways::Network).await
}

#[tokio::test]
async fn advisory_across_replicas() -> Verdict {
    match replicas_for("advisory") {
        true => events_are_bounded(Ways::Replicas).await,
        false => Ok(()),
    }
}

#[tokio::test]
async fn advisory_in_process() -> Verdict {
    let gone = Arena::open(Ways::InProcess, config()).await?.home()?;
    pushes_are_bounded(gone).await?;
    events_are_bounded(Ways::InProcess).await?;
    events_are_bounded(Ways::Mixed).await
}

async fn pushes_are_bounded(home: Home) -> Verdict {
    let config = ClientConfig::with_homes([home]).push_buffer(BUFFER, 1_000_000);
    let (client, _events) = connect(config);
    let _token = client.subscribe(&shard(0));
    // On a thread of its own: a push that blocks fails the test by time.
    let pushing = client.clone();
    let pushes = tokio::task::spawn_blocking(move || {
        let diff = Bytes::from(vec![7; BYTES]);
        for seqno in 1..=PUSHES {
            pushing.push_diff(&shard(0), seqno, diff.clone());
            let held = pushing.stats().buffered_bytes;
            assert!(held <= BUFFER as u64, "{held} bytes wait");
        }
    });
    within("pushes into the void", pushes).await??;
    let stats = client.stats();
    assert_eq!(stats.pushes, PUSHES);
    assert!(stats.pushes_dropped > PUSHES / 2);
    Ok(())
}

async fn events_are_bounded(ways: Ways) -> Verdict {
    let mut server = config();
    server.log_entries_per_shard = 100;
    let arena = Arena::open(ways, server).await?;
    let (writer, mut own) = connect(ClientConfig::with_homes([arena.home()?]));
    let config = ClientConfig::with_homes([arena.home()?]).event_buffer(64 * 1024, 100);
    let (reader, mut events) = connect(config);
    let _token = reader.subscribe_from(&shard(0), 0);
    for events in [&mut own, &mut events] {
        let connected = within("a connection", events.next()).await?;
        assert!(matches!(connected, Some(Event::Connected { .. })));
    }
    let diff = Bytes::from(vec![7; BYTES]);
    for seqno in 1..=PUSHES {
        writer.push_diff(&shard(0), seqno, diff.clone());
        // The host of the reader pushes as well, and is not held up.
        reader.push_diff(&shard(1), seqno, diff.clone());
        if seqno.is_multiple_of(500) {
            sent(&writer).await?;
            sent(&reader).await?;
        }
    }
    // The client has told the host nothing that it has not read; and holds no
    // more than its bound, and what is under way.
    let waiting = reader.stats().diff_bytes;
    assert!(waiting < 4 << 20, "{waiting} bytes of events");
    // When the host reads again, it learns where the shard is.
    let mut told = 0;
    within("the host to learn of the last seqno", async {
        while told < PUSHES {
            match events.next().await {
                Some(Event::Diff { seqno, .. }) => told = told.max(seqno),
                Some(Event::Gap { to, .. }) => told = told.max(to),
                Some(Event::Resync { highest, .. }) => told = told.max(highest.unwrap_or(0)),
                Some(_) => {}
                None => return Err(Failure::from("the events have ended")),
            }
        }
        Ok(())
    })
    .await??;
    Ok(())
}

/// Waits until the network has taken what was pushed.
async fn sent(client: &persist_pubsub_client::Client) -> Verdict {
    persist_pubsub_compat_tests::wait::until("pushes to be sent", async || {
        (client.stats().buffered_bytes == 0).then_some(())
    })
    .await?;
    Ok(())
}
