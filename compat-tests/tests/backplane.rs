//! Two servers in this process over a real nats-server: what passes between
//! their sessions, step by step. What holds under load and faults is in
//! `replicas`.

use bytes::Bytes;
use persist_pubsub_compat_tests::nats::conf::Conf;
use persist_pubsub_compat_tests::nats::{self, Nats};
use persist_pubsub_compat_tests::recording::Push;
use persist_pubsub_compat_tests::replicas::next_prefix;
use persist_pubsub_compat_tests::v0_peer;
use persist_pubsub_compat_tests::v1_peer::{self, Peer};
use persist_pubsub_compat_tests::wait::{until, within};
use persist_pubsub_proto::ShardId;
use persist_pubsub_server::app::{self, Server};
use persist_pubsub_server::config::Config;
use tokio::sync::oneshot;

use super::{Failure, Verdict, shards};

/// Two replicas, and how they are told to go.
struct Pair {
    servers: [Server; 2],
    _stop: [oneshot::Sender<()>; 2],
    nats: Nats,
}

impl Pair {
    async fn start(adjust: impl Fn(&mut Config)) -> Result<Self, Failure> {
        let nats = Nats::start(&Conf::default()).await?;
        let mut config = Config::default();
        config.backplane.backplane = vec![nats.url()];
        config.backplane.backplane_prefix = next_prefix();
        // A loaded machine takes its time.
        config.backplane.backplane_join_timeout = std::time::Duration::from_secs(30);
        config.reorder_window = std::time::Duration::from_secs(10);
        adjust(&mut config);
        let (a, stop_a) = start(&config, "a").await?;
        let (b, stop_b) = start(&config, "b").await?;
        let servers = [a, b];
        for server in &servers {
            until("the replicas to know each other", async || {
                (metric(server, "replicas") == 1.0).then_some(())
            })
            .await?;
        }
        Ok(Self {
            servers,
            _stop: [stop_a, stop_b],
            nats,
        })
    }

    fn url(&self, replica: usize) -> String {
        format!("http://{}", self.servers[replica].data_addr())
    }

    fn metric(&self, replica: usize, name: &str) -> f64 {
        metric(&self.servers[replica], name)
    }

    async fn v1(&self, replica: usize) -> Result<Peer, Failure> {
        Ok(Peer::connect(&self.url(replica), "peer").await?)
    }

    async fn v0(&self, replica: usize) -> Result<v0_peer::Peer, Failure> {
        Ok(v0_peer::Peer::connect(&self.url(replica), "peer").await?)
    }
}

async fn start(config: &Config, name: &str) -> Result<(Server, oneshot::Sender<()>), Failure> {
    let mut config = config.clone();
    config.backplane.replica_name = Some(name.to_owned());
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async {
        let _ = stopped.await;
    };
    Ok((app::start(config, shutdown).await?, stop))
}

/// The sum of a metric of the backplane.
fn metric(server: &Server, name: &str) -> f64 {
    let name = format!("persist_pubsub_backplane_{name}");
    let families = server.metrics().gather();
    let family = families.iter().find(|family| family.name() == name);
    let metrics = family.map_or(&[][..], |family| family.get_metric());
    let value =
        |m: &prometheus::proto::Metric| m.get_counter().get_value() + m.get_gauge().get_value();
    metrics.iter().map(value).sum()
}

fn diff(seqno: u64) -> Bytes {
    format!("diff {seqno}").into()
}

async fn publish(
    writer: &v1_peer::Sender,
    shard: ShardId,
    seqnos: impl IntoIterator<Item = u64>,
) -> Verdict {
    for seqno in seqnos {
        writer.publish(shard, seqno, seqno, diff(seqno)).await?;
    }
    Ok(())
}

async fn hears(
    reader: &mut v1_peer::Receiver,
    shard: ShardId,
    seqnos: impl IntoIterator<Item = u64>,
) -> Verdict {
    for seqno in seqnos {
        let heard = reader.expect_diff(&format!("diff {seqno}")).await?;
        assert_eq!(heard.shard_id, shard.to_bytes());
        assert_eq!((heard.seqno, heard.diff), (seqno, diff(seqno)));
        assert_ne!(heard.committed_unix_nanos, 0, "the publisher's stamp");
    }
    Ok(())
}

async fn v0_hears(
    reader: &mut v0_peer::Receiver,
    shard: ShardId,
    seqnos: impl IntoIterator<Item = u64>,
) -> Verdict {
    for seqno in seqnos {
        let heard = reader.expect_push(&format!("push {seqno}")).await?;
        assert_eq!((heard.shard, heard.seqno), (shard, seqno));
        assert_eq!(heard.diff, diff(seqno));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_both_wires_hear_what_the_other_replica_took() -> Verdict {
    if !nats::found("sessions_of_both_wires_hear_what_the_other_replica_took") {
        return Ok(());
    }
    let pair = Pair::start(|_| {}).await?;
    let shard = shards(0xb1, 1)[0];
    let (mut v1_a, mut v1_b) = (pair.v1(0).await?, pair.v1(1).await?);
    let mut v0_a = pair.v0(0).await?;
    assert_eq!(v1_b.follow(shard, None).await?, None, "nobody knows of it");
    publish(v1_a.sender(), shard, 1..=10).await?;
    hears(v1_b.receiver(), shard, 1..=10).await?;
    // What its own replica has is sent to it again, and what comes is live.
    v0_a.sender().subscribe(shard).await?;
    v0_hears(v0_a.receiver(), shard, 1..=10).await?;
    let mut v0_b = pair.v0(1).await?;
    v0_b.sender().subscribe(shard).await?;
    v0_hears(v0_b.receiver(), shard, 1..=10).await?;
    for seqno in 11..=20 {
        let push = Push {
            shard,
            seqno,
            diff: diff(seqno),
        };
        v0_b.sender().push(push).await?;
    }
    hears(v1_b.receiver(), shard, 11..=20).await?;
    v0_hears(v0_a.receiver(), shard, 11..=20).await?;
    // Who published is told of what others did, alone.
    assert_eq!(v1_a.follow(shard, Some(10)).await?, Some(20));
    hears(v1_a.receiver(), shard, 11..=20).await?;
    publish(v1_a.sender(), shard, [21]).await?;
    v0_hears(v0_b.receiver(), shard, [21]).await?;
    publish(v1_b.sender(), shard, [22]).await?;
    hears(v1_a.receiver(), shard, [22]).await?;
    assert_eq!(pair.metric(0, "bad_messages_total"), 0.0);
    assert_eq!(pair.metric(1, "bad_messages_total"), 0.0);
    Ok(())
}

/// What nobody at the second replica wanted, the first one still has: who
/// resumes there misses nothing of it, and nobody else is told of anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_resumes_at_another_replica_gets_what_the_first_one_has() -> Verdict {
    if !nats::found("who_resumes_at_another_replica_gets_what_the_first_one_has") {
        return Ok(());
    }
    let pair = Pair::start(|_| {}).await?;
    let shard = shards(0xb2, 1)[0];
    let mut writer = pair.v1(0).await?;
    publish(writer.sender(), shard, 1..=9).await?;
    // Its own replica has taken them.
    assert_eq!(writer.follow(shard, Some(9)).await?, Some(9));
    let mut now = pair.v1(1).await?;
    assert_eq!(now.follow(shard, None).await?, Some(9));
    let mut resumes = pair.v1(1).await?;
    assert_eq!(resumes.follow(shard, Some(3)).await?, Some(9));
    hears(resumes.receiver(), shard, 4..=9).await?;
    let mut further = pair.v1(1).await?;
    assert_eq!(further.follow(shard, Some(1)).await?, Some(9));
    hears(further.receiver(), shard, 2..=9).await?;
    publish(writer.sender(), shard, [10]).await?;
    for reader in [&mut now, &mut resumes, &mut further] {
        hears(reader.receiver(), shard, [10]).await?;
    }
    // A third question would bring nothing that is not there.
    let asked = pair.metric(1, "asked_total");
    let mut again = pair.v1(1).await?;
    assert_eq!(again.follow(shard, Some(1)).await?, Some(10));
    hears(again.receiver(), shard, 2..=10).await?;
    assert!(
        pair.metric(1, "asked_total") <= asked + 1.0,
        "but for an audit"
    );
    Ok(())
}

/// A replica without a session that wants a shard takes nothing of it, and
/// lets go of one that nobody wants any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_takes_what_its_sessions_want_and_no_more() -> Verdict {
    if !nats::found("a_replica_takes_what_its_sessions_want_and_no_more") {
        return Ok(());
    }
    let linger = std::time::Duration::from_secs(1);
    let pair = Pair::start(|config| config.backplane.backplane_linger = linger).await?;
    let [wanted, other] = shards(0xb3, 2)[..] else {
        return Err("two shards".into());
    };
    let (writer, mut reader) = (pair.v1(0).await?, pair.v1(1).await?);
    reader.follow(wanted, None).await?;
    publish(writer.sender(), other, 1..=20).await?;
    publish(writer.sender(), wanted, 1..=5).await?;
    hears(reader.receiver(), wanted, 1..=5).await?;
    assert_eq!(pair.metric(1, "received_total"), 5.0);
    assert_eq!(pair.metric(1, "interests"), 1.0);
    assert_eq!(pair.metric(0, "interests"), 0.0);
    reader.sender().unsubscribe(2, &[wanted]).await?;
    reader
        .receiver()
        .expect_unsubscribed("it is given back")
        .await?;
    within("the shard to be let go", async {
        until("no interest", async || {
            (pair.metric(1, "interests") == 0.0).then_some(())
        })
        .await
    })
    .await??;
    assert_eq!(reader.follow(wanted, Some(5)).await?, Some(5));
    publish(writer.sender(), wanted, [6]).await?;
    hears(reader.receiver(), wanted, [6]).await?;
    Ok(())
}

/// With NATS gone, each replica serves its own sessions on and says so; with
/// NATS back, what was missed is caught up with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_nats_a_replica_serves_its_own_and_catches_up_later() -> Verdict {
    if !nats::found("without_nats_a_replica_serves_its_own_and_catches_up_later") {
        return Ok(());
    }
    let pair = Pair::start(|_| {}).await?;
    let shard = shards(0xb4, 1)[0];
    let (mut a, mut b) = (pair.v1(0).await?, pair.v1(1).await?);
    b.follow(shard, None).await?;
    publish(a.sender(), shard, 1..=3).await?;
    hears(b.receiver(), shard, 1..=3).await?;
    pair.nats.signal("STOP").await?;
    for replica in 0..2 {
        until("NATS to be missed", async || {
            (pair.metric(replica, "connected") == 0.0).then_some(())
        })
        .await?;
    }
    publish(a.sender(), shard, 4..=6).await?;
    assert_eq!(a.follow(shard, Some(6)).await?, Some(6));
    let mut own = pair.v1(0).await?;
    assert_eq!(own.follow(shard, Some(3)).await?, Some(6));
    hears(own.receiver(), shard, 4..=6).await?;
    pair.nats.signal("CONT").await?;
    hears(b.receiver(), shard, 4..=6).await?;
    publish(b.sender(), shard, [7]).await?;
    hears(a.receiver(), shard, [7]).await?;
    Ok(())
}

/// A replica with all sessions sends some of v1 to the one with none: told
/// first, ended well, and those of v0 never.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_all_sessions_sends_some_of_v1_away() -> Verdict {
    if !nats::found("who_has_all_sessions_sends_some_of_v1_away") {
        return Ok(());
    }
    let pair = Pair::start(|config| {
        config.backplane.rebalance_interval = std::time::Duration::from_secs(1);
        config.drain_window = std::time::Duration::from_millis(100);
    })
    .await?;
    let mut v0 = Vec::new();
    for _ in 0..4 {
        v0.push(pair.v0(0).await?);
    }
    let mut leaving = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let mut peer = pair.v1(0).await?;
        leaving.spawn(async move {
            let told = peer.receiver().expect_draining("to be sent away").await?;
            let end = peer.receiver().expect_end("the end").await?;
            Ok::<_, persist_pubsub_compat_tests::v0_peer::PeerError>((
                told.window_millis,
                end.code(),
            ))
        });
    }
    for _ in 0..2 {
        let left = within("a session to be sent away", leaving.join_next()).await?;
        let left = left.ok_or("all have left")???;
        assert_eq!(left, (100, tonic::Code::Ok));
    }
    assert!(pair.metric(0, "sessions_moved_total") >= 2.0);
    let shard = shards(0xb5, 1)[0];
    let writer = pair.v1(1).await?;
    for peer in &mut v0 {
        peer.sender().subscribe(shard).await?;
    }
    publish(writer.sender(), shard, [1]).await?;
    for peer in &mut v0 {
        v0_hears(peer.receiver(), shard, [1]).await?;
    }
    Ok(())
}
