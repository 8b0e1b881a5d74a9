//! Whatever stands where the server should be: calls return at once, what
//! waits stays within its bound, and when a server comes everybody learns how
//! far the shards have come.
//!
//! One thread runs it all: a call that waited for anything would wait forever.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use persist_pubsub_client::{Client, Event, Events, ShardId, connect};
use persist_pubsub_proto::v1;
use persist_pubsub_proto::v1::session_response::Message as Heard;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::peer::{
    Peer, V1, config, event, expect_connected, expect_diff, limits, payload, shard, soon, until,
};
use crate::script::{diff, welcome};

/// What may wait to be sent, in bytes.
const BUFFER: usize = 64 * 1024;
/// Attempts that have to fail while the host goes on.
const ATTEMPTS: u64 = 3;

/// What accepts connections in the server's place.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    /// Closes each at once.
    Closes,
    /// Says nothing.
    Mute,
    /// Says nonsense, without an end.
    Babbles,
    /// Says HTTP/2, one byte at a time, and never enough.
    Slow,
    /// Speaks gRPC, and lets nobody in.
    Denies,
    /// Welcomes everybody, and ends the session.
    Ends,
}

impl Wrong {
    async fn serve(self) -> (SocketAddr, JoinHandle<()>) {
        if let Self::Denies | Self::Ends = self {
            return self.serve_grpc().await;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                open.spawn(async move {
                    // Whatever fails here: the client let go of it.
                    match self {
                        Self::Mute => {
                            while stream.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {}
                        }
                        Self::Babbles => while stream.write_all(&[0xa5; 1024]).await.is_ok() {},
                        Self::Slow => {
                            // SETTINGS, and then a frame that is never whole.
                            let said = [[0, 0, 0, 4, 0, 0, 0, 0, 0], [0, 64, 0, 0, 0, 0, 0, 0, 1]];
                            for byte in said.concat() {
                                if stream.write_all(&[byte]).await.is_err() {
                                    return;
                                }
                                tokio::time::sleep(Duration::from_millis(1)).await;
                            }
                            let _ = stream.read_to_end(&mut Vec::new()).await;
                        }
                        _ => {}
                    }
                });
            }
        });
        (address, task)
    }

    async fn serve_grpc(self) -> (SocketAddr, JoinHandle<()>) {
        let mut peer = Peer::<V1>::start().await;
        let address = peer.address;
        let task = tokio::spawn(async move {
            loop {
                let mut session = peer.accept().await;
                let _hello = session.said().await;
                if let Self::Ends = self {
                    session.say(welcome(v1::Limits::default(), 0)).await;
                }
                session.fail(tonic::Status::permission_denied("no")).await;
            }
        });
        (address, task)
    }
}

/// The host at work: pushes to four shards, and subscribes to one after the
/// other.
fn work(client: &Client, newest: &mut BTreeMap<ShardId, u64>) {
    let diff = Bytes::from_static(&[7; 500]);
    for _ in 0..100 {
        for n in 1..=4 {
            let seqno = newest.entry(shard(n)).or_insert(0);
            *seqno += 1;
            client.push_diff(&shard(n), *seqno, diff.clone());
            drop(client.subscribe(&shard(100 + n)));
        }
        assert!(client.stats().buffered_bytes <= BUFFER as u64);
    }
}

#[tokio::test]
async fn whatever_is_wrong_with_the_server() {
    for wrong in [
        Wrong::Closes,
        Wrong::Mute,
        Wrong::Babbles,
        Wrong::Slow,
        Wrong::Denies,
        Wrong::Ends,
    ] {
        let (address, serving) = wrong.serve().await;
        let config = config(address)
            .push_buffer(BUFFER, 1_000)
            .handshake_timeout(Duration::from_millis(50));
        let (client, events) = connect(config);
        let heard = tokio::spawn(until_diff(events));
        let _token = client.subscribe_from(&shard(9), 0);
        let mut newest = BTreeMap::new();
        soon("attempts that fail", async {
            while client.stats().attempts <= ATTEMPTS {
                work(&client, &mut newest);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        work(&client, &mut newest);
        assert!(client.stats().pushes_dropped > 0, "{wrong:?}");

        serving.abort();
        let _ = serving.await;
        let mut peer = Peer::<V1>::start_at(address).await;
        // A busy machine may not be within the time for a greeting.
        let mut session = loop {
            let mut session = peer.accept().await;
            // While it greets, it has no other.
            let before = client.stats().established;
            let _hello = session.try_hear().await;
            let message = Some(welcome(limits(), 0));
            let response = v1::SessionResponse { message };
            let _ = session.outgoing.send(Ok(response)).await;
            tokio::select! {
                () = until(&client, "it", |s| s.established > before) => break session,
                () = session.outgoing.closed() => {}
            }
        };
        // All of its shards, by a diff or by their seqno alone.
        let mut told = BTreeMap::new();
        let subscribed = session.grant(Some(0)).await;
        assert_eq!(subscribed, [(shard(9), Some(0))], "{wrong:?}");
        while told != newest {
            let (shard, seqno, _) = session.publish().await;
            let highest = told.entry(shard).or_insert(0);
            *highest = seqno.max(*highest);
        }
        session.diff(shard(9), 1).await;
        soon("the diff", heard).await.unwrap();
    }
}

/// Reads until the one diff that there is.
async fn until_diff(mut events: Events) {
    while let Some(event) = events.next().await {
        if let Event::Diff { .. } = event {
            return;
        }
    }
    panic!("the events have ended");
}

/// Of everything that a server can say, far more than anybody should.
#[tokio::test]
async fn a_server_that_sends_a_flood() {
    const EACH: u64 = 2_000;
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    let _token = client.subscribe_from(&shard(1), 0);
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    session.grant(Some(0)).await;
    session.diff(shard(1), 1).await;
    expect_diff(&mut events, shard(1), 1).await;
    let mouth = session.mouth();
    let flood = async {
        for n in 0..EACH {
            // A subscription that nobody has; a diff and a gap that are known.
            mouth.say(diff(shard(2), n, payload(n))).await;
            mouth.say(diff(shard(1), 1, payload(1))).await;
            mouth
                .say(Heard::Gap(v1::Gap {
                    shard_id: shard(2).to_bytes(),
                    from_seqno: 0,
                    to_seqno: n,
                    highest_seqno: n,
                }))
                .await;
            mouth.say(Heard::Heartbeat(v1::Heartbeat {})).await;
            mouth.say(welcome(v1::Limits::default(), 1)).await;
            mouth
                .say(Heard::Subscribed(v1::Subscribed {
                    request_id: n,
                    shards: vec![v1::ShardHead::default(); 10],
                }))
                .await;
            mouth
                .say(Heard::Rejected(v1::Rejected {
                    request_id: n,
                    reason: "x".repeat(2_000),
                    ..v1::Rejected::default()
                }))
                .await;
        }
        mouth.say(diff(shard(1), 2, payload(2))).await;
    };
    // Meanwhile the host is at work.
    let host = async {
        for seqno in 1..=EACH {
            client.push_diff(&shard(3), seqno, payload(seqno));
            assert_eq!(session.publish().await.1, seqno);
        }
    };
    tokio::join!(flood, host);
    expect_diff(&mut events, shard(1), 2).await;
    let now = client.stats();
    assert_eq!((now.established, now.lost), (1, 0));
    assert_eq!((now.diffs, now.gaps, now.resyncs), (2, 0, 0));
    assert_eq!((now.duplicates, now.stale), (EACH, 2 * EACH));
    assert_eq!((now.malformed, now.rejected), (11 * EACH, EACH));
}

/// News without an end, for a host that does not read: it is told no more than
/// fits, and its own pushes go out.
#[tokio::test]
async fn a_flood_that_nobody_reads_waits_at_the_server() {
    const ROOM: u64 = 100;
    const GAPS: u64 = 20_000;
    let mut peer = Peer::<V1>::start().await;
    let config = peer.config().event_buffer(1 << 20, 100);
    let (client, mut events) = connect(config);
    let _token = client.subscribe_from(&shard(1), 0);
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    session.grant(Some(0)).await;
    let mouth = session.mouth();
    let flood = tokio::spawn(async move {
        for n in 1..=GAPS {
            mouth
                .say(Heard::Gap(v1::Gap {
                    shard_id: shard(1).to_bytes(),
                    from_seqno: n,
                    to_seqno: n,
                    highest_seqno: n,
                }))
                .await;
        }
    });
    until(&client, "a full buffer", |stats| stats.gaps >= ROOM).await;
    for seqno in 1..=1_000 {
        client.push_diff(&shard(3), seqno, payload(seqno));
        assert_eq!(session.publish().await.1, seqno);
        // One more than fits is in hand.
        assert!(client.stats().gaps <= ROOM + 1);
    }
    for n in 1..=GAPS {
        let told = event(&mut events).await;
        assert!(
            matches!(told, Event::Gap { from, to, .. } if from == n && to == n),
            "{told:?}"
        );
    }
    soon("the flood to end", flood).await.unwrap();
}
