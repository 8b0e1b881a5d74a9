//! The fence: who is told what, how it is raised, and that it is remembered.

use bytes::Bytes;
use persist_pubsub_client::{Config, Event, connect};
use persist_pubsub_compat_tests::child::{Child, ChildError, Folder};
use persist_pubsub_compat_tests::command_line;
use persist_pubsub_compat_tests::ledger::{Diffs, Ledger};
use persist_pubsub_compat_tests::operator::{Operator, OperatorError};
use persist_pubsub_compat_tests::v0_peer;
use persist_pubsub_compat_tests::v0_process::V0Process;
use persist_pubsub_compat_tests::v1_peer::{self, Peer, hello};
use persist_pubsub_compat_tests::wait::{until, within};
use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::admin_v1::{Fence, GetFenceRequest, SetFenceRequest};
use persist_pubsub_proto::v1::Hello;
use persist_pubsub_proto::v1::session_request::Message as Request;
use tonic::{Code, Status};

use super::{Failure, Verdict, server};

const SHARD: ShardId = ShardId::new([0xfc; 16]);
const RULE: &str = "--v0-generation=environmentd-old-*=1";

fn of(generation: u64) -> Hello {
    Hello {
        deploy_generation: generation,
        ..hello("environmentd")
    }
}

/// How a v0 stream ends.
async fn end_of_v0(peer: &mut v0_peer::Peer) -> Result<Status, Failure> {
    match within("the end of a v0 stream", peer.receiver().receive()).await? {
        Err(v0_peer::PeerError::Status(status)) => Ok(status),
        other => Err(format!("{other:?}").into()),
    }
}

/// What a client is told that comes too late: in the place of a welcome.
async fn refused(url: &str, hello: Hello) -> Verdict {
    let (sender, mut receiver) = v1_peer::open(url).await?;
    sender.say(Request::Hello(hello)).await?;
    // In the same breath: passed over, and not refused for want of a Hello.
    let _ = sender.publish(SHARD, 1, 1, "x").await;
    let _ = sender.subscribe(1, &[(SHARD, None)]).await;
    let fenced = receiver.expect_fenced("to be refused").await?;
    assert_eq!((fenced.generation, fenced.epoch), (2, 1));
    assert!(fenced.reason.contains("by generation 2"), "{fenced:?}");
    let end = receiver.expect_end("the end").await?;
    assert_eq!(end.code(), Code::PermissionDenied);
    assert_eq!(end.message(), fenced.reason);
    Ok(())
}

#[tokio::test]
async fn those_below_are_told_and_ended_and_refused_ever_after() -> Verdict {
    let server = server(&[RULE]).await?;
    let operator = Operator::connect(&server).await?;
    let url = server.url();
    let mut old = Peer::connect_as(&url, of(1)).await?;
    let mut new = Peer::connect_as(&url, of(2)).await?;
    let mut old_v0 = v0_peer::Peer::connect(&url, "environmentd-old-0").await?;
    let mut unknown_v0 = v0_peer::Peer::connect(&url, "stranger").await?;
    let mut elsewhere_hello = of(1);
    elsewhere_hello.environment_id = "elsewhere".to_owned();
    let mut elsewhere = Peer::connect_as(&url, elsewhere_hello.clone()).await?;
    until("all to be connected", async || {
        (operator.sessions().await.ok()?.len() == 5).then_some(())
    })
    .await?;
    let raised = operator.fence("", 2, false).await?;
    assert!(raised.changed && !raised.survives_restart, "{raised:?}");
    assert_eq!(raised.sessions_ended, 2);
    let fenced = old.receiver().expect_fenced("to be told").await?;
    assert_eq!((fenced.generation, fenced.epoch), (2, 1));
    let end = old.receiver().expect_end("the end").await?;
    assert_eq!(end.code(), Code::PermissionDenied);
    assert_eq!(end.message(), fenced.reason);
    let end = end_of_v0(&mut old_v0).await?;
    assert_eq!(end.code(), Code::PermissionDenied);
    assert_eq!(end.message(), fenced.reason);

    refused(&url, of(1)).await?;
    let mut late_v0 = v0_peer::Peer::connect(&url, "environmentd-old-1").await?;
    assert_eq!(end_of_v0(&mut late_v0).await?.message(), fenced.reason);

    // The others live on, and whoever is let in comes in.
    new.follow(SHARD, None).await?;
    elsewhere.follow(SHARD, None).await?;
    unknown_v0.sender().subscribe(SHARD).await?;
    Peer::connect_as(&url, of(2)).await?;
    Peer::connect_as(&url, elsewhere_hello).await?;
    let mut tool = of(0);
    tool.client_name = "persist-pubsub tap".to_owned();
    Peer::connect_as(&url, tool.clone()).await?;

    // Nobody can tell an unknown one from an old one: only on request.
    let raised = operator.fence("", 2, true).await?;
    assert_eq!(raised.sessions_ended, 1);
    let end = end_of_v0(&mut unknown_v0).await?;
    assert!(
        end.message().contains("by generation 2 (epoch 2"),
        "{end:?}"
    );
    Peer::connect_as(&url, tool).await?;
    let outcome =
        |outcome: &str| format!("persist_pubsub_fenced_sessions_total{{outcome=\"{outcome}\"}}");
    assert_eq!(operator.metric(&outcome("ended")).await?, 3.0);
    assert_eq!(operator.metric(&outcome("refused")).await?, 2.0);
    assert_eq!(operator.metric("persist_pubsub_fences").await?, 1.0);
    assert!(
        server.log().contains("will not survive"),
        "{}",
        server.log()
    );
    Ok(())
}

/// It only rises, unless who lowers it knows where it stands.
#[tokio::test]
async fn it_rises_and_is_lowered_by_force_alone() -> Verdict {
    let server = server(&[]).await?;
    let operator = Operator::connect(&server).await?;
    let get = async || {
        let request = GetFenceRequest::default();
        let answer = operator.admin.clone().get_fence(request).await?;
        Ok::<_, Failure>(answer.into_inner().fence)
    };
    let code = |result: Result<_, OperatorError>| match result {
        Err(OperatorError::Status(status)) => Some((status.code(), status.message().to_owned())),
        _ => None,
    };
    let fence = |generation, epoch| Fence {
        environment: "default".to_owned(),
        generation,
        epoch,
        unknown_v0: false,
    };
    assert_eq!(get().await?, None);
    operator.fence("", 2, false).await?;
    operator.fence("default", 3, false).await?;
    let again = operator.fence("", 3, false).await?;
    assert!(!again.changed);
    assert_eq!(again.fence, Some(fence(3, 2)));
    let lower = code(operator.fence("", 2, false).await).ok_or("it fell")?;
    assert_eq!(lower.0, Code::FailedPrecondition);
    assert!(
        lower.1.contains("stands at generation 3 (epoch 2)"),
        "{lower:?}"
    );
    let none = code(operator.fence("", 0, false).await).ok_or("it fell")?;
    assert_eq!(none.0, Code::InvalidArgument);
    let long = "x".repeat(257);
    let name = code(operator.fence(&long, 1, false).await).ok_or("it is long")?;
    assert_eq!(name.0, Code::InvalidArgument);
    assert_eq!(get().await?, Some(fence(3, 2)));

    let force = async |generation, was| {
        let request = SetFenceRequest {
            generation,
            force_was: Some(was),
            ..SetFenceRequest::default()
        };
        operator.admin.clone().set_fence(request).await
    };
    let wrong = force(2, 2).await.err().ok_or("it stood elsewhere")?;
    assert_eq!(wrong.code(), Code::FailedPrecondition);
    force(2, 3).await?;
    assert_eq!(get().await?, Some(fence(2, 3)));
    force(0, 2).await?;
    assert_eq!(get().await?, Some(fence(0, 4)));
    Peer::connect_as(&server.url(), of(1)).await?;
    Ok(())
}

#[tokio::test]
async fn a_restarted_server_remembers() -> Verdict {
    let folder = Folder::new()?;
    let file = folder.path().join("state.json");
    let flag = format!("--state-file={}", file.display());
    for round in 0..3 {
        let mut server = server(&[&flag]).await?;
        let operator = Operator::connect(&server).await?;
        if round == 0 {
            let raised = operator.fence("", 2, false).await?;
            assert!(raised.changed && raised.survives_restart, "{raised:?}");
        }
        refused(&server.url(), of(1)).await?;
        Peer::connect_as(&server.url(), of(2)).await?;
        // Neither a good end nor a bad one makes a difference.
        server
            .signal(if round == 1 { "TERM" } else { "KILL" })
            .await?;
        server.wait().await?;
    }
    let server = server(&[&flag]).await?;
    let operator = Operator::connect(&server).await?;
    let raised = operator.fence("", 3, false).await?;
    assert_eq!(raised.fence.map(|f| f.epoch), Some(2));
    Ok(())
}

/// What cannot be kept is not set.
#[tokio::test]
async fn a_state_file_that_cannot_be_used_is_named() -> Verdict {
    let folder = Folder::new()?;
    let file = folder.path().join("state.json");
    let flag = format!("--state-file={}", file.display());
    for (content, why) in [
        (
            &b"{\"version\":1,\"fences\":[{}]}"[..],
            "names no environment",
        ),
        (b"{\"version\":9}", "version is 9"),
        (b"", "no JSON"),
        (b"\xff\xfe", "cannot be read"),
    ] {
        std::fs::write(&file, content)?;
        let Err(ChildError::Exited { status, log }) = server(&[&flag]).await else {
            return Err("it started".into());
        };
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(
            log.contains("--state-file") && log.contains("state.json"),
            "{log}"
        );
        assert!(log.contains(why), "{log}");
    }
    let nowhere = format!("--state-file={}/no/such/state", folder.path().display());
    let Err(ChildError::Exited { log, .. }) = server(&[&nowhere]).await else {
        return Err("it started".into());
    };
    assert!(
        log.contains("--state-file") && log.contains("cannot be written"),
        "{log}"
    );

    std::fs::remove_file(&file)?;
    let server = server(&[&flag]).await?;
    assert!(
        file.exists(),
        "made at the start, which shows that it can be"
    );
    let mut old = Peer::connect_as(&server.url(), of(1)).await?;
    // The folder goes: the next draft has no place.
    std::fs::remove_dir_all(folder.path())?;
    let operator = Operator::connect(&server).await?;
    match operator.fence("", 2, false).await {
        Err(OperatorError::Status(status)) => {
            assert_eq!(status.code(), Code::Internal);
            assert!(status.message().contains("--state-file"), "{status:?}");
        }
        other => return Err(format!("{other:?}").into()),
    }
    old.follow(SHARD, None).await?;
    Ok(())
}

/// As a process that is not told in its own language: it comes back for ever.
#[tokio::test]
async fn those_who_keep_knocking_cost_a_line_a_minute() -> Verdict {
    const KNOCKS: usize = 100;
    let server = server(&[RULE]).await?;
    let operator = Operator::connect(&server).await?;
    operator.fence("", 2, false).await?;
    for _ in 0..KNOCKS / 2 {
        refused(&server.url(), of(1)).await?;
        let mut v0 = v0_peer::Peer::connect(&server.url(), "environmentd-old-0").await?;
        end_of_v0(&mut v0).await?;
    }
    let series = "persist_pubsub_fenced_sessions_total{outcome=\"refused\"}";
    assert_eq!(operator.metric(series).await?, KNOCKS as f64);
    let log = server.log();
    let lines = log
        .lines()
        .filter(|l| l.contains("below the fence"))
        .count();
    // One, and one more for each minute that a slow machine takes.
    assert!((1..KNOCKS / 4).contains(&lines), "{lines}: {log}");
    for word in ["session connected", "session ended", "message refused"] {
        assert!(!log.contains(word), "{log}");
    }
    assert!(operator.sessions().await?.is_empty());
    Ok(())
}

/// The client crate: told once, and gone for good.
#[tokio::test]
async fn the_client_crate_ends_and_does_not_come_back() -> Verdict {
    let server = server(&[]).await?;
    let operator = Operator::connect(&server).await?;
    let config = Config::new(&server.url())?.deploy_generation(1);
    let (client, mut events) = connect(config.clone());
    let _token = client.subscribe(&SHARD);
    until("it to be connected", async || {
        (operator.sessions().await.ok()?.len() == 1).then_some(())
    })
    .await?;
    operator.fence("", 2, false).await?;
    let (late, mut late_events) = connect(config);
    for events in [&mut events, &mut late_events] {
        let mut last = None;
        while let Some(event) = within("its end", events.next()).await? {
            last = Some(event);
        }
        let Some(Event::Fenced {
            generation, epoch, ..
        }) = last
        else {
            return Err(format!("{last:?}").into());
        };
        assert_eq!((generation, epoch), (2, 1));
    }
    // What it says from now on goes nowhere, and costs nothing.
    for client in [client, late] {
        client.push_diff(&SHARD, 1, Bytes::from_static(b"x"));
        assert_eq!(client.stats().pushes_dropped, 1);
    }
    let series = "persist_pubsub_fenced_sessions_total{outcome=\"refused\"}";
    assert_eq!(operator.metric(series).await?, 1.0, "it came once");
    Ok(())
}

/// A deployed v0 process: its stream ends, and it lives from its poll.
#[tokio::test]
async fn a_deployed_process_lives_from_its_poll() -> Verdict {
    let server = server(&[RULE]).await?;
    let operator = Operator::connect(&server).await?;
    let ledger = Ledger::new(Diffs::Numbered { bytes: 100 });
    let old = V0Process::start("environmentd-old-0", &server.url(), None, &ledger, [SHARD]);
    until("it to be connected", async || {
        old.account().connected.then_some(())
    })
    .await?;
    operator.fence("", 2, false).await?;
    until("it to be lost", async || {
        (old.account().lost > 0).then_some(())
    })
    .await?;
    // It tries again in its own time, and is refused each time.
    let series = "persist_pubsub_fenced_sessions_total{outcome=\"refused\"}";
    until("it to come back, twice", async || {
        (operator.metric(series).await.ok()? >= 2.0).then_some(())
    })
    .await?;
    assert!(operator.sessions().await?.is_empty());
    Ok(())
}

/// Runs `persist-pubsub fence`.
async fn fence(server: &Child, arguments: &[&str]) -> Result<(Option<i32>, String), Failure> {
    let admin = server.admin_url();
    let said = command_line::run(&[&["fence", "--admin", &admin], arguments].concat()).await?;
    Ok((said.code, said.output + &said.error))
}

#[tokio::test]
async fn the_command_says_where_it_stands_and_raises_it() -> Verdict {
    let server = server(&[]).await?;
    let _old = Peer::connect_as(&server.url(), of(1)).await?;
    for (arguments, code, said) in [
        (&[][..], 0, "no fence"),
        (
            &["--below", "2"],
            0,
            "default: generation 2 and above (epoch 1)\n1 sessions ended",
        ),
        (
            &["--below", "2"],
            0,
            "(epoch 1) as before\n0 sessions ended",
        ),
        (&[], 0, "default: generation 2 and above (epoch 1)"),
        (&["--below", "1"], 1, "a fence only rises"),
        (
            &["--below", "3", "--v0"],
            0,
            "(epoch 2), and no v0 session of unknown",
        ),
        (
            &["--below", "1", "--force", "--was", "2"],
            1,
            "stands at generation 3, not at 2",
        ),
        (&["--below", "1", "--force"], 2, "--was"),
        (
            &["--below", "1", "--force", "--was", "3"],
            0,
            "generation 1 and above (epoch 3)\n",
        ),
        (&["--below", "two"], 2, "--below"),
        (
            &["--environment", "b", "--below", "9"],
            0,
            "b: generation 9",
        ),
        (&["--format", "json"], 0, "\"epoch\":3"),
    ] {
        let (exit, printed) = fence(&server, arguments).await?;
        assert_eq!(exit, Some(code), "{arguments:?}: {printed}");
        assert!(printed.contains(said), "{arguments:?}: {printed}");
    }
    Ok(())
}
