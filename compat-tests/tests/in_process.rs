//! A server in the host's own process, reached without a network. That the
//! promises hold is in `promises`; here is what a host notices of it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use persist_pubsub_client::{Config as ClientConfig, Event, Events, Home, Reason, connect};
use persist_pubsub_compat_tests::ledger::{Diffs, Ledger};
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::v0_process::V0Process;
use persist_pubsub_compat_tests::v1_peer::Peer;
use persist_pubsub_compat_tests::v1_process::V1Process;
use persist_pubsub_compat_tests::wait::{until, within};
use persist_pubsub_proto::ShardId;
use persist_pubsub_server::app::{self, Server};
use persist_pubsub_server::config::Config;
use persist_pubsub_server::{DrainOutcome, InProcess};
use tokio::sync::oneshot;

use super::{Failure, Verdict, quick_client, shards};

/// A server in this process, and how it is told to go.
struct Embedded {
    server: Server,
    stop: oneshot::Sender<()>,
}

async fn embedded(adjust: impl FnOnce(&mut Config)) -> Result<Embedded, Failure> {
    let mut config = Config::default();
    adjust(&mut config);
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async {
        let _ = stopped.await;
    };
    let server = app::start(config, shutdown).await?;
    Ok(Embedded { server, stop })
}

impl Embedded {
    fn url(&self) -> String {
        format!("http://{}", self.server.data_addr())
    }

    /// A client's settings for it, in process. Quick to come back.
    fn config(&self) -> Result<ClientConfig, Failure> {
        config(self.server.in_process())
    }
}

fn config(server: InProcess) -> Result<ClientConfig, Failure> {
    let config = ClientConfig::with_homes([Home::in_process(server)]);
    Ok(config.backoff(Duration::from_millis(20), Duration::from_millis(200))?)
}

async fn next(events: &mut Events, what: &str) -> Result<Event, Failure> {
    let event = within(what, events.next()).await?;
    Ok(event.ok_or("the events have ended")?)
}

async fn connected(events: &mut Events) -> Verdict {
    match next(events, "a session").await? {
        Event::Connected { .. } => Ok(()),
        other => Err(format!("{other:?} before a session").into()),
    }
}

/// Whoever writes, in this process or over the network, in either version:
/// everybody follows, and nobody misses a diff.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_every_kind_share_their_shards() -> Verdict {
    let server = embedded(|config| {
        // A loaded machine stalls writers against each other.
        config.reorder_window = Duration::from_secs(10);
    })
    .await?;
    let ledger = Ledger::new(Diffs::Numbered { bytes: 300 });
    let shards = shards(0xe1, 6);
    let mut processes = Vec::new();
    for n in 0..2 {
        processes.push(V1Process::start(
            &format!("within-{n}"),
            server.config()?,
            &ledger,
        ));
        let outside = quick_client(&server.url())?;
        processes.push(V1Process::start(&format!("outside-{n}"), outside, &ledger));
    }
    // The shards are known before anybody follows them.
    for &shard in &shards {
        processes[0].write(shard);
    }
    let operator = Operator::at(server.server.admin_addr()).await?;
    let known = async || (operator.info().await.ok()?.shards >= 6).then_some(());
    until("every shard to be known", known).await?;
    for process in &processes {
        shards.iter().for_each(|&shard| process.follow(shard));
    }
    let url = server.url();
    let all = shards.iter().copied();
    let v0 = V0Process::start("v0", &url, None, &ledger, all);
    let everybody = 5 * shards.len() as u64;
    let subscribed = async || {
        let shards = operator.shards().await.ok()?;
        let total: u64 = shards.iter().map(|s| s.subscribers).sum();
        (total == everybody).then_some(())
    };
    until("every subscription to stand", subscribed).await?;
    for turn in 0..200 {
        for (n, process) in processes.iter().enumerate() {
            process.write(shards[(turn + n) % shards.len()]);
        }
        v0.write(shards[turn % shards.len()]);
        tokio::task::yield_now().await;
    }
    let heads = ledger.heads(shards.iter().copied());
    for process in &processes {
        process.reach(&heads).await?;
        let account = process.account();
        assert_eq!(account.first_violations, Vec::<String>::new());
        assert_eq!(
            (account.gaps, account.fetches),
            (0, 0),
            "{}",
            process.name()
        );
        assert_eq!(account.connected, 1);
    }
    v0.reach(&heads).await?;
    Ok(())
}

/// Operators see a session in process like any other.
#[tokio::test]
async fn operators_see_it() -> Verdict {
    let server = embedded(|_| {}).await?;
    let (client, mut events) = connect(server.config()?.client_name("environmentd"));
    connected(&mut events).await?;
    let [shard] = shards(0xe2, 1)[..] else {
        return Err("a shard".into());
    };
    let _token = client.subscribe(&shard);
    let first = next(&mut events, "the answer").await?;
    assert!(matches!(first, Event::Resync { highest: None, .. }));
    client.push_diff(&shard, 1, Bytes::from_static(b"a diff"));
    let operator = Operator::at(server.server.admin_addr()).await?;
    let session = until("the session and its push", async || {
        let sessions = operator.sessions().await.ok()?;
        sessions.into_iter().find(|s| s.diffs_in == 1)
    })
    .await?;
    assert_eq!(session.address, "in-process");
    assert_eq!(
        (session.caller_id.as_str(), session.wire_version.as_str()),
        ("environmentd", "v1")
    );
    assert_eq!((session.subscriptions, session.bytes_in), (1, 6));
    let metric = operator
        .metric("mz_persist_pubsub_server_active_connections")
        .await?;
    assert!((metric - 1.0).abs() < f64::EPSILON);
    drop((client, events));
    until("the session to be gone", async || {
        operator.sessions().await.ok()?.is_empty().then_some(())
    })
    .await?;
    Ok(())
}

/// A server that is told to go lets its host's client go, even one whose host
/// does not read.
#[tokio::test]
async fn it_drains() -> Verdict {
    let server = embedded(|config| {
        config.drain_window = Duration::from_millis(200);
    })
    .await?;
    let (client, mut events) = connect(server.config()?);
    connected(&mut events).await?;
    let [shard] = shards(0xe3, 1)[..] else {
        return Err("a shard".into());
    };
    let _token = client.subscribe_from(&shard, 0);
    next(&mut events, "the answer").await?;
    // Its host takes one event and then none.
    let bounded = server.config()?.event_buffer(1_000, 1);
    let (stuck, mut unread) = connect(bounded);
    connected(&mut unread).await?;
    let _stuck_token = stuck.subscribe_from(&shard, 0);
    for seqno in 1..=2_000 {
        client.push_diff(&shard, seqno, Bytes::from(vec![7; 1_000]));
    }
    let operator = Operator::at(server.server.admin_addr()).await?;
    until("every push to have come", async || {
        let sessions = operator.sessions().await.ok()?;
        sessions.iter().any(|s| s.diffs_in == 2_000).then_some(())
    })
    .await?;
    let Embedded { server, stop } = server;
    let _ = stop.send(());
    let outcome = within("the drain", server.wait()).await?;
    assert_eq!(outcome, DrainOutcome::Complete);
    let reason = disconnected(&mut events).await?;
    assert_eq!(reason, Reason::Ended);
    Ok(())
}

/// Why the session ended, whatever comes before.
async fn disconnected(events: &mut Events) -> Result<Reason, Failure> {
    loop {
        if let Event::Disconnected { reason } = next(events, "the end of the session").await? {
            return Ok(reason);
        }
    }
}

/// A server that is gone is a session lost, and refused from then on; the host
/// goes on, within its bounds.
#[tokio::test]
async fn a_dropped_server_is_gone() -> Verdict {
    let server = embedded(|_| {}).await?;
    let door = server.server.in_process();
    let (client, mut events) = connect(server.config()?.push_buffer(10_000, 100));
    connected(&mut events).await?;
    drop(server);
    let reason = disconnected(&mut events).await?;
    assert!(
        matches!(&reason, Reason::Status { code: 14, message } if message == "the server is gone"),
        "{reason}"
    );
    let attempts = client.stats().attempts;
    until("a few more attempts", async || {
        (client.stats().attempts >= attempts + 3).then_some(())
    })
    .await?;
    let [shard] = shards(0xe4, 1)[..] else {
        return Err("a shard".into());
    };
    let _token = client.subscribe(&shard);
    for seqno in 1..=1_000 {
        client.push_diff(&shard, seqno, Bytes::from(vec![7; 1_000]));
        assert!(client.stats().buffered_bytes <= 10_000);
    }
    assert!(!client.stats().connected);
    match Peer::connect(&door, "late").await {
        Err(error) => assert!(error.to_string().contains("the server is gone"), "{error}"),
        Ok(_) => return Err("a server that is gone has welcomed somebody".into()),
    }
    Ok(())
}

/// The same when its runtime goes, which takes its tasks along; and meanwhile
/// the client, on a runtime of its own, is served.
#[test]
fn a_server_may_live_on_another_runtime() -> Verdict {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
    };
    let servers = runtime()?;
    let server = servers
        .block_on(embedded(|_| {}))
        .map_err(|e| format!("{e:?}"))?;
    let door = server.server.in_process();
    let hosts = runtime()?;
    let (client, mut events) = hosts.block_on(async {
        let (client, mut events) = connect(config(door.clone())?);
        connected(&mut events).await?;
        Ok::<_, Failure>((client, events))
    })?;
    let [shard] = shards(0xe5, 1)[..] else {
        return Err("a shard".into());
    };
    // From a thread that is in no runtime.
    let _token = client.subscribe_from(&shard, 0);
    hosts.block_on(async {
        next(&mut events, "the answer").await?;
        let (writer, mut own) = connect(config(door.clone())?);
        connected(&mut own).await?;
        writer.push_diff(&shard, 1, Bytes::from_static(b"a diff"));
        let event = next(&mut events, "the diff").await?;
        assert!(matches!(event, Event::Diff { seqno: 1, .. }), "{event:?}");
        Ok::<_, Failure>(())
    })?;
    servers.shutdown_background();
    hosts.block_on(async {
        disconnected(&mut events).await?;
        // The server as such lives on, and has nobody to do its work.
        match Peer::connect(&door, "late").await {
            Err(_) => Ok(()),
            Ok(_) => Err(Failure::from("a server without a runtime has answered")),
        }
    })?;
    drop(server);
    Ok(())
}

/// One client floods its server: the others are served all the same, and the
/// server's memory stays within its bounds. On one thread, where whoever does
/// not yield is alone.
#[tokio::test]
async fn a_flood_of_pushes_delays_nobody() -> Verdict {
    const FLOOD: u64 = 200_000;
    const BOUND: usize = 2 << 20;
    let server = embedded(|config| {
        config.log_bytes_total = BOUND;
        config.log_bytes_per_shard = BOUND;
        config.max_diff_bytes = 64 * 1024;
    })
    .await?;
    let (writer, mut own) = connect(quick_client(&server.url())?);
    let (reader, mut events) = connect(server.config()?);
    for events in [&mut own, &mut events] {
        connected(events).await?;
    }
    let [quiet, flooded] = shards(0xe6, 2)[..] else {
        return Err("two shards".into());
    };
    let _token = reader.subscribe_from(&quiet, 0);
    next(&mut events, "the answer").await?;
    let (flooder, _unread) = connect(server.config()?);
    let flooding = flooder.clone();
    let flood = std::thread::spawn(move || {
        let diff = Bytes::from(vec![7; 200]);
        for seqno in 1..=FLOOD {
            flooding.push_diff(&flooded, seqno, diff.clone());
        }
    });
    let mut heard = 0;
    let mut during = 0;
    for seqno in 1..=200 {
        writer.push_diff(&quiet, seqno, Bytes::from_static(b"a diff"));
        while heard < seqno {
            match next(&mut events, "a diff under the flood").await? {
                Event::Diff { seqno, .. } => heard = seqno,
                other => return Err(format!("{other:?} under a flood").into()),
            }
        }
        let stats = flooder.stats();
        during += u64::from(stats.sent + stats.pushes_dropped < FLOOD);
    }
    assert!(during > 0, "the flood was over: the test proves nothing");
    flood.join().map_err(|_| "the flooding thread failed")?;
    until("the flood to have gone", async || {
        (flooder.stats().buffered_bytes == 0).then_some(())
    })
    .await?;
    let operator = Operator::at(server.server.admin_addr()).await?;
    let held = operator.info().await?.log_bytes;
    assert!(held <= BOUND as u64, "{held} bytes of logs");
    let stats = flooder.stats();
    assert_eq!(stats.sent + stats.pushes_dropped, FLOOD);
    Ok(())
}

/// A server that has as many sessions as it takes says so, and takes the next
/// when one has gone.
#[tokio::test]
async fn bounds_are_the_same() -> Verdict {
    let server = embedded(|config| {
        config.max_sessions = 1;
        config.max_subscriptions_per_session = 2;
        config.heartbeat_interval = Duration::from_secs(3_600);
    })
    .await?;
    let door = server.server.in_process();
    let mut first = Peer::connect(&door, "first").await?;
    match Peer::connect(&door, "second").await {
        Err(error) => assert!(error.to_string().contains("--max-sessions"), "{error}"),
        Ok(_) => return Err("more sessions than are taken".into()),
    }
    let three: Vec<(ShardId, Option<u64>)> =
        shards(0xe7, 3).into_iter().map(|s| (s, None)).collect();
    first.sender().subscribe(1, &three).await?;
    let rejected = first.receiver().expect_rejected("a refusal").await?;
    assert!(rejected.reason.contains("--max-subscriptions-per-session"));
    // It half-closes, and is told the end.
    let (sender, mut receiver) = first.split();
    drop(sender);
    let end = receiver.expect_end("the end").await?;
    assert_eq!(end.code(), tonic::Code::Ok);
    drop(receiver);
    let mut second = Peer::connect(&door, "second").await?;
    assert_eq!(second.follow(three[0].0, None).await?, None);
    Ok(())
}

/// A client that is dropped leaves nothing behind.
#[tokio::test]
async fn it_leaves_nothing_behind() -> Verdict {
    let server = embedded(|config| {
        config.log_age = Duration::from_millis(100);
        config.v0_replay_window = Duration::ZERO;
    })
    .await?;
    let operator = Operator::at(server.server.admin_addr()).await?;
    for round in 0..20 {
        let (client, mut events) = connect(server.config()?);
        let tokens: Vec<_> = shards(0xe8, 10)
            .iter()
            .map(|shard| client.subscribe(shard))
            .collect();
        client.push_diff(&shards(0xe8, 1)[0], round, Bytes::from_static(b"a diff"));
        if round % 2 == 0 {
            connected(&mut events).await?;
        }
        if round % 3 == 0 {
            drop(events);
        }
        drop((client, tokens));
    }
    until("nothing to be left", async || {
        let info = operator.info().await.ok()?;
        let left = [
            info.sessions,
            info.subscriptions,
            info.shards,
            info.log_bytes,
        ];
        left.iter().all(|&n| n == 0).then_some(())
    })
    .await?;
    Ok(())
}

/// Diffs of every size, from one process to the other and back: the very bytes.
#[tokio::test]
async fn bytes_are_handed_over_and_not_copied() -> Verdict {
    let server = embedded(|_| {}).await?;
    let (writer, mut own) = connect(server.config()?);
    let (reader, mut events) = connect(server.config()?);
    for events in [&mut own, &mut events] {
        connected(events).await?;
    }
    let [shard] = shards(0xe9, 1)[..] else {
        return Err("a shard".into());
    };
    let _token = reader.subscribe_from(&shard, 0);
    next(&mut events, "the answer").await?;
    let mut pushed = BTreeMap::new();
    for (seqno, size) in (1..).zip([1, 100, 70_000, 1_000_000]) {
        let diff = Bytes::from(vec![seqno as u8; size]);
        writer.push_diff(&shard, seqno, diff.clone());
        pushed.insert(seqno, diff);
    }
    for (seqno, diff) in pushed {
        match next(&mut events, "a diff").await? {
            Event::Diff {
                seqno: got,
                diff: bytes,
                ..
            } => {
                assert_eq!(got, seqno);
                assert_eq!(bytes.as_ptr(), diff.as_ptr(), "copied at {seqno}");
            }
            other => return Err(format!("{other:?}").into()),
        }
    }
    Ok(())
}
