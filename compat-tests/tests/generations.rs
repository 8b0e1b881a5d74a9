//! The census of generations: by call, by watch, and by the command that an
//! orchestrator waits with.

use persist_pubsub_compat_tests::child::Child;
use persist_pubsub_compat_tests::command_line;
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::v0_peer;
use persist_pubsub_compat_tests::v1_peer::{Peer, hello};
use persist_pubsub_compat_tests::wait::{until, within};
use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::admin_v1::{
    GenerationCensus, ListGenerationsRequest, StatusGroup, WatchGenerationsRequest,
};
use persist_pubsub_proto::v1::{Hello, SessionMode};

use super::{Failure, Verdict, server};

const SHARD: ShardId = ShardId::new([0x6e; 16]);
const RULES: &str = "--v0-generation=environmentd-old-*=1,*-gen-{generation}-*";

fn of(generation: u64, name: &str) -> Hello {
    Hello {
        deploy_generation: generation,
        ..hello(name)
    }
}

async fn census(operator: &Operator, environment: &str) -> Result<GenerationCensus, Failure> {
    let environment = environment.to_owned();
    let request = ListGenerationsRequest {
        environment,
        ..ListGenerationsRequest::default()
    };
    let answer = operator.admin.clone().list_generations(request).await?;
    Ok(answer.into_inner().census.ok_or("no census")?)
}

fn kind(group: &StatusGroup) -> (Option<u64>, &str, &str, u64) {
    (
        group.generation,
        &group.wire_version,
        &group.mode,
        group.sessions,
    )
}

#[tokio::test]
async fn who_is_connected_of_which_generation() -> Verdict {
    let server = server(&[RULES]).await?;
    let operator = Operator::connect(&server).await?;
    let url = server.url();
    let writer = Peer::connect_as(&url, of(2, "writer")).await?;
    let mut reader_hello = of(2, "reader");
    reader_hello.mode = SessionMode::ReadOnly.into();
    let mut reader = Peer::connect_as(&url, reader_hello).await?;
    reader.follow(SHARD, None).await?;
    let mut elsewhere_hello = of(9, "elsewhere");
    elsewhere_hello.environment_id = "another".to_owned();
    let _elsewhere = Peer::connect_as(&url, elsewhere_hello).await?;
    let mut v0 = Vec::new();
    for caller in [
        "environmentd-old-0",
        "cluster-gen-1-x",
        "cluster-gen-3-0",
        "stranger",
    ] {
        v0.push(v0_peer::Peer::connect(&url, caller).await?);
    }
    until("all to be connected", async || {
        (operator.sessions().await.ok()?.len() == 7).then_some(())
    })
    .await?;
    writer.sender().publish(SHARD, 1, 1, "diff").await?;
    reader.receiver().expect_diff("it").await?;
    let all = census(&operator, "").await?;
    let kinds: Vec<_> = all.groups.iter().map(kind).collect();
    assert_eq!(
        kinds,
        [
            (Some(9), "v1", "read-write", 1),
            (Some(3), "v0", "read-write", 1),
            (Some(2), "v1", "read-only", 1),
            (Some(2), "v1", "read-write", 1),
            (Some(1), "v0", "read-write", 2),
            (None, "v0", "read-write", 1),
        ]
    );
    let wrote = all.groups.iter().find(|g| g.last_publish.is_some());
    let wrote = wrote.ok_or("nobody has published")?;
    assert_eq!((wrote.generation, &*wrote.mode), (Some(2), "read-write"));
    assert_eq!(wrote.client_version, "1.2.3");
    assert_eq!(wrote.role, "compat-tests");
    let one = census(&operator, "another").await?;
    let kinds: Vec<_> = one.groups.iter().map(kind).collect();
    assert_eq!(kinds, [(Some(9), "v1", "read-write", 1)]);
    assert_eq!(one.fences, []);
    Ok(())
}

#[tokio::test]
async fn a_watch_shows_who_comes_and_goes() -> Verdict {
    let server = server(&[]).await?;
    let operator = Operator::connect(&server).await?;
    let request = WatchGenerationsRequest::default();
    let answer = operator.admin.clone().watch_generations(request).await?;
    let mut watch = answer.into_inner();
    let mut find = async |what: &str, wanted: &dyn Fn(&GenerationCensus) -> bool| {
        within(what, async {
            while let Some(message) = watch.message().await? {
                if wanted(&message.census.unwrap_or_default()) {
                    return Ok(());
                }
            }
            Err(Failure::from("the watch has ended"))
        })
        .await?
    };
    find("nobody", &|c| c.groups.is_empty()).await?;
    let peer = Peer::connect_as(&server.url(), of(4, "watched")).await?;
    find("it to be seen", &|c| {
        c.groups.iter().any(|g| g.generation == Some(4))
    })
    .await?;
    operator.fence("", 5, false).await?;
    find("the fence", &|c| {
        c.fences.iter().any(|f| f.generation == 5) && c.groups.is_empty()
    })
    .await?;
    drop(peer);
    server.terminate().await?;
    let ended = find("nothing", &|_| false).await;
    assert!(ended.is_err(), "it ends with the server");
    Ok(())
}

/// Runs `persist-pubsub generations`: the exit code, and all that it printed.
async fn generations(server: &Child, arguments: &[&str]) -> Result<(Option<i32>, String), Failure> {
    let admin = server.admin_url();
    let command = ["generations", "--admin", &admin];
    let said = command_line::run(&[&command, arguments].concat()).await?;
    Ok((said.code, said.output + &said.error))
}

/// `--wait-gone`, of a server that need not have run for long.
async fn wait_gone(
    server: &Child,
    generation: &str,
    timeout: &str,
    more: &[&str],
) -> Result<(Option<i32>, String), Failure> {
    let arguments = ["--wait-gone", generation, "--timeout", timeout];
    let arguments = [&arguments[..], &["--settle", "0s"], more].concat();
    generations(server, &arguments).await
}

#[tokio::test]
async fn an_orchestrator_waits_until_a_generation_is_gone() -> Verdict {
    let server = server(&[RULES]).await?;
    let url = server.url();
    // One that never was there is gone.
    let (code, said) = wait_gone(&server, "1", "60s", &[]).await?;
    assert_eq!(code, Some(0), "{said}");
    let old = Peer::connect_as(&url, of(1, "old")).await?;
    let new = Peer::connect_as(&url, of(2, "new")).await?;
    let (code, said) = wait_gone(&server, "1", "1s", &[]).await?;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("1 sessions of generation 1"), "{said}");
    let waiting = wait_gone(&server, "1", "10m", &[]);
    let leaving = async {
        drop(old);
        Ok::<_, Failure>(())
    };
    let ((code, said), ()) = tokio::try_join!(waiting, leaving)?;
    assert_eq!(code, Some(0), "{said}");

    // Whose generation is not known may be of it.
    let unknown = v0_peer::Peer::connect(&url, "stranger").await?;
    let (code, said) = wait_gone(&server, "1", "1s", &[]).await?;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("unknown generation"), "{said}");
    let (code, said) = wait_gone(&server, "1", "10m", &["--known-only"]).await?;
    assert_eq!(code, Some(0), "{said}");
    let elsewhere = ["--environment", "another"];
    let (code, said) = wait_gone(&server, "1", "10m", &elsewhere).await?;
    assert_eq!(code, Some(0), "{said}");
    drop(unknown);

    // Those that are below go with it.
    let below = v0_peer::Peer::connect(&url, "environmentd-old-0").await?;
    let (code, said) = wait_gone(&server, "2", "1s", &[]).await?;
    assert_eq!(code, Some(3), "{said}");
    drop((below, new));
    let (code, said) = wait_gone(&server, "2", "10m", &[]).await?;
    assert_eq!(code, Some(0), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_server_that_cannot_know_is_not_believed() -> Verdict {
    let server = server(&[]).await?;
    let young = ["--wait-gone", "1", "--timeout", "1s", "--settle", "1h"];
    let (code, said) = generations(&server, &young).await?;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("only just started"), "{said}");
    let lost = ["--wait-gone", "1", "--timeout", "1s"];
    drop(server);
    let nobody = "http://127.0.0.1:1";
    let command = ["generations", "--admin", nobody];
    let said = command_line::run(&[&command[..], &lost].concat()).await?;
    assert_eq!(said.code, Some(3), "{said:?}");
    assert!(said.error.contains("cannot reach"), "{said:?}");
    // What time does not mend ends at once.
    let wrong = ["generations", "--admin", "nonsense://", "--wait-gone", "1"];
    let said = command_line::run(&wrong).await?;
    assert_eq!(said.code, Some(2), "{said:?}");
    Ok(())
}

#[tokio::test]
async fn the_table_names_what_there_is() -> Verdict {
    let server = server(&[RULES]).await?;
    let url = server.url();
    let _new = Peer::connect_as(&url, of(2, "new")).await?;
    let _old = v0_peer::Peer::connect(&url, "environmentd-old-0").await?;
    let operator = Operator::connect(&server).await?;
    operator.fence("elsewhere", 3, true).await?;
    until("both to be listed", async || {
        let (code, table) = generations(&server, &[]).await.ok()?;
        let row = |words: &str| {
            table.lines().any(|line| {
                let line: Vec<_> = line.split_whitespace().collect();
                line.join(" ").starts_with(words)
            })
        };
        let all = code == Some(0)
            && row("default 2 v1 1.2.3 compat-tests read-write 1 0")
            && row("default 1 v0 - - read-write 1 0")
            && row("fence of elsewhere: generation 3 and above (epoch 1), and no v0");
        all.then_some(())
    })
    .await?;
    let (_, json) = generations(&server, &["--format", "json"]).await?;
    let json: serde_json::Value = serde_json::from_str(&json)?;
    assert_eq!(json["groups"][0]["generation"], 2, "{json}");
    assert_eq!(json["fences"][0]["generation"], 3, "{json}");
    Ok(())
}
