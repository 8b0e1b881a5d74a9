//! What one identity, or one address, may take.

use std::collections::BTreeMap;

use persist_pubsub_client::{Config, Event, connect};
use persist_pubsub_compat_tests::entrant::Entrant;
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::recording::Push;
use persist_pubsub_compat_tests::v0_peer;
use persist_pubsub_compat_tests::v0_reader::Reader;
use persist_pubsub_compat_tests::v1_peer::Peer;
use persist_pubsub_compat_tests::wait::{until, within};
use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::v1::session_response::Message as Response;
use persist_pubsub_proto::v1::{Rejected, RejectionCode};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::super::{Failure, Verdict, server, shards};
use super::{Identities, hello_of, refs, turned_away};

const SHARD: ShardId = ShardId::new([0x74; 16]);

async fn limited(operator: &Operator, limit: &str) -> Option<f64> {
    let series = format!("persist_pubsub_identity_limited_total{{limit=\"{limit}\"}}");
    operator.metric(&series).await.ok()
}

fn identity(name: &str) -> String {
    format!(
        "[[identity]]\nname = \"{name}\"\nenvironment = \"default\"\nrights = [\"publish\", \"subscribe\"]\ntokens = [\"{name}-{name}-{name}\"]\n"
    )
}

#[tokio::test]
async fn sessions_and_subscriptions_are_limited_by_identity() -> Verdict {
    let identities = Identities::new(&(identity("first1") + &identity("second")))?;
    let flags = [
        identities.flag(),
        "--max-sessions-per-identity=2".to_owned(),
        "--max-subscriptions-per-identity=3".to_owned(),
    ];
    let server = server(&refs(&flags)).await?;
    let operator = Operator::connect(&server).await?;
    let first = Entrant::new(&server.url()).with_token("first1-first1-first1");
    let second = Entrant::new(&server.url()).with_token("second-second-second");
    let mut a = Peer::connect(&first, "a").await?;
    let mut b = Peer::connect(&first, "b").await?;
    let away = turned_away(&first, hello_of("")).await?;
    assert_eq!(away.code(), Code::ResourceExhausted);
    let hint = away
        .get_details_retry_info()
        .and_then(|info| info.retry_delay);
    assert!(hint.is_some(), "{away:?}");
    let mut other = Peer::connect(&second, "another's").await?;

    let all: Vec<_> = shards(0x74, 5).into_iter().map(|s| (s, None)).collect();
    a.sender().subscribe(1, &all[..2]).await?;
    a.receiver().expect_subscribed("two").await?;
    b.sender().subscribe(2, &all[..2]).await?;
    let rejected = b.receiver().expect_rejected("four are too many").await?;
    assert_eq!(rejected.code(), RejectionCode::ResourceExhausted);
    assert_eq!(rejected.request_id, 2);
    assert!(rejected.retry_after_millis > 0);
    b.sender().subscribe(3, &all[4..]).await?;
    b.receiver().expect_subscribed("three").await?;
    other.sender().subscribe(1, &all[..3]).await?;
    other
        .receiver()
        .expect_subscribed("another's three")
        .await?;
    a.sender().unsubscribe(4, &[all[0].0]).await?;
    a.receiver().expect_unsubscribed("one back").await?;
    b.sender().subscribe(5, &all[3..4]).await?;
    b.receiver().expect_subscribed("three again").await?;
    // What a session had comes back when it goes.
    drop(a);
    let mut c = until("room for another session", async || {
        Peer::connect(&first, "c").await.ok()
    })
    .await?;
    c.sender().subscribe(1, &all[..1]).await?;
    c.receiver().expect_subscribed("three once more").await?;
    assert!(limited(&operator, "sessions").await >= Some(1.0));
    assert_eq!(limited(&operator, "subscriptions").await, Some(1.0));
    Ok(())
}

/// Publishes these, and returns what was refused of them.
async fn publish(
    writer: &mut Peer,
    seqnos: std::ops::RangeInclusive<u64>,
) -> Result<Vec<Rejected>, Failure> {
    let last = *seqnos.end();
    for seqno in seqnos {
        writer.sender().publish(SHARD, seqno, 1, "x").await?;
    }
    writer.sender().unsubscribe(last, &[]).await?;
    let mut refused = Vec::new();
    loop {
        match writer.receiver().expect("an answer").await? {
            Response::Rejected(rejected) => refused.push(rejected),
            Response::Unsubscribed(_) => return Ok(refused),
            other => return Err(format!("{other:?}").into()),
        }
    }
}

#[tokio::test]
async fn v1_is_told_that_it_publishes_too_much_and_when_to_try_again() -> Verdict {
    let server = server(&["--max-publishes-per-second=5"]).await?;
    let operator = Operator::connect(&server).await?;
    let mut reader = Peer::connect(&server.url(), "reader").await?;
    reader.follow(SHARD, Some(0)).await?;
    let mut writer = Peer::connect(&server.url(), "writer").await?;
    let refused = publish(&mut writer, 1..=100).await?;
    // What one may publish in a second may come at once.
    assert!((1..=95).contains(&refused.len()), "{}", refused.len());
    for rejected in &refused {
        assert_eq!(rejected.code(), RejectionCode::ResourceExhausted);
        assert!(rejected.seqno.is_some_and(|seqno| seqno > 5));
        assert!(
            (1..=1000).contains(&rejected.retry_after_millis),
            "{rejected:?}"
        );
        assert!(rejected.reason.contains("--max-publishes-per-second"));
    }
    assert!(limited(&operator, "publishes").await >= Some(1.0));
    // It was not taken, and nobody was told of it: what is taken next says so.
    until("one more to be taken", async || {
        let refused = publish(&mut writer, 101..=101).await.ok()?;
        refused.is_empty().then_some(())
    })
    .await?;
    let (mut known, mut diffs) = (0, 0);
    while known < 101 {
        known = match reader.receiver().expect("what was taken, or a gap").await? {
            Response::Diff(diff) => {
                assert_eq!(diff.seqno, known + 1);
                diffs += 1;
                diff.seqno
            }
            Response::Gap(gap) => {
                assert_eq!(gap.from_seqno, known + 1);
                gap.to_seqno
            }
            other => return Err(format!("{other:?}").into()),
        };
    }
    assert_eq!(diffs + refused.len(), 101);
    Ok(())
}

/// What was refused last is told all the same: the client crate announces it
/// when it may.
#[tokio::test]
async fn readers_converge_on_what_was_refused() -> Verdict {
    let server = server(&["--max-publishes-per-second=5"]).await?;
    let operator = Operator::connect(&server).await?;
    let mut reader = Peer::connect(&server.url(), "reader").await?;
    reader.follow(SHARD, Some(0)).await?;
    let (client, mut events) = connect(Config::new(&server.url())?);
    loop {
        let event = within("a session", events.next()).await?;
        if let Event::Connected { .. } = event.ok_or("the client has ended")? {
            break;
        }
    }
    for seqno in 1..=50 {
        client.push_diff(&SHARD, seqno, "x".into());
    }
    let mut known = 0;
    while known < 50 {
        known = match reader.receiver().expect("a diff or a gap").await? {
            Response::Diff(diff) => diff.seqno,
            Response::Gap(gap) => gap.to_seqno,
            other => return Err(format!("{other:?}").into()),
        };
    }
    assert!(limited(&operator, "publishes").await >= Some(1.0));
    Ok(())
}

#[tokio::test]
async fn v0_is_read_slower_and_loses_nothing() -> Verdict {
    let server = server(&[
        "--max-publishes-per-second=100",
        "--max-publish-bytes-per-second=64KiB",
        "--max-message-bytes=64KiB",
        "--max-diff-bytes=32KiB",
    ])
    .await?;
    let operator = Operator::connect(&server).await?;
    let reader = Reader::connect(&server.url(), "reader").await?;
    reader.follow(SHARD, 0).await?;
    let writer = v0_peer::Peer::connect(&server.url(), "writer").await?;
    reader.mark().await?.passed_by(writer.sender()).await?;
    let mut last = 0;
    // More at once than may come in a second.
    for (limit, size, count) in [("publish_bytes", 8 * 1024, 16), ("publishes", 1, 300)] {
        for _ in 0..count {
            last += 1;
            let push = Push {
                shard: SHARD,
                seqno: last,
                diff: vec![7; size].into(),
            };
            writer.sender().push(push).await?;
        }
        until(&format!("{limit} to bite"), async || {
            (limited(&operator, limit).await? >= 1.0).then_some(())
        })
        .await?;
    }
    reader.reach(&BTreeMap::from([(SHARD, last)])).await?;
    let model = reader.model();
    assert_eq!(model.early, 0, "no hole");
    assert_eq!(operator.rejected("v0", "resource_exhausted").await?, 0.0);
    Ok(())
}
