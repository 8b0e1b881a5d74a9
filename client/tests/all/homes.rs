//! Several homes: one stream from all of them, and no word of a loss while one
//! lives.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use persist_pubsub_client::{
    Client, Config, Event, Events, Home, HomeState, Io, OperatingSystem, Reason, System, connect,
    connect_by,
};
use persist_pubsub_proto::v1;
use persist_pubsub_proto::v1::session_response::Message as Heard;
use tonic::Status;

use crate::peer::{
    NEVER, Peer, Session, V1, event, expect_connected, expect_diff, expect_disconnected, payload,
    shard, soon, until,
};

pub(crate) fn home<W: crate::peer::Wire>(peer: &Peer<W>) -> Home {
    Home::at(&peer.address.to_string()).unwrap()
}

/// Quick attempts, and nothing that comes by itself.
pub(crate) fn config(homes: impl IntoIterator<Item = Home>) -> Config {
    Config::with_homes(homes)
        .client_name("tester")
        .backoff(Duration::from_millis(5), Duration::from_millis(50))
        .unwrap()
        .merge_grace(NEVER)
        .resync_spread(NEVER)
}

/// A host of two homes that has shard 1 at 3.
struct Two {
    client: Client,
    events: Events,
    /// The peers, and a session with each.
    peers: [Peer<V1>; 2],
    a: Session<V1>,
    b: Session<V1>,
    _token: persist_pubsub_client::Subscription,
}

impl Two {
    async fn begin() -> Self {
        let mut peers = [Peer::<V1>::start().await, Peer::<V1>::start().await];
        let (client, mut events) = connect(config(peers.iter().map(home)));
        let token = client.subscribe_from(&shard(1), 3);
        let mut a = peers[0].welcome_as("a").await;
        let mut b = peers[1].welcome_as("b").await;
        for session in [&mut a, &mut b] {
            assert_eq!(session.grant(Some(3)).await, [(shard(1), Some(3))]);
        }
        expect_connected(&mut events).await;
        until(&client, "both homes", |s| s.homes_connected == 2).await;
        Self {
            client,
            events,
            peers,
            a,
            b,
            _token: token,
        }
    }
}

#[tokio::test]
async fn two_homes_are_one_stream() {
    let mut two = Two::begin().await;
    for seqno in 1..=20 {
        two.client.push_diff(&shard(9), seqno, payload(seqno));
        let pushed = (shard(9), seqno, Some(payload(seqno)));
        assert_eq!(two.a.publish().await, pushed);
        assert_eq!(two.b.publish().await, pushed);
    }
    for seqno in 4..=23 {
        let (first, second) = match seqno % 2 {
            0 => (&two.a, &two.b),
            _ => (&two.b, &two.a),
        };
        first.diff(shard(1), seqno).await;
        expect_diff(&mut two.events, shard(1), seqno).await;
        second.diff(shard(1), seqno).await;
    }
    // What one has not got, the other has.
    two.a.gap(shard(1), 24, 24, 25).await;
    two.a.diff(shard(1), 25).await;
    two.b.diff(shard(1), 24).await;
    expect_diff(&mut two.events, shard(1), 24).await;
    expect_diff(&mut two.events, shard(1), 25).await;
    // The host's own is told it by none.
    two.client.push_diff(&shard(1), 26, payload(26));
    two.a.diff(shard(1), 26).await;
    two.b.diff(shard(1), 27).await;
    expect_diff(&mut two.events, shard(1), 27).await;
    let now = two.client.stats();
    assert_eq!(
        (now.sent, now.announced, now.gaps, now.resyncs),
        (21, 0, 0, 0)
    );
    assert_eq!((now.homes_wanted, now.homes_connected), (2, 2));
    assert_eq!((now.established, now.lost), (2, 0));
    let homes = two.client.homes();
    assert_eq!(homes.len(), 2);
    for status in homes {
        let mut peers = two.peers.iter();
        assert!(peers.any(|peer| Some(peer.address) == status.address));
        let HomeState::Connected { leaving, .. } = status.state else {
            panic!("{status:?}");
        };
        assert!(!leaving);
    }
}

#[tokio::test]
async fn the_loss_of_a_home_is_not_noticed_and_it_is_caught_up() {
    let mut two = Two::begin().await;
    two.a.diff(shard(1), 4).await;
    two.b.diff(shard(1), 4).await;
    two.client.push_diff(&shard(9), 1, payload(1));
    two.b.publish().await;
    two.a.fail(Status::unavailable("bye")).await;
    until(&two.client, "the loss", |stats| stats.lost == 1).await;
    for seqno in 2..=50 {
        two.client.push_diff(&shard(9), seqno, payload(seqno));
        assert_eq!(two.b.publish().await.1, seqno);
    }
    two.client.push_diff(&shard(8), 7, payload(7));
    assert_eq!(two.b.publish().await.1, 7);
    two.b.diff(shard(1), 5).await;
    for seqno in 4..=5 {
        expect_diff(&mut two.events, shard(1), seqno).await;
    }

    // It has forgotten all. Its subscribers hear where the shards are, and
    // those of the other home nothing.
    let mut a = two.peers[0].welcome_as("a, again").await;
    assert_eq!(a.grant(None).await, [(shard(1), Some(5))]);
    assert_eq!(a.publish().await, (shard(8), 7, None));
    assert_eq!(a.publish().await, (shard(9), 50, None));
    two.client.push_diff(&shard(9), 51, payload(51));
    assert_eq!(a.publish().await, (shard(9), 51, Some(payload(51))));
    assert_eq!(two.b.publish().await, (shard(9), 51, Some(payload(51))));
    a.diff(shard(1), 6).await;
    two.b.diff(shard(1), 6).await;
    expect_diff(&mut two.events, shard(1), 6).await;

    // It brings the shard: the other one is not needed any more.
    two.b.fail(Status::unavailable("bye")).await;
    until(&two.client, "the second loss", |stats| stats.lost == 2).await;
    a.diff(shard(1), 7).await;
    expect_diff(&mut two.events, shard(1), 7).await;
    let now = two.client.stats();
    assert_eq!((now.gaps, now.resyncs), (0, 0));

    // The last one is told.
    let _b = two.peers[1].welcome_as("b, again").await;
    until(&two.client, "it again", |stats| stats.homes_connected == 2).await;
    drop(_b);
    a.fail(Status::unavailable("the last")).await;
    expect_disconnected(&mut two.events).await;
    let _a = two.peers[0].welcome_as("a, once more").await;
    expect_connected(&mut two.events).await;
}

/// A home that says nothing any more, though it lives, is waited for once.
#[tokio::test]
async fn a_stalled_home_is_waited_for_once() {
    let mut two = Two::begin().await;
    let grace = Duration::from_millis(50);
    two.client
        .configure(two.client.settings().merge_grace(grace));
    two.b.gap(shard(1), 4, 4, 5).await;
    two.b.diff(shard(1), 5).await;
    expect_gap(&mut two.events, 4, 4).await;
    expect_diff(&mut two.events, shard(1), 5).await;
    // And not for the next hole: this grace would never be over.
    two.client
        .configure(two.client.settings().merge_grace(NEVER));
    two.b.gap(shard(1), 6, 6, 7).await;
    two.b.diff(shard(1), 7).await;
    expect_gap(&mut two.events, 6, 6).await;
    expect_diff(&mut two.events, shard(1), 7).await;
    // When it speaks again, it counts again.
    two.a.diff(shard(1), 7).await;
    until(&two.client, "its word", |stats| stats.duplicates == 1).await;
    two.b.gap(shard(1), 8, 8, 9).await;
    two.b.diff(shard(1), 9).await;
    two.a.diff(shard(1), 8).await;
    expect_diff(&mut two.events, shard(1), 8).await;
    expect_diff(&mut two.events, shard(1), 9).await;
}

#[tokio::test]
async fn a_home_that_does_not_read_costs_the_other_nothing() {
    let mut two = Two::begin().await;
    let large = Bytes::from(vec![7; 100_000]);
    // Far more than the network and the buffer take.
    for seqno in 1..=500 {
        two.client.push_diff(&shard(9), seqno, large.clone());
        assert_eq!(
            two.b.publish().await,
            (shard(9), seqno, Some(large.clone()))
        );
    }
    two.b.diff(shard(1), 4).await;
    expect_diff(&mut two.events, shard(1), 4).await;
    let now = two.client.stats();
    assert_eq!((now.sent, now.pushes_dropped), (500, 0));
    assert!(now.buffered_bytes <= 16 << 20, "{}", now.buffered_bytes);
    // When it reads, it hears how far the shard is.
    let mut last = 0;
    while last < 500 {
        last = two.a.publish().await.1;
    }
}

#[tokio::test]
async fn fenced_by_one_is_fenced() {
    let mut two = Two::begin().await;
    let fenced = |epoch| {
        Heard::Fenced(v1::Fenced {
            generation: 18,
            epoch,
            reason: "generation 18 took over".into(),
        })
    };
    two.b.diff(shard(1), 4).await;
    expect_diff(&mut two.events, shard(1), 4).await;
    two.b.say(fenced(3)).await;
    assert_eq!(
        event(&mut two.events).await,
        Event::Fenced {
            generation: 18,
            epoch: 3,
            reason: "generation 18 took over".into()
        }
    );
    two.a.say(fenced(4)).await;
    assert_eq!(soon("the end", two.events.next()).await, None);
    two.a.hear_gone().await;
    two.b.hear_gone().await;
    assert!(!two.client.stats().connected);
    assert!(two.peers.iter_mut().all(Peer::is_left_alone));
}

/// A server with two names is one server.
#[tokio::test]
async fn the_same_server_by_another_name_is_not_heard_twice() {
    let mut peer = Peer::<V1>::start().await;
    let names = Names::new(vec![peer.address]);
    let homes = [home(&peer), Home::at("pubsub").unwrap()];
    let (client, mut events) = connect_by(config(homes), names);
    let _token = client.subscribe_from(&shard(1), 3);
    let mut one = peer.welcome_as("a").await;
    assert_eq!(one.grant(Some(3)).await, [(shard(1), Some(3))]);
    expect_connected(&mut events).await;
    let mut other = peer.welcome_as("a").await;
    other.hear_gone().await;
    let again = |state: &HomeState| {
        let same = Reason::SameServer("a".into());
        *state == HomeState::Connecting { reason: Some(same) }
    };
    soon("it to be seen", async {
        while !client.homes().iter().any(|home| again(&home.state)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert_eq!(client.stats().homes_connected, 1);
    one.diff(shard(1), 4).await;
    expect_diff(&mut events, shard(1), 4).await;
}

/// Another server is at the name: it joins, and when the session with the one
/// before ends, that is not tried again.
#[tokio::test]
async fn a_name_of_several_addresses_is_several_homes() {
    let mut peers = Vec::new();
    for _ in 0..3 {
        peers.push(Peer::<V1>::start().await);
    }
    let at = |n: usize| peers[n].address;
    let names = Names::new(vec![at(0), at(1)]);
    let config = config([Home::at("pubsub").unwrap()])
        .max_homes(2)
        .look_up_interval(Duration::from_millis(20));
    let (client, mut events) = connect_by(config, names.clone());
    let _token = client.subscribe_from(&shard(1), 3);
    let (first, third) = ([at(0), at(1)], at(2));
    let mut sessions = Vec::new();
    for (n, peer) in peers.iter_mut().take(2).enumerate() {
        let mut session = peer.welcome_as(&format!("server {n}")).await;
        session.grant(Some(3)).await;
        sessions.push(session);
    }
    expect_connected(&mut events).await;
    until(&client, "both", |stats| stats.homes_connected == 2).await;
    assert!(client.homes().iter().all(|home| {
        first.contains(&home.address.unwrap()) && home.home == Home::at("pubsub").unwrap()
    }));
    // One more than are wanted: who is there stays.
    names.are(vec![first[0], first[1], third]);
    names.were_asked().await;
    assert!(peers[2].is_left_alone());
    // One gives way, when it is lost.
    names.are(vec![first[1], third]);
    peers.remove(0).stop_listening().await;
    sessions.remove(0).fail(Status::unavailable("bye")).await;
    let mut new = peers[1].welcome_as("server 2").await;
    new.grant(Some(3)).await;
    until(&client, "both", |stats| stats.homes_connected == 2).await;
    new.diff(shard(1), 4).await;
    expect_diff(&mut events, shard(1), 4).await;
    assert_eq!(client.homes().len(), 2);
    assert_eq!(client.stats().homes_wanted, 2);
}

/// The name has two servers, of which one is taken; it drains, and the other
/// is joined before it ends, although it is one more than are wanted.
#[tokio::test]
async fn while_a_server_drains_another_of_the_name_is_joined() {
    let mut old = Peer::<V1>::start().await;
    let mut new = Peer::<V1>::start().await;
    let names = Names::new(vec![old.address]);
    let one = config([Home::at("pubsub").unwrap()]).max_homes(1);
    let (client, mut events) = connect_by(one, names.clone());
    let _token = client.subscribe_from(&shard(1), 3);
    let mut leaving = old.welcome_as("old").await;
    leaving.grant(Some(3)).await;
    expect_connected(&mut events).await;
    names.are(vec![new.address]);
    old.stop_listening().await;
    leaving
        .say(Heard::Draining(v1::Draining {
            reason: "upgrade".into(),
            window_millis: 10,
        }))
        .await;
    let mut next = new.welcome_as("new").await;
    next.grant(Some(3)).await;
    leaving.diff(shard(1), 4).await;
    expect_diff(&mut events, shard(1), 4).await;
    client.push_diff(&shard(9), 1, payload(1));
    assert_eq!(leaving.publish().await.1, 1);
    assert_eq!(next.publish().await.1, 1);
    drop(leaving);
    until(&client, "the old one to go", |stats| stats.lost == 1).await;
    next.diff(shard(1), 5).await;
    expect_diff(&mut events, shard(1), 5).await;
    soon("its place to go", async {
        while client.homes().len() != 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert_eq!(client.stats().homes_wanted, 1);
}

pub(crate) async fn expect_gap(events: &mut Events, from: u64, to: u64) {
    let told = event(events).await;
    let Event::Gap {
        from: begin,
        to: end,
        ..
    } = told
    else {
        panic!("{told:?}");
    };
    assert_eq!((begin, end), (from, to));
}

/// What the name "pubsub" has; other names are what they are.
#[derive(Clone)]
struct Names(Arc<Mutex<(Vec<SocketAddr>, u64)>>);

impl Names {
    fn new(addresses: Vec<SocketAddr>) -> Self {
        Self(Arc::new(Mutex::new((addresses, 0))))
    }

    fn are(&self, addresses: Vec<SocketAddr>) {
        *self.0.lock().unwrap() = (addresses, 0);
    }

    /// Since the last change, and acted upon: the next one begins after that.
    async fn were_asked(&self) {
        soon("look-ups", async {
            while self.0.lock().unwrap().1 < 3 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}

impl System for Names {
    fn look_up<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>> {
        if host != "pubsub" {
            return OperatingSystem.look_up(host, port);
        }
        let mut names = self.0.lock().unwrap();
        names.1 += 1;
        let found = names.0.clone();
        Box::pin(async move { Ok(found) })
    }

    fn connect(
        &self,
        address: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>> {
        OperatingSystem.connect(address)
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}
