//! The client crate against the real server, and against one without v1.

use bytes::Bytes;
use persist_pubsub_client::{Client, Config, Event, Events, Mode, Wire, connect};
use persist_pubsub_compat_tests::broadcaster::{Broadcaster, QUEUE_OF_TODAY};
use persist_pubsub_compat_tests::child::Child;
use persist_pubsub_compat_tests::recording::Push;
use persist_pubsub_compat_tests::v0_peer;
use persist_pubsub_compat_tests::wait::within;
use persist_pubsub_proto::ShardId;
use std::time::Duration;

use super::{Failure, Verdict};

const SHARD: ShardId = ShardId::new([0x5c; 16]);

fn client(url: &str, name: &str) -> Result<(Client, Events), Failure> {
    let config = Config::new(url)?
        .client_name(name)
        .mode(Mode::ReadWrite)
        // Quick to come back: the server of a test is away for a moment.
        .backoff(Duration::from_millis(20), Duration::from_millis(200))?;
    Ok(connect(config))
}

fn diff(seqno: u64) -> Bytes {
    format!("diff {seqno}").into_bytes().into()
}

async fn next(events: &mut Events, what: &str) -> Result<Event, Failure> {
    Ok(within(what, events.next())
        .await?
        .ok_or("the events have ended")?)
}

/// Waits for the event that `wanted` finds, passing over the others.
async fn find<T>(
    events: &mut Events,
    what: &str,
    mut wanted: impl FnMut(&Event) -> Option<T>,
) -> Result<T, Failure> {
    within(what, async {
        while let Some(event) = events.next().await {
            if let Some(found) = wanted(&event) {
                return Ok(found);
            }
        }
        Err(Failure::from("the events have ended"))
    })
    .await?
}

async fn connected(events: &mut Events) -> Result<Wire, Failure> {
    find(events, "a connection", |event| match event {
        Event::Connected { wire, .. } => Some(*wire),
        _ => None,
    })
    .await
}

/// Waits until the subscription stands: the server has said what it knows.
async fn resync(events: &mut Events) -> Result<Option<u64>, Failure> {
    find(
        events,
        "the answer to the subscription",
        |event| match event {
            Event::Resync { highest, .. } => Some(*highest),
            _ => None,
        },
    )
    .await
}

/// Takes events until a reader that does as it is told has come to `seqno`:
/// it applies the diff that fits its state, and fetches on a gap or a resync.
/// Returns the diffs that it applied.
async fn reach(events: &mut Events, state: &mut u64, seqno: u64) -> Result<Vec<u64>, Failure> {
    let mut applied = Vec::new();
    while *state < seqno {
        match next(events, &format!("news of seqno {seqno}, at {state}")).await? {
            Event::Diff {
                seqno: at, diff: d, ..
            } => {
                assert_eq!(d, diff(at), "bit for bit");
                if at == *state + 1 {
                    *state = at;
                    applied.push(at);
                } else {
                    assert!(at <= *state, "{at} came early, at {state}");
                }
            }
            Event::Gap { to, .. } => *state = to.max(*state),
            Event::Resync { highest, .. } => *state = highest.unwrap_or(0).max(*state),
            _ => {}
        }
    }
    Ok(applied)
}

/// A port that was free a moment ago: for a server that is to come back to
/// where it was.
async fn free_address() -> Result<String, Failure> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    Ok(listener.local_addr()?.to_string())
}

#[tokio::test]
async fn clients_and_v0_processes_hear_each_other() -> Verdict {
    // A loaded machine may stall a connection for longer than the default.
    let server = Child::start(&["--reorder-window=5s"]).await?;
    let (writer, mut own) = client(&server.url(), "writer")?;
    let (reader, mut events) = client(&server.url(), "reader")?;
    let (v0, _v0_receiver) = v0_peer::Peer::connect(&server.url(), "old").await?.split();
    let _mine = writer.subscribe(&SHARD);
    let _token = reader.subscribe(&SHARD);
    resync(&mut own).await?;
    assert_eq!(resync(&mut events).await?, None);

    let mut state = 0;
    let by_v0 = async |seqno| {
        let diff = diff(seqno);
        let shard = SHARD;
        v0.push(Push { shard, seqno, diff }).await
    };
    // A server that knows nothing of a shard begins with what comes first.
    by_v0(1).await?;
    assert_eq!(reach(&mut events, &mut state, 1).await?, [1]);
    for seqno in 2..=100 {
        if seqno % 2 == 0 {
            writer.push_diff(&SHARD, seqno, diff(seqno));
        } else {
            by_v0(seqno).await?;
        }
    }
    let applied = reach(&mut events, &mut state, 100).await?;
    assert_eq!(applied, (2..=100).collect::<Vec<_>>());
    // No echo: the writer hears of the others' diffs alone.
    let mut heard = Vec::new();
    while heard.last() != Some(&99) {
        if let Event::Diff { seqno, .. } = next(&mut own, "the diffs of v0").await? {
            heard.push(seqno);
        }
    }
    assert_eq!(heard, (1..100).step_by(2).collect::<Vec<_>>());
    drop(v0);
    Ok(())
}

#[tokio::test]
async fn a_client_waits_for_its_server_and_loses_nothing_that_it_pushed_before() -> Verdict {
    let address = free_address().await?;
    let url = format!("http://{address}");
    let (writer, _own) = client(&url, "writer")?;
    let (reader, mut events) = client(&url, "reader")?;
    let _token = reader.subscribe_from(&SHARD, 0);
    for seqno in 1..=50 {
        writer.push_diff(&SHARD, seqno, diff(seqno));
    }
    let _server = Child::start(&[format!("--listen={address}")]).await?;
    connected(&mut events).await?;
    let mut state = 0;
    reach(&mut events, &mut state, 50).await?;
    Ok(())
}

#[tokio::test]
async fn after_a_killed_server_everybody_learns_where_the_shard_stands() -> Verdict {
    let address = free_address().await?;
    let url = format!("http://{address}");
    let server = Child::start(&[format!("--listen={address}")]).await?;
    let (writer, mut own) = client(&url, "writer")?;
    let (reader, mut events) = client(&url, "reader")?;
    let _token = reader.subscribe_from(&SHARD, 0);
    connected(&mut own).await?;
    connected(&mut events).await?;
    let mut state = 0;
    for seqno in 1..=100 {
        writer.push_diff(&SHARD, seqno, diff(seqno));
    }
    reach(&mut events, &mut state, 100).await?;

    server.signal("KILL").await?;
    for seqno in 101..=150 {
        writer.push_diff(&SHARD, seqno, diff(seqno));
    }
    find(&mut events, "the loss of the connection", |event| {
        matches!(event, Event::Disconnected { .. }).then_some(())
    })
    .await?;
    let _server = Child::start(&[format!("--listen={address}")]).await?;
    connected(&mut events).await?;
    // By a diff, a gap or a resync: those pushed into the dead connection
    // cannot be had again, but that they were there is told.
    reach(&mut events, &mut state, 150).await?;
    Ok(())
}

#[tokio::test]
async fn without_v1_a_client_speaks_v0_and_says_so() -> Verdict {
    let server = Broadcaster::start(QUEUE_OF_TODAY).await?;
    let (writer, mut own) = client(&server.url(), "writer")?;
    let (reader, mut events) = client(&server.url(), "reader")?;
    assert_eq!(connected(&mut own).await?, Wire::V0);
    assert_eq!(connected(&mut events).await?, Wire::V0);
    let _token = reader.subscribe(&SHARD);
    assert_eq!(resync(&mut events).await?, None);
    // v0 does not say when a subscription stands: push until it does.
    let mut seqno = 0;
    let got = within("a diff over v0", async {
        loop {
            seqno += 1;
            writer.push_diff(&SHARD, seqno, diff(seqno));
            let beat = tokio::time::sleep(Duration::from_millis(10));
            tokio::select! {
                event = events.next() => if let Some(Event::Diff { seqno, diff, .. }) = event {
                    return (seqno, diff);
                },
                () = beat => {}
            }
        }
    })
    .await?;
    assert_eq!(got.1, diff(got.0));
    Ok(())
}
