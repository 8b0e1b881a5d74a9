//! What an operator sees who watches shards.

use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::v1_peer;
use persist_pubsub_compat_tests::wait::within;
use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::admin_v1::{
    ShardEvent as Event, WatchShardsResponse, WatchStatusRequest,
};
use persist_pubsub_proto::v1::Hello;
use tonic::Streaming;

use super::{Failure, Verdict, server};

const SHARD: ShardId = ShardId::new([0x42; 16]);

/// The next event of this kind; others before it are passed over.
async fn event(
    watch: &mut Streaming<WatchShardsResponse>,
    wanted: Event,
) -> Result<WatchShardsResponse, Failure> {
    let what = format!("{} in a watch", wanted.as_str_name());
    within(&what, async {
        loop {
            let event = watch.message().await?.ok_or("the watch ended")?;
            if event.event() == wanted {
                assert!(event.at.is_some());
                return Ok(event);
            }
        }
    })
    .await?
}

#[tokio::test]
async fn a_watch_shows_what_happens() -> Verdict {
    let server = server(&["--reorder-window=100ms"]).await?;
    let operator = Operator::connect(&server).await?;
    let mut watch = operator.watch("", &SHARD.to_string()).await?;
    let mut elsewhere = operator.watch("elsewhere", "").await?;
    let mut peer = v1_peer::Peer::connect(&server.url(), "peer").await?;
    let session = peer.welcome().session_id;
    peer.follow(SHARD, None).await?;
    let seen = event(&mut watch, Event::Subscribed).await?;
    assert_eq!(
        (seen.session_id, seen.shard_id),
        (session, SHARD.to_string())
    );
    assert_eq!(seen.environment, "default");

    let sender = peer.sender().clone();
    sender.publish(SHARD, 1, 1_000_000_000, "12345").await?;
    let seen = event(&mut watch, Event::Published).await?;
    assert_eq!(
        (seen.seqno, seen.diff_bytes, seen.session_id),
        (Some(1), 5, session)
    );
    assert!(
        seen.latency.is_some_and(|d| d.seconds > 1_000_000),
        "{seen:?}"
    );

    sender.publish(SHARD, 4, 0, "four").await?;
    let seen = event(&mut watch, Event::HeldBack).await?;
    assert_eq!((seen.seqno, seen.latency), (Some(4), None));
    let seen = event(&mut watch, Event::Gapped).await?;
    assert_eq!(seen.seqno, Some(3), "the last that is missing");

    sender.publish(SHARD, 2, 1, "late").await?;
    let seen = event(&mut watch, Event::FilledLate).await?;
    assert_eq!(seen.seqno, Some(2));
    sender.publish(SHARD, 2, 1, "late").await?;
    let seen = event(&mut watch, Event::Duplicate).await?;
    assert_eq!(seen.seqno, Some(2));
    sender.publish(SHARD, 1 << 62, 1, "absurd").await?;
    let seen = event(&mut watch, Event::Doubted).await?;
    assert_eq!(seen.seqno, Some(1 << 62));
    sender.announce(SHARD, 5).await?;
    let seen = event(&mut watch, Event::Announced).await?;
    assert_eq!((seen.seqno, seen.diff_bytes), (Some(5), 0));

    // Of another shard it shows nothing.
    sender.publish(ShardId::new([1; 16]), 1, 1, "x").await?;
    sender.unsubscribe(3, &[SHARD]).await?;
    let next = within("the next event", watch.message())
        .await??
        .ok_or("the end")?;
    assert_eq!(next.event(), Event::Unsubscribed);

    // Nor the other one of this environment.
    let hello = Hello {
        environment_id: "elsewhere".to_owned(),
        ..v1_peer::hello("other")
    };
    let other = v1_peer::Peer::connect_as(&server.url(), hello).await?;
    other.sender().publish(SHARD, 77, 1, "x").await?;
    let first = within("an event", elsewhere.message())
        .await??
        .ok_or("the end")?;
    assert_eq!(
        (first.environment.as_str(), first.seqno),
        ("elsewhere", Some(77))
    );
    Ok(())
}

/// Whoever watches how the server is sees who is connected, who does not
/// read, and what that means.
#[tokio::test]
async fn the_status_names_who_is_behind() -> Verdict {
    let server = server(&[]).await?;
    let mut operator = Operator::connect(&server).await?;
    let mut hello = v1_peer::hello("does-not-read");
    hello.deploy_generation = 9;
    let mut behind = v1_peer::Peer::connect_as(&server.url(), hello).await?;
    behind.follow(SHARD, None).await?;
    let writer = v1_peer::Peer::connect(&server.url(), "writer").await?;
    // More than its connection takes unread.
    let diff = vec![7; 1024 * 1024];
    for seqno in 1..=8 {
        writer
            .sender()
            .publish(SHARD, seqno, 1, diff.clone())
            .await?;
    }
    let watch = operator.admin.watch_status(WatchStatusRequest::default());
    let mut watch = watch.await?.into_inner();
    let mut samples = 0;
    let seen = within("the finding", async {
        loop {
            let status = watch.message().await?.ok_or("the watch ended")?;
            samples += status.samples.len();
            let said = status
                .findings
                .iter()
                .find(|f| f.what.contains("does-not-read"));
            if let Some(finding) = said {
                assert!(finding.what.contains("waited"), "{finding:?}");
                return Ok::<_, Failure>(status);
            }
        }
    })
    .await??;
    assert!(samples >= 1);
    let first = seen.sessions.first().and_then(|s| s.session.as_ref());
    let first = first.ok_or("no session")?;
    assert_eq!(
        (first.caller_id.as_str(), first.shards_behind),
        ("does-not-read", 1)
    );
    let group = seen.groups.first().ok_or("no group")?;
    assert_eq!((group.generation, group.sessions_behind), (Some(9), 1));
    let writers = seen.groups.iter().find(|g| g.last_publish.is_some());
    assert_eq!(writers.map(|g| g.sessions), Some(1));
    Ok(())
}
