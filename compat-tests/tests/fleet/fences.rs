//! A fence that is raised on one replica.

use persist_pubsub_compat_tests::child::Folder;
use persist_pubsub_compat_tests::nats::conf::Conf;
use persist_pubsub_compat_tests::nats::{self, Nats};
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::replicas::{Replica, Replicas, next_prefix};
use persist_pubsub_compat_tests::v1_peer::Peer;
use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::admin_v1::FenceAgreement;
use persist_pubsub_server::app;
use persist_pubsub_server::config::Config;

use super::super::{Failure, Verdict};
use super::{ask, comes_to, of, one_each, refuses};

const SHARD: ShardId = ShardId::new([0xf1; 16]);

/// Everybody is told of it, wherever it is connected, and whoever is let in
/// lives on.
async fn holds_everywhere(conf: &Conf, kept: &str) -> Verdict {
    let nats = Nats::start(conf).await?;
    let replicas = Replicas::start(&[nats.address()], 3, &[]).await?;
    let mut old = one_each(&replicas, 1).await?;
    let mut new = one_each(&replicas, 2).await?;
    let fence = ["fence", "--below", "2"];
    let (code, said) = ask(replicas.one(1), &fence).await?;
    assert_eq!(code, Some(0), "{said}");
    for words in [
        "default: generation 2 and above (epoch 1)\n3 sessions ended\n",
        kept,
        "confirmed by replica-",
    ] {
        assert!(said.contains(words), "{words:?}: {said}");
    }
    for replica in replicas.all() {
        assert!(said.contains(replica.name()), "{said}");
        refuses(replica, 1).await?;
        let (code, shown) = ask(replica, &["fence"]).await?;
        assert_eq!(code, Some(0), "{shown}");
        assert!(shown.contains("generation 2 and above"), "{shown}");
    }
    for peer in &mut old {
        let fenced = peer.receiver().expect_fenced("to be told").await?;
        assert_eq!((fenced.generation, fenced.epoch), (2, 1));
    }
    for peer in &mut new {
        peer.follow(SHARD, None).await?;
    }
    let (code, said) = ask(replicas.one(2), &fence).await?;
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("(epoch 1) as before\n0 sessions ended"),
        "{said}"
    );
    // By whoever knows where it stands, whoever raised it.
    let forced = ["fence", "--below", "0", "--force", "--was", "2"];
    let (code, said) = ask(replicas.one(0), &forced).await?;
    assert_eq!(code, Some(0), "{said}");
    one_each(&replicas, 1).await?;
    Ok(())
}

#[tokio::test]
async fn one_that_is_kept_in_jetstream_is_held_everywhere() -> Verdict {
    if !nats::found("fleet::fences::one_that_is_kept_in_jetstream_is_held_everywhere") {
        return Ok(());
    }
    let conf = Conf::default().jetstream();
    holds_everywhere(&conf, "it is kept in JetStream\n").await
}

#[tokio::test]
async fn one_is_held_everywhere_without_jetstream() -> Verdict {
    if !nats::found("fleet::fences::one_is_held_everywhere_without_jetstream") {
        return Ok(());
    }
    let kept = "it is agreed between the replicas alone: JetStream is off\n\
                with all replicas down it is forgotten: there is no --state-file\n";
    holds_everywhere(&Conf::default(), kept).await
}

/// With both ways to agree: one that cannot be reached is named, by a line and
/// by the exit code, and catches up by itself.
async fn a_lonely_one_catches_up(conf: Conf) -> Verdict {
    let nats = Nats::start(&conf.attentive()).await?;
    let replicas = Replicas::start(&[nats.address()], 3, &[]).await?;
    let lonely = replicas.one(2);
    let mut old = Peer::connect_as(&lonely.url(), of(1)).await?;
    lonely.part();
    let fence = ["fence", "--below", "2"];
    let (code, said) = ask(replicas.one(0), &fence).await?;
    assert_eq!(code, Some(3), "{said}");
    for words in [
        "confirmed by replica-0, replica-1\n",
        "not confirmed by replica-2 (",
        "the same command asks them again",
    ] {
        assert!(said.contains(words), "{words:?}: {said}");
    }
    refuses(replicas.one(1), 1).await?;
    // It serves whom it serves.
    old.follow(SHARD, None).await?;
    let unconfirmed = "persist_pubsub_fence_unconfirmed_replicas";
    replicas
        .one(0)
        .tells("the one to be counted", unconfirmed, |n| n == 1.0)
        .await?;
    let (code, said) = ask(replicas.one(0), &["fence"]).await?;
    assert_eq!(code, Some(3), "{said}");
    // What is raised there alone is not lost either.
    let said = comes_to(lonely, &["fence", "--below", "3"], 3, "not confirmed by").await?;
    assert!(said.contains("generation 3 and above"), "{said}");
    lonely.mend();
    old.receiver()
        .expect_fenced("to be told in the end")
        .await?;
    for replica in replicas.all() {
        comes_to(replica, &["fence"], 0, "generation 3 and above").await?;
        let all = "all to be known to hold it";
        replica.tells(all, unconfirmed, |n| n == 0.0).await?;
        refuses(replica, 2).await?;
    }
    let (code, said) = ask(replicas.one(0), &["fence", "--below", "3"]).await?;
    assert_eq!(code, Some(0), "{said}");
    Ok(())
}

#[tokio::test]
async fn who_is_cut_off_catches_up_with_jetstream() -> Verdict {
    if !nats::found("fleet::fences::who_is_cut_off_catches_up_with_jetstream") {
        return Ok(());
    }
    a_lonely_one_catches_up(Conf::default().jetstream()).await
}

#[tokio::test]
async fn who_is_cut_off_catches_up_without_jetstream() -> Verdict {
    if !nats::found("fleet::fences::who_is_cut_off_catches_up_without_jetstream") {
        return Ok(());
    }
    a_lonely_one_catches_up(Conf::default()).await
}

/// With NATS gone, each replica can still be told for itself.
#[tokio::test]
async fn without_nats_each_holds_its_own_and_says_so() -> Verdict {
    if !nats::found("fleet::fences::without_nats_each_holds_its_own_and_says_so") {
        return Ok(());
    }
    let mut nats = Nats::start(&Conf::default().jetstream()).await?;
    let mut replicas = Replicas::start(&[nats.address()], 2, &[]).await?;
    nats.kill().await?;
    for replica in replicas.all() {
        let fence = ["fence", "--below", "2"];
        let said = comes_to(replica, &fence, 3, "the backplane is not connected").await?;
        assert!(said.contains("generation 2 and above (epoch 1)"), "{said}");
        refuses(replica, 1).await?;
    }
    // The new one has nothing: what the replicas hold is put there.
    nats.restart().await?;
    replicas.moved(0, nats.address());
    for replica in replicas.all() {
        let said = comes_to(replica, &["fence", "--below", "2"], 0, "kept in JetStream").await?;
        assert!(said.contains("(epoch 1) as before"), "{said}");
    }
    Ok(())
}

/// Changes of one and the same fence on two replicas at the same time: one
/// follows the other, and nobody is told what is not so.
#[tokio::test]
async fn in_jetstream_one_change_follows_the_other() -> Verdict {
    const TURNS: u64 = 20;
    if !nats::found("fleet::fences::in_jetstream_one_change_follows_the_other") {
        return Ok(());
    }
    let nats = Nats::start(&Conf::default().jetstream()).await?;
    let replicas = Replicas::start(&[nats.address()], 2, &[]).await?;
    let raise = async |n: usize| {
        let operator = replicas.one(n).operator();
        let mut told = Vec::new();
        for turn in 1..=TURNS {
            // One raises it to the odd ones, one to the even ones: a raise that
            // comes late is refused.
            let generation = 2 * turn + n as u64;
            let Ok(raised) = operator.fence("", generation, false).await else {
                continue;
            };
            assert_eq!(raised.agreement(), FenceAgreement::Jetstream);
            assert!(raised.confirmed_by_all, "{raised:?}");
            let fence = raised.fence.ok_or("no fence")?;
            assert!(fence.generation >= generation, "{fence:?}");
            told.push((fence.epoch, fence.generation));
        }
        Ok::<_, Failure>(told)
    };
    let (one, other) = tokio::join!(raise(0), raise(1));
    let mut told = [one?, other?].concat();
    told.sort_unstable();
    told.dedup();
    let rising = told
        .windows(2)
        .all(|two| two[0].0 < two[1].0 && two[0].1 < two[1].1);
    assert!(rising, "an epoch is one fence: {told:?}");
    for replica in replicas.all() {
        let all = format!("generation {} and above", 2 * TURNS + 1);
        comes_to(replica, &["fence"], 0, &all).await?;
    }
    Ok(())
}

/// What keeps fences for a start: JetStream, a state file, or another replica.
#[tokio::test]
async fn who_starts_holds_it_before_it_serves() -> Verdict {
    if !nats::found("fleet::fences::who_starts_holds_it_before_it_serves") {
        return Ok(());
    }
    let folder = Folder::new()?;
    let file = folder.path().join("state.json");
    let state = format!("--state-file={}", file.display());
    for (conf, flags) in [
        (Conf::default().jetstream(), vec![]),
        (Conf::default(), vec![state]),
    ] {
        let nats = Nats::start(&conf).await?;
        let prefix = next_prefix();
        let start = async |name: &str, flags: &[String]| {
            Replica::start(name.to_owned(), &[nats.address()], &prefix, flags).await
        };
        let first = start("first", &flags).await?;
        let raised = first.operator().fence("", 2, false).await?;
        assert!(raised.survives_restart, "{raised:?}");
        // Nobody is left.
        first.leave().await?;
        let again = start("again", &flags).await?;
        refuses(&again, 1).await?;
        let second = start("second", &[]).await?;
        refuses(&second, 1).await?;
        comes_to(&second, &["fence"], 0, "confirmed by again, second").await?;
    }
    Ok(())
}

/// The host of an embedded server raises it on all replicas, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_raises_it_on_all_replicas() -> Verdict {
    if !nats::found("fleet::fences::a_host_raises_it_on_all_replicas") {
        return Ok(());
    }
    let nats = Nats::start(&Conf::default()).await?;
    let prefix = next_prefix();
    let start = async |name: &str| {
        let mut config = Config::default();
        config.backplane.backplane = vec![nats.url()];
        config.backplane.backplane_prefix = prefix.clone();
        config.backplane.replica_name = Some(name.to_owned());
        app::start(config, std::future::pending()).await
    };
    let (a, b) = (start("a").await?, start("b").await?);
    let fenced = a.fence_on_all("default", 2).await?;
    assert_eq!((fenced.epoch, fenced.unconfirmed.len()), (1, 0));
    let operator = Operator::at(b.admin_addr()).await?;
    let raised = operator.fence("", 2, false).await?;
    assert!(!raised.changed && raised.confirmed_by_all, "{raised:?}");
    // Without waiting for the others.
    b.fence("default", 3)?;
    let operator = Operator::at(a.admin_addr()).await?;
    persist_pubsub_compat_tests::wait::until("the other to hold it", async || {
        let raised = operator.fence("", 3, false).await.ok()?;
        (!raised.changed).then_some(())
    })
    .await?;
    Ok(())
}
