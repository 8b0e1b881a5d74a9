//! A session that does not read delays nobody, loses nobody's diffs, and
//! costs bounded memory.

use std::time::Duration;

use bytes::Bytes;
use persist_pubsub_compat_tests::bystanders::Bystanders;
use persist_pubsub_compat_tests::child::Child;
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::wait::{until, within_time};
use persist_pubsub_compat_tests::{v0_peer, v1_peer};
use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::v1::session_response::Message as Response;

use super::{Failure, Verdict, server};

const SHARD: ShardId = ShardId::new([0x15; 16]);
const DIFFS: u64 = 4_000;
const BYTES: usize = 64 * 1024;
/// Diffs that are under way at a time: the readers that read keep up.
const IN_FLIGHT: u64 = 50;
/// Far below the 250 MiB that are published, far above what a server needs
/// whose logs hold 16 MiB.
const MEMORY_MIB: u64 = 120;
/// For all of it, on a machine that is busy with other things.
const WHOLE: Duration = Duration::from_secs(240);

fn diff(seqno: u64) -> Bytes {
    let mut bytes = vec![0; BYTES];
    bytes[..8].copy_from_slice(&seqno.to_be_bytes());
    bytes.into()
}

#[tokio::test]
async fn a_client_that_never_reads_is_alone_with_it() -> Verdict {
    let server = server(&["--log-bytes-total=16MiB", "--log-bytes-per-shard=16MiB"]).await?;
    let url = server.url();
    let operator = Operator::connect(&server).await?;
    let mut bystanders = Bystanders::meet(&url).await?;
    let mut v0_stalled = v0_peer::Peer::connect(&url, "v0-stalled").await?;
    let mut v1_stalled = v1_peer::Peer::connect(&url, "v1-stalled").await?;
    let mut v0_reader = v0_peer::Peer::connect(&url, "v0-reader").await?;
    let mut v1_reader = v1_peer::Peer::connect(&url, "v1-reader").await?;
    let writer = v1_peer::Peer::connect(&url, "writer").await?;
    v0_stalled.sender().subscribe(SHARD).await?;
    v0_reader.sender().subscribe(SHARD).await?;
    v1_stalled.follow(SHARD, Some(0)).await?;
    v1_reader.follow(SHARD, Some(0)).await?;

    let flood = async {
        for seqno in 1..=DIFFS {
            writer
                .sender()
                .publish(SHARD, seqno, 1, diff(seqno))
                .await?;
            if !seqno.is_multiple_of(IN_FLIGHT) {
                continue;
            }
            for due in seqno - IN_FLIGHT + 1..=seqno {
                let got = v1_reader.receiver().expect_diff("every diff").await?;
                assert!((got.seqno, got.diff) == (due, diff(due)), "{due}: v1");
                let got = v0_reader.receiver().expect_push("every diff").await?;
                assert!((got.seqno, got.diff) == (due, diff(due)), "{due}: v0");
            }
            bystanders.are_served().await?;
        }
        Ok::<_, Failure>(())
    };
    within_time("readers that read to have everything", WHOLE, flood).await??;

    let memory = server.resident_kib()? / 1024;
    assert!(memory < MEMORY_MIB, "{memory} MiB");
    let held = operator.metric("persist_pubsub_log_bytes").await?;
    let bound = operator.metric("persist_pubsub_log_bytes_limit").await?;
    assert!(
        held <= bound && bound <= 16.0 * 1024.0 * 1024.0,
        "{held} of {bound}"
    );
    let behind = operator.sessions().await?;
    let behind = behind
        .iter()
        .filter(|s| s.shards_behind > 0 && s.behind_for.is_some());
    assert_eq!(behind.count(), 2, "the two that do not read");

    // When they read again, v1 is told of what it missed: nothing is silent.
    let mut next = 1;
    let mut gaps = 0;
    while next <= DIFFS {
        match v1_stalled.receiver().expect("what is left").await? {
            Response::Diff(diff) => assert_eq!(diff.seqno, next, "a silent gap"),
            Response::Gap(gap) => {
                assert_eq!(gap.from_seqno, next, "a silent gap");
                next = gap.to_seqno;
                gaps += 1;
            }
            other => return Err(format!("{other:?}").into()),
        }
        next += 1;
    }
    assert!(gaps > 0, "the log held everything: the test proves nothing");
    // v0 comes to the last as well, in order.
    let mut last = 0;
    while last < DIFFS {
        let got = v0_stalled.receiver().expect_push("what is left").await?;
        assert!(got.seqno > last, "{} after {last}", got.seqno);
        last = got.seqno;
    }
    let missed = "mz_persist_pubsub_server_broadcasted_diff_dropped_channel_full";
    assert!(operator.metric(missed).await? > 0.0);
    Ok(())
}

/// What one client that does not read its answers makes of a server: it is
/// not read any more, and the rest goes on.
async fn answers_are_bounded(
    server: &Child,
    message: impl Fn() -> Bytes + Send + 'static,
) -> Verdict {
    let operator = Operator::connect(server).await?;
    let mut bystanders = Bystanders::meet(&server.url()).await?;
    let (sender, _unread) = v1_peer::Peer::connect(&server.url(), "rude").await?.split();
    let flood = tokio::spawn(async move { while sender.send(message()).await.is_ok() {} });
    until("the rude client not to be read any more", async || {
        let times = operator.metric("persist_pubsub_control_full_total").await;
        (times.ok()? > 0.0).then_some(())
    })
    .await?;
    bystanders.are_served().await?;
    let memory = server.resident_kib()? / 1024;
    assert!(memory < MEMORY_MIB, "{memory} MiB");
    flood.abort();
    Ok(())
}

#[tokio::test]
async fn bad_messages_of_a_client_that_does_not_read_are_bounded() -> Verdict {
    let server = server(&["--max-control-frames=100"]).await?;
    answers_are_bounded(&server, || Bytes::from_static(&[0xff; 40])).await
}

#[tokio::test]
async fn oversize_messages_of_a_client_that_does_not_read_are_bounded() -> Verdict {
    let small = ["--max-message-bytes=2KiB", "--max-diff-bytes=1KiB"];
    let server = server(&[&small[..], &["--max-control-frames=100"]].concat()).await?;
    let large = Bytes::from(vec![0; 2 * 1024 + 1]);
    answers_are_bounded(&server, move || large.clone()).await
}
