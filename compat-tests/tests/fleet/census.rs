//! What any replica tells of all.

use persist_pubsub_compat_tests::nats::conf::Conf;
use persist_pubsub_compat_tests::nats::{self, Nats};
use persist_pubsub_compat_tests::replicas::Replicas;
use persist_pubsub_compat_tests::v1_peer::Peer;
use persist_pubsub_compat_tests::wait::until;
use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::admin_v1::{GetServerInfoRequest, WatchStatusRequest};
use serde_json::Value;

use super::super::{Failure, Verdict};
use super::{ask, comes_to, of, one_each};

const SHARD: ShardId = ShardId::new([0xf2; 16]);

/// JSON lines.
fn lines(said: &str) -> Result<Vec<Value>, Failure> {
    let lines = said.lines().map(serde_json::from_str);
    Ok(lines.collect::<Result<_, _>>()?)
}

/// The words of a line that begins so, whatever is between them.
fn has_row(table: &str, words: &str) -> bool {
    table.lines().any(|line| {
        let line: Vec<_> = line.split_whitespace().collect();
        line.join(" ").starts_with(words)
    })
}

#[tokio::test]
async fn each_replica_tells_of_one_or_of_all() -> Verdict {
    if !nats::found("fleet::census::each_replica_tells_of_one_or_of_all") {
        return Ok(());
    }
    let nats = Nats::start(&Conf::default()).await?;
    let replicas = Replicas::start(&[nats.address()], 3, &[]).await?;
    let mut peers = one_each(&replicas, 2).await?;
    peers.push(Peer::connect_as(&replicas.one(2).url(), of(1)).await?);
    for peer in &mut peers {
        peer.follow(SHARD, None).await?;
    }
    for asked in replicas.all() {
        let table = comes_to(asked, &["generations"], 0, "REPLICA").await?;
        for row in [
            "replica-0 default 2 v1 1.2.3 compat-tests read-write 1 1",
            "replica-1 default 2 v1",
            "replica-2 default 2 v1",
            "replica-2 default 1 v1",
        ] {
            assert!(has_row(&table, row), "{row:?}: {table}");
        }
        let one = ["generations", "--replica", "replica-2", "--format", "json"];
        let (code, said) = ask(asked, &one).await?;
        assert_eq!(code, Some(0), "{said}");
        let census = &lines(&said)?[0];
        assert_eq!(census["groups"].as_array().map(Vec::len), Some(2), "{said}");
        assert_eq!(census["replicas"].as_array().map(Vec::len), Some(1));

        let (code, said) = ask(asked, &["sessions", "--format", "json"]).await?;
        assert_eq!(code, Some(0), "{said}");
        let sessions = lines(&said)?;
        let of: Vec<_> = sessions.iter().map(|s| s["replica"].as_str()).collect();
        let expected = ["replica-0", "replica-1", "replica-2", "replica-2"];
        assert_eq!(of, expected.map(Some), "{said}");
        let (_, said) = ask(asked, &["sessions", "--replica=replica-1"]).await?;
        assert!(has_row(&said, "replica-1 1 v1 environmentd"), "{said}");
        assert!(!said.contains("replica-2"), "{said}");

        let shard = SHARD.to_string();
        let (_, said) = ask(asked, &["shards", &shard, "--format", "json"]).await?;
        let subscribers = lines(&said)?;
        let subscribers: Vec<_> = subscribers
            .iter()
            .map(|s| s["subscribers"].as_u64())
            .collect();
        assert_eq!(subscribers, [1, 1, 2].map(Some), "{said}");

        let (code, said) = ask(asked, &["sessions", "--replica", "nobody"]).await?;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("there is no replica 'nobody'"), "{said}");
        assert!(said.contains("replica-2"), "{said}");

        let (code, said) = ask(asked, &["top", "--once"]).await?;
        assert_eq!(code, Some(0), "{said}");
        assert!(
            said.contains("replicas replica-0, replica-1, replica-2"),
            "{said}"
        );
        assert!(has_row(&said, "replica-2 default 1"), "{said}");
    }
    let request = GetServerInfoRequest {
        replica: "replica-1".to_owned(),
    };
    let info = replicas
        .one(0)
        .operator()
        .admin
        .clone()
        .get_server_info(request)
        .await?;
    assert_eq!(info.into_inner().replica, "replica-1");
    Ok(())
}

/// The status that pages show: of all, and of one, with its samples.
#[tokio::test]
async fn a_page_shows_one_or_all() -> Verdict {
    if !nats::found("fleet::census::a_page_shows_one_or_all") {
        return Ok(());
    }
    let nats = Nats::start(&Conf::default()).await?;
    let replicas = Replicas::start(&[nats.address()], 2, &[]).await?;
    let _peers = one_each(&replicas, 2).await?;
    for (replica, sessions, of) in [("", 2, 2), ("this", 1, 0), ("replica-1", 1, 1)] {
        let request = WatchStatusRequest {
            replica: replica.to_owned(),
        };
        let mut admin = replicas.one(0).operator().admin.clone();
        let mut looks = admin.watch_status(request).await?.into_inner();
        let (mut samples, mut last) = (0, None);
        until(&format!("{replica:?} to be shown"), async || {
            let look = looks.message().await.ok()??;
            samples += look.samples.len();
            let server = look.server.clone()?;
            let seen = server.sessions == sessions && look.replicas.len() == of;
            last = Some(look);
            (seen && samples > 1).then_some(())
        })
        .await
        .map_err(|late| late.but(&format!("{last:?}")))?;
    }
    Ok(())
}

/// Gone is who is gone from every replica, and none may be missing.
#[tokio::test]
async fn a_generation_is_gone_when_no_replica_has_it() -> Verdict {
    if !nats::found("fleet::census::a_generation_is_gone_when_no_replica_has_it") {
        return Ok(());
    }
    let nats = Nats::start(&Conf::default()).await?;
    let mut replicas = Replicas::start(&[nats.address()], 3, &[]).await?;
    let old = Peer::connect_as(&replicas.one(2).url(), of(1)).await?;
    let wait = |timeout: &'static str| {
        [
            "generations",
            "--wait-gone=1",
            "--settle=0s",
            "--timeout",
            timeout,
        ]
    };
    let (code, said) = ask(replicas.one(0), &wait("3s")).await?;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("1 sessions of generation 1"), "{said}");
    // The asked one alone would not know.
    let here = [&wait("10m")[..], &["--replica=this"]].concat();
    let (code, said) = ask(replicas.one(0), &here).await?;
    assert_eq!(code, Some(0), "{said}");
    let patient = wait("10m");
    let waiting = ask(replicas.one(0), &patient);
    let leaving = async {
        drop(old);
        Ok::<_, Failure>(())
    };
    let ((code, said), ()) = tokio::try_join!(waiting, leaving)?;
    assert_eq!(code, Some(0), "{said}");

    // One that was killed may as well serve on.
    replicas.one(1).child().signal("KILL").await?;
    replicas.bury(1).await?;
    comes_to(replicas.one(0), &wait("3s"), 3, "without a goodbye").await?;
    let (_, said) = ask(replicas.one(0), &["sessions"]).await?;
    assert!(
        said.contains("not asked: replica-1: not heard of"),
        "{said}"
    );
    let killed = [&wait("10m")[..], &["--pass-over-lost"]].concat();
    let (code, said) = ask(replicas.one(0), &killed).await?;
    assert_eq!(code, Some(0), "{said}");
    let killed = replicas.begin_to_replace(1).await?;
    drop(killed);
    Ok(())
}

/// One that says goodbye is not missed.
#[tokio::test]
async fn who_leaves_is_not_missed() -> Verdict {
    if !nats::found("fleet::census::who_leaves_is_not_missed") {
        return Ok(());
    }
    let nats = Nats::start(&Conf::default()).await?;
    let mut replicas = Replicas::start(&[nats.address()], 2, &[]).await?;
    let old = replicas.begin_to_replace(1).await?;
    old.leave().await?;
    replicas.know_each_other().await?;
    let (code, said) = ask(replicas.one(0), &["fence", "--below", "2"]).await?;
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("confirmed by replica-0, replica-2\n"),
        "{said}"
    );
    Ok(())
}
