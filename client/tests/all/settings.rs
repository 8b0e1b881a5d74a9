//! Settings that change while the client runs.

use std::time::Duration;

use persist_pubsub_client::{Event, Events, Mode, Reason, connect};
use persist_pubsub_proto::v1;
use persist_pubsub_proto::v1::session_request::Message as Said;

use crate::homes::{config, home};
use crate::peer::{
    Peer, Session, V1, event, expect_connected, expect_diff, limits, payload, shard, soon, until,
};
use crate::script::welcome;

/// The client half-closes, having said nothing more.
async fn expect_half_closed(session: &mut Session<V1>) {
    soon("the client's end", async {
        while let Some(said) = session.hear_or_end().await {
            assert!(matches!(said.message, Some(Said::Heartbeat(_))), "{said:?}");
        }
    })
    .await;
}

async fn expect_left(events: &mut Events) {
    let told = event(events).await;
    let Event::Disconnected { reason } = told else {
        panic!("{told:?}");
    };
    assert_eq!(reason, Reason::Left);
}

/// From one home to both, to the other one, and back, and nothing is missed.
#[tokio::test]
async fn homes_that_come_and_go_leave_one_stream() {
    let mut peers = [Peer::<V1>::start().await, Peer::<V1>::start().await];
    let [a, b] = [home(&peers[0]), home(&peers[1])];
    let (client, mut events) = connect(config([a.clone()]));
    let _token = client.subscribe_from(&shard(1), 0);
    let mut here = peers[0].welcome_as("server 0").await;
    here.grant(Some(0)).await;
    expect_connected(&mut events).await;
    let mut seqno = 0;
    for (n, (from, to)) in [(&a, &b), (&b, &a), (&a, &b)].into_iter().enumerate() {
        let both = [from.clone(), to.clone()];
        let peer = &mut peers[(n + 1) % 2];
        // Sometimes with a time when both are wanted, sometimes at once.
        if n < 2 {
            client.configure(client.settings().homes(both));
        } else {
            client.configure(client.settings().homes([to.clone()]));
        }
        let mut there = peer.welcome_as(&format!("server {}", (n + 1) % 2)).await;
        let (request, asked) = there.subscribe().await;
        assert_eq!(asked, [(shard(1), Some(seqno))]);
        client.configure(client.settings().homes([to.clone()]));
        // Not answered yet: the home before brings the shard and is published
        // at.
        client.push_diff(&shard(9), seqno, payload(seqno));
        while here.publish().await != (shard(9), seqno, Some(payload(seqno))) {}
        here.diff(shard(1), seqno + 1).await;
        expect_diff(&mut events, shard(1), seqno + 1).await;
        there.subscribed(request, &[(shard(1), Some(seqno))]).await;
        // Nor is it left before the other one has come to where it is.
        there.diff(shard(1), seqno + 1).await;
        expect_half_closed(&mut here).await;
        // What it had, it tells.
        here.diff(shard(1), seqno + 2).await;
        expect_diff(&mut events, shard(1), seqno + 2).await;
        drop(here);
        for seqno in seqno + 2..=seqno + 3 {
            there.diff(shard(1), seqno).await;
        }
        seqno += 3;
        expect_diff(&mut events, shard(1), seqno).await;
        until(&client, "the one", |stats| stats.homes_connected == 1).await;
        here = there;
    }
    let now = client.stats();
    assert_eq!((now.gaps, now.resyncs, now.lost), (0, 0, 0));
    assert_eq!((now.homes_wanted, now.established), (1, 4));
}

#[tokio::test]
async fn off_is_off_and_on_resumes() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(config([home(&peer)]));
    let _one = client.subscribe_from(&shard(1), 3);
    let mut session = peer.welcome().await;
    session.grant(Some(3)).await;
    expect_connected(&mut events).await;
    session.diff(shard(1), 4).await;
    expect_diff(&mut events, shard(1), 4).await;
    client.push_diff(&shard(9), 1, payload(1));
    client.configure(client.settings().connected(false));
    for seqno in 2..=100 {
        client.push_diff(&shard(9), seqno, payload(seqno));
    }
    // What waited is sent, what came then is nothing.
    assert_eq!(session.publish().await, (shard(9), 1, Some(payload(1))));
    expect_half_closed(&mut session).await;
    drop(session);
    expect_left(&mut events).await;
    let now = client.stats();
    assert_eq!(
        (now.pushes, now.pushes_dropped, now.buffered_bytes),
        (1, 0, 0)
    );
    assert_eq!((now.homes_wanted, now.homes_connected), (0, 0));
    let _two = client.subscribe_from(&shard(2), 9);
    assert!(client.homes().is_empty() && peer.is_left_alone());

    client.configure(client.settings().connected(true));
    let mut session = peer.welcome().await;
    let asked = session.grant(Some(9)).await;
    assert_eq!(asked, [(shard(1), Some(4)), (shard(2), Some(9))]);
    expect_connected(&mut events).await;
    session.diff(shard(1), 5).await;
    expect_diff(&mut events, shard(1), 5).await;
    // Nothing of what came meanwhile was kept.
    client.push_diff(&shard(9), 101, payload(101));
    assert_eq!(session.publish().await.1, 101);
}

/// Off before there was a session: nothing is tried, nothing is kept.
#[tokio::test]
async fn off_from_the_beginning() {
    let mut peer = Peer::<V1>::start().await;
    let config = config([home(&peer)]);
    let on = {
        let (client, _events) = connect(config.clone());
        client.settings()
    };
    let (client, mut events) = connect(config.settings(on.clone().connected(false)));
    let _token = client.subscribe(&shard(1));
    client.push_diff(&shard(9), 1, payload(1));
    assert_eq!(client.stats().pushes, 0);
    client.configure(on);
    client.push_diff(&shard(9), 2, payload(2));
    let mut session = loop {
        // The session of the client above may have been begun.
        let mut session = peer.accept().await;
        if let Ok(Some(_)) = session.try_hear().await {
            session.say(welcome(limits(), 0)).await;
            if let Ok(Some(v1::SessionRequest { message: Some(_) })) = session.try_hear().await {
                break session;
            }
        }
    };
    expect_connected(&mut events).await;
    assert_eq!(session.publish().await.1, 2);
}

/// Promoted: the servers hear it in a session that takes the other's place, and
/// what is pushed waits for that.
#[tokio::test]
async fn a_promotion_is_told_in_a_session_of_its_own() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(config([home(&peer)]).mode(Mode::ReadOnly));
    let _token = client.subscribe_from(&shard(1), 3);
    let mut before = peer.accept().await;
    assert_eq!(mode(&mut before).await, v1::SessionMode::ReadOnly);
    before.say(welcome(limits(), 0)).await;
    before.grant(Some(3)).await;
    expect_connected(&mut events).await;
    client.push_diff(&shard(9), 1, payload(1));
    client.configure(client.settings().mode(Mode::ReadWrite));
    client.push_diff(&shard(9), 2, payload(2));
    let mut after = peer.accept().await;
    assert_eq!(mode(&mut after).await, v1::SessionMode::ReadWrite);
    after.say(welcome(limits(), 0)).await;
    let (request, asked) = after.subscribe().await;
    assert_eq!(asked, [(shard(1), Some(3))]);
    expect_connected(&mut events).await;
    assert_eq!(after.publish().await.1, 2);
    before.diff(shard(1), 4).await;
    expect_diff(&mut events, shard(1), 4).await;
    after.subscribed(request, &[(shard(1), Some(3))]).await;
    // Nothing was published by the read-only one.
    expect_half_closed(&mut before).await;
    drop(before);
    after.diff(shard(1), 4).await;
    after.diff(shard(1), 5).await;
    expect_diff(&mut events, shard(1), 5).await;
    let now = client.stats();
    assert_eq!((now.pushes_dropped, now.lost, now.gaps), (1, 0, 0));
}

async fn mode(session: &mut Session<V1>) -> v1::SessionMode {
    let Said::Hello(hello) = session.said().await else {
        panic!("expected hello");
    };
    hello.mode()
}

/// The bounds and delays, too, hold from then on.
#[tokio::test]
async fn bounds_change_while_it_runs() {
    let mut peer = Peer::<V1>::start().await;
    let endless = Duration::from_secs(3_600);
    let absent = config([home(&peer)]).backoff(endless, endless).unwrap();
    let address = peer.address;
    peer.stop_listening().await;
    let (client, mut events) = connect(absent);
    until(&client, "an attempt", |stats| stats.attempts == 1).await;
    for seqno in 1..=100 {
        client.push_diff(&shard(9), seqno, payload(seqno));
    }
    client.configure(client.settings().push_buffer(usize::MAX, 10));
    until(&client, "what is dropped", |s| s.pushes_dropped == 90).await;
    // The attempt that waits for an hour is not made sooner by that; another
    // home is tried at once.
    peer = Peer::<V1>::start_at(address).await;
    let quick = Duration::from_millis(5);
    let settings = client.settings().backoff(quick, quick).unwrap();
    client.configure(settings.clone().homes([]));
    until(&client, "no home", |stats| stats.homes_wanted == 0).await;
    client.configure(settings.homes([home(&peer)]));
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    assert_eq!(session.publish().await, (shard(9), 90, None));
    for seqno in 91..=100 {
        let pushed = (shard(9), seqno, Some(payload(seqno)));
        assert_eq!(session.publish().await, pushed);
    }
}
