//! **fence**, the operators' promise: when `SetFence` has returned, nothing that
//! a session below the fence publishes is accepted, no such session is let in,
//! and none is left a moment later.
//!
//! The token is set before the census is looked through, and a session enters
//! the census before it looks at the token; a session is fenced under the lock
//! under which it publishes.
//!
//! Mutations: `newcomers-are-not-looked-at`, `the-fenced-publish-on`,
//! `the-census-is-not-looked-through`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::recording::Push;
use persist_pubsub_compat_tests::v0_peer;
use persist_pubsub_compat_tests::v1_peer::{self, Peer, hello};
use persist_pubsub_compat_tests::wait::{until, within};
use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::v1::session_request::Message as Request;
use tokio::sync::Barrier;
use tokio::task::{JoinSet, LocalSet};

use super::super::{Failure, Verdict, server};

const SHARD: ShardId = ShardId::new([0xfe; 16]);
/// Rounds, each with a server's fence raised once.
const ROUNDS: u64 = 12;
/// Knocking in each, at the moment of the fence.
const KNOCKING: u64 = 12;
/// They, and who raises it.
const PARTIES: usize = 13;

#[tokio::test]
async fn fence() -> Verdict {
    LocalSet::new().run_until(Box::pin(rounds())).await
}

async fn rounds() -> Verdict {
    let server = server(&[
        "--v0-generation=old-{generation}-*",
        "--reorder-window=0s",
        // What is refused leaves holes.
        "--max-seqno-jump=1000000000",
    ])
    .await?;
    let operator = Operator::connect(&server).await?;
    // Of no generation: it hears what is accepted, to the end.
    let mut witness_hello = hello("witness");
    witness_hello.deploy_generation = 0;
    let mut witness = Peer::connect_as(&server.url(), witness_hello).await?;
    witness.follow(SHARD, None).await?;
    let seqnos = Arc::new(AtomicU64::new(0));
    let mut last = 0;
    for generation in 1..=ROUNDS {
        let start = Arc::new(Barrier::new(PARTIES));
        let mut knocking = JoinSet::new();
        for number in 0..KNOCKING {
            let (url, start, seqnos) = (server.url(), Arc::clone(&start), Arc::clone(&seqnos));
            knocking.spawn_local(async move {
                match number % 2 {
                    0 => v1_until_fenced(&url, generation, number, &start, &seqnos).await,
                    _ => v0_until_fenced(&url, generation, number, &start, &seqnos).await,
                }
            });
        }
        start.wait().await;
        // At a different moment of their beginnings each time.
        for _ in 0..generation * 3 {
            tokio::task::yield_now().await;
        }
        operator.fence("", generation + 1, false).await?;
        // What was accepted by now was accepted before the fence. A mark that
        // the witness hears last tells which that is.
        let mark = seqnos.fetch_add(1, Ordering::Relaxed) + 1;
        let marker = Peer::connect_as(&server.url(), newer(generation)).await?;
        marker.sender().publish(SHARD, mark, 0, "mark").await?;
        let mut heard = 0;
        while heard != mark {
            let diff = within("the mark", next_diff(&mut witness)).await??;
            heard = diff.0;
        }
        // They go on publishing until they are told, or their stream breaks.
        while let Some(told) = within("all to be fenced", knocking.join_next()).await? {
            told??;
        }
        until("nobody of it to be connected", async || {
            let sessions = operator.sessions().await.ok()?;
            let gone = |g: Option<u64>| g.is_none_or(|g| g > generation);
            sessions.iter().all(|s| gone(s.generation)).then_some(())
        })
        .await?;
        // Nothing of theirs behind the mark.
        let end = seqnos.fetch_add(1, Ordering::Relaxed) + 1;
        marker.sender().publish(SHARD, end, 0, "mark").await?;
        loop {
            let (seqno, diff) = within("the second mark", next_diff(&mut witness)).await??;
            assert_eq!(diff, "mark", "{seqno} of generation {generation}, fenced");
            if seqno == end {
                break;
            }
        }
        assert!(end > last, "{end} {last}");
        last = end;
    }
    let refused = operator
        .metric("persist_pubsub_fenced_sessions_total{outcome=\"refused\"}")
        .await?;
    let ended = operator
        .metric("persist_pubsub_fenced_sessions_total{outcome=\"ended\"}")
        .await?;
    println!("{ended} sessions ended by a fence, {refused} refused");
    Ok(())
}

fn newer(generation: u64) -> persist_pubsub_proto::v1::Hello {
    let mut hello = hello("newer");
    hello.deploy_generation = generation + 1;
    hello
}

/// The next diff; what it is told of holes is passed over.
async fn next_diff(witness: &mut Peer) -> Result<(u64, Bytes), Failure> {
    use persist_pubsub_proto::v1::session_response::Message as Response;
    loop {
        if let Response::Diff(diff) = witness.receiver().expect("a diff").await? {
            return Ok((diff.seqno, diff.diff));
        }
    }
}

/// Says hello and publishes until it is told that it is fenced, and how.
async fn v1_until_fenced(
    url: &str,
    generation: u64,
    number: u64,
    start: &Barrier,
    seqnos: &AtomicU64,
) -> Verdict {
    use persist_pubsub_proto::v1::session_response::Message as Response;
    let (sender, mut receiver) = v1_peer::open(url).await?;
    let mut hello = hello("older");
    hello.deploy_generation = generation;
    start.wait().await;
    for _ in 0..number {
        tokio::task::yield_now().await;
    }
    sender.say(Request::Hello(hello)).await?;
    let publishing = async {
        // Until the stream is gone.
        loop {
            let seqno = seqnos.fetch_add(1, Ordering::Relaxed) + 1;
            if sender.publish(SHARD, seqno, 0, "old").await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::task::yield_now().await;
        }
    };
    let told = async {
        loop {
            match receiver.expect("to be fenced").await? {
                Response::Fenced(fenced) => break Ok::<_, Failure>(fenced),
                Response::Welcome(_) => {}
                other => break Err(format!("{other:?}").into()),
            }
        }
    };
    let fenced = tokio::select! {
        fenced = told => fenced?,
        () = publishing => return Err("it does not end".into()),
    };
    assert_eq!(fenced.generation, generation + 1);
    let end = receiver.expect_end("the end").await?;
    assert_eq!(end.code(), tonic::Code::PermissionDenied);
    assert!(
        end.message()
            .contains(&format!("by generation {}", generation + 1))
    );
    Ok(())
}

async fn v0_until_fenced(
    url: &str,
    generation: u64,
    number: u64,
    start: &Barrier,
    seqnos: &AtomicU64,
) -> Verdict {
    start.wait().await;
    for _ in 0..number {
        tokio::task::yield_now().await;
    }
    let mut peer = v0_peer::Peer::connect(url, &format!("old-{generation}-v0")).await?;
    let sender = peer.sender().clone();
    let publishing = async {
        loop {
            let seqno = seqnos.fetch_add(1, Ordering::Relaxed) + 1;
            let diff = Bytes::from_static(b"old");
            let push = Push {
                shard: SHARD,
                seqno,
                diff,
            };
            if sender.push(push).await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::task::yield_now().await;
        }
    };
    let told = within("the end of a v0 stream", peer.receiver().receive());
    let status = tokio::select! {
        told = told => match told? {
            Err(v0_peer::PeerError::Status(status)) => status,
            other => return Err(format!("{other:?}").into()),
        },
        () = publishing => return Err("it does not end".into()),
    };
    assert_eq!(status.code(), tonic::Code::PermissionDenied);
    assert!(
        status
            .message()
            .contains(&format!("by generation {}", generation + 1))
    );
    Ok(())
}
