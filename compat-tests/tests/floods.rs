//! Floods: more of something than anybody honest sends, as fast as it goes,
//! over several connections. The server stays within what its settings say,
//! a metric shows which of them bit, and the bystanders notice nothing.
//!
//! Answers that are never read are in `isolation`, single bad messages in
//! `bad_input_*`.

mod flood;

use std::net::SocketAddr;
use std::time::Duration;

use persist_pubsub_compat_tests::raw_connection::{
    CANCEL, CONTINUATION, DATA, END_HEADERS, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, frame,
    header_block, headers,
};
use persist_pubsub_compat_tests::v1_peer;
use persist_pubsub_proto::{ShardId, v0};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tonic::codegen::http::Request;

use super::{Failure, Verdict};
use flood::{CONNECTIONS, Flood, many, pour};

const CALM: &str = r#"persist_pubsub_http2_errors_total{code="enhance_your_calm",frame="goaway"}"#;
const SLOWED: &str = "persist_pubsub_connections_slowed_total";
const EVICTED: &str = "persist_pubsub_handshakes_evicted_total";

/// Frames that cost the sender little and bring nothing: they are read at
/// their rate. Whoever answers them with silence is bounded as well.
#[tokio::test]
async fn of_pings_and_settings() -> Verdict {
    let mut flood = Flood::meets(&["--max-empty-frames-per-second=1000"]).await?;
    let ping = many(&frame(PING, 0, 0, b"flooding"));
    flood.begin(move |address| {
        let ping = ping.clone();
        pour(address, headers(v0::PATH), move || ping.clone())
    });
    flood.bites(SLOWED, 50.0).await?;
    let settings = many(&frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]));
    flood.begin(move |address| {
        let settings = settings.clone();
        pour(address, headers(v0::PATH), move || settings.clone())
    });
    flood.bites(SLOWED, 200.0).await?;
    // Two floods' connections, with a read and a write buffer each.
    flood.ends(2 * CONNECTIONS as u64).await
}

/// A stream that is opened and reset at once costs a server more than its
/// client. Those that were not accepted yet are counted by HTTP/2.
#[tokio::test]
async fn of_resets() -> Verdict {
    let mut flood = Flood::meets(&[]).await?;
    let block = header_block(v0::PATH);
    flood.begin(move |address| {
        let block = block.clone();
        let mut stream = 1;
        pour(address, Vec::new(), move || {
            let mut all = Vec::new();
            for _ in 0..100 {
                all.extend(frame(HEADERS, END_HEADERS, stream, &block));
                all.extend(frame(RST_STREAM, 0, stream, &CANCEL));
                stream += 2;
            }
            all
        })
    });
    flood.bites(CALM, 50.0).await?;
    flood.ends(CONNECTIONS as u64).await
}

/// The same, but each stream is answered before it is reset: a session that
/// comes and goes.
#[tokio::test]
async fn of_sessions_that_go_at_once() -> Verdict {
    let mut flood = Flood::meets(&[]).await?;
    flood.begin(|address| async move {
        // Ends with an error when the server hangs up.
        let _ = come_and_go(address).await;
    });
    let ended = r#"persist_pubsub_sessions_ended_total{reason="client_gone"}"#;
    flood.bites(ended, 1_000.0).await?;
    flood.ends(CONNECTIONS as u64).await
}

async fn come_and_go(address: SocketAddr) -> Result<(), Failure> {
    let tcp = TcpStream::connect(address).await?;
    let (mut client, connection) = h2::client::handshake(tcp).await?;
    let streams = async {
        loop {
            let request = Request::post(format!("http://{address}{}", v0::PATH))
                .header("content-type", "application/grpc")
                .body(())?;
            let (answer, mut stream) = client.send_request(request, false)?;
            answer.await?;
            stream.send_reset(h2::Reason::CANCEL);
        }
    };
    tokio::select! {
        ended = connection => Ok(ended?),
        failed = streams => failed,
    }
}

/// A message that comes a byte at a time is taken; no faster than frames that
/// bring nothing.
#[tokio::test]
async fn of_tiny_frames() -> Verdict {
    let mut flood = Flood::meets(&["--max-empty-frames-per-second=1000"]).await?;
    // Messages of no bytes, which v0 has no meaning for.
    let tiny = many(&frame(DATA, 0, 1, &[0]));
    flood.begin(move |address| {
        let tiny = tiny.clone();
        pour(address, headers(v0::PATH), move || tiny.clone())
    });
    flood.bites(SLOWED, 50.0).await?;
    let taken = flood.operator.rejected("v0", "empty").await?;
    assert!(taken > 0.0, "no message came of it");
    flood.ends(2 * CONNECTIONS as u64).await
}

#[tokio::test]
async fn of_empty_frames() -> Verdict {
    let mut flood = Flood::meets(&[]).await?;
    let empty = many(&frame(DATA, 0, 1, &[]));
    flood.begin(move |address| {
        let empty = empty.clone();
        pour(address, headers(v0::PATH), move || empty.clone())
    });
    flood.bites(CALM, 20.0).await?;
    flood.ends(CONNECTIONS as u64).await
}

/// Headers without an end, in frames of their own each.
#[tokio::test]
async fn of_headers() -> Verdict {
    let mut flood = Flood::meets(&[]).await?;
    let begin = frame(HEADERS, 0, 1, &header_block(v0::PATH));
    flood.begin(move |address| {
        // A literal that is not indexed: x: 100 bytes.
        let more = [&[0, 1, b'x', 100][..], &[b'a'; 100]].concat();
        let more = frame(CONTINUATION, 0, 1, &more);
        pour(address, begin.clone(), move || more.clone())
    });
    flood.bites(CALM, 20.0).await?;
    flood.ends(CONNECTIONS as u64).await
}

/// Headers that are whole, and larger than is taken.
#[tokio::test]
async fn of_large_headers() -> Verdict {
    let mut flood = Flood::meets(&["--max-header-bytes=2KiB"]).await?;
    let mut block = header_block(v0::PATH);
    for _ in 0..40 {
        block.extend([&[0, 1, b'x', 100][..], &[b'a'; 100]].concat());
    }
    flood.begin(move |address| {
        let block = block.clone();
        let mut stream = 1;
        pour(address, Vec::new(), move || {
            stream += 2;
            frame(HEADERS, END_HEADERS, stream, &block)
        })
    });
    let refused = r#"persist_pubsub_http2_errors_total{code="refused_stream",frame="rst_stream"}"#;
    flood.bites(refused, 50.0).await?;
    flood.ends(CONNECTIONS as u64).await
}

/// More streams than one connection may have.
#[tokio::test]
async fn of_streams() -> Verdict {
    let mut flood = Flood::meets(&["--max-streams-per-connection=10"]).await?;
    let block = header_block(v0::PATH);
    flood.begin(move |address| {
        let block = block.clone();
        let mut stream = 1;
        pour(address, Vec::new(), move || {
            stream += 2;
            frame(HEADERS, END_HEADERS, stream, &block)
        })
    });
    let refused = r#"persist_pubsub_http2_errors_total{code="refused_stream",frame="rst_stream"}"#;
    flood.bites(refused, 50.0).await?;
    let sessions = flood.operator.sessions().await?.len();
    assert!(sessions <= 3 + CONNECTIONS * 10, "{sessions}");
    flood.ends(CONNECTIONS as u64 * 2).await
}

/// Connections that never bring a request hold no place that others need:
/// more of them than there are places, and everybody honest gets in.
#[tokio::test]
async fn of_connections_that_never_begin() -> Verdict {
    const SILENT: usize = 900;
    let bounds = ["--max-handshakes=100", "--max-connections=130"];
    let mut flood = Flood::meets(&[&bounds[..], &["--handshake-timeout=1h"]].concat()).await?;
    let address = flood.server.addresses().listen;
    for first in [&b""[..], b"PRI * HTTP", PREFACE] {
        flood.attackers.spawn(async move {
            let mut held = std::collections::VecDeque::new();
            loop {
                if let Ok(mut tcp) = TcpStream::connect(address).await
                    && tcp.write_all(first).await.is_ok()
                {
                    held.push_back(tcp);
                }
                if held.len() > SILENT / 3 {
                    held.pop_front();
                }
            }
        });
    }
    // One that says something, a byte now and then, and never enough.
    flood.attackers.spawn(async move {
        let mut slow = tokio::time::interval(Duration::from_millis(100));
        while let Ok(mut tcp) = TcpStream::connect(address).await {
            for byte in PREFACE {
                slow.tick().await;
                if tcp.write_all(&[*byte]).await.is_err() {
                    break;
                }
            }
        }
    });
    flood.bites(EVICTED, SILENT as f64).await?;
    for newcomer in 0..10 {
        let url = flood.server.url();
        v1_peer::Peer::connect(&url, &format!("newcomer-{newcomer}")).await?;
        let handshakes = flood.operator.metric("persist_pubsub_handshakes").await?;
        assert!(handshakes <= 100.0, "{handshakes}");
    }
    let open = flood.operator.metric("persist_pubsub_connections").await?;
    assert!(open <= 130.0, "{open}");
    flood.ends(100 / 4).await
}

fn shard(n: u64) -> ShardId {
    ShardId::new((u128::from(n) << 32 | 0xf100d).to_be_bytes())
}

/// Subscriptions up to every bound, and on beyond: first a session's own, then
/// the server's.
#[tokio::test]
async fn of_subscriptions() -> Verdict {
    let bounds = ["--max-shards=5000", "--max-subscriptions-per-session=2000"];
    let mut flood = Flood::meets(&bounds).await?;
    let url = flood.server.url();
    let first = flood.attackers.spawn(subscribe_on_and_on(url.clone(), 0));
    let session =
        r#"persist_pubsub_messages_rejected_total{reason="too_many_subscriptions",wire="v1"}"#;
    flood.bites(session, 10.0).await?;
    first.abort();
    // 6,000 in all.
    for attacker in 1..=3 {
        flood
            .attackers
            .spawn(subscribe_on_and_on(url.clone(), attacker));
    }
    flood
        .bites("persist_pubsub_shards_refused_total", 10.0)
        .await?;
    let held = flood.operator.metric("persist_pubsub_shards").await?;
    println!("{held} shards held");
    assert!(held <= 5_000.0, "{held}");
    // A kibibyte for each shard and its subscription.
    flood.ends(5).await
}

/// Subscribes to ever new shards.
async fn subscribe_on_and_on(url: String, attacker: u64) {
    let Ok(peer) = v1_peer::Peer::connect(&url, "greedy").await else {
        return;
    };
    let (sender, mut receiver) = peer.split();
    let read = async { while let Ok(Some(_)) = receiver.receive().await {} };
    let write = async {
        for request in 1.. {
            let from = (request << 8 | attacker) * 100;
            let shards: Vec<_> = (from..from + 100).map(|n| (shard(n), None)).collect();
            if sender.subscribe(request, &shards).await.is_err() {
                return;
            }
            // The bystanders are of this thread too.
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(read, write);
}

/// Diffs of ever new shards: the logs stay within their bytes, there are no more
/// shards than may be, and whoever subscribes to one more finds room.
#[tokio::test]
async fn of_shards_that_are_published() -> Verdict {
    const PUBLISHED: u64 = 100_000;
    let bounds = ["--max-shards=1000", "--log-bytes-total=2MiB"];
    let logs = ["--log-bytes-per-shard=2MiB", "--max-diff-bytes=1MiB"];
    let mut flood = Flood::meets(&[&bounds[..], &logs].concat()).await?;
    let writer = v1_peer::Peer::connect(&flood.server.url(), "prolific").await?;
    flood.attackers.spawn(async move {
        for n in 0..PUBLISHED {
            if writer
                .sender()
                .publish(shard(n), 1, 1, vec![1; 200])
                .await
                .is_err()
            {
                return;
            }
        }
        // Until it is told to stop.
        std::future::pending::<()>().await;
    });
    let pushed = r#"mz_persist_pubsub_server_call_count{call="push"}"#;
    flood.bites(pushed, PUBLISHED as f64).await?;
    let mut late = v1_peer::Peer::connect(&flood.server.url(), "late").await?;
    let fresh: Vec<_> = (PUBLISHED..PUBLISHED + 500)
        .map(|n| (shard(n), None))
        .collect();
    late.sender().subscribe(1, &fresh).await?;
    let mut taken = 0;
    while taken < fresh.len() {
        let answer = late.receiver().expect_subscribed("room for all").await?;
        taken += answer.shards.len();
    }
    drop(late);
    let refused = flood
        .operator
        .metric("persist_pubsub_shards_refused_total")
        .await?;
    let evicted = r#"persist_pubsub_log_evictions_total{bound="shards"}"#;
    let evicted = flood.operator.metric(evicted).await?;
    let shards = flood.operator.metric("persist_pubsub_shards").await?;
    println!("{refused} refused, {evicted} evicted, {shards} shards held");
    assert!(refused == 0.0 && evicted > 90_000.0 && shards <= 1_000.0);
    // 2 MiB of logs, and a kibibyte for each shard.
    flood.ends(2 + 1).await
}
