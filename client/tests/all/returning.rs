//! After a reconnect: what is named, what is fetched, and who is waited for.

use std::time::Duration;

use persist_pubsub_client::{Event, Reason, WirePreference, connect};

use crate::peer::{
    Peer, V0, V1, event, expect_connected, expect_diff, expect_disconnected, expect_resync,
    payload, shard, until,
};

const NEVER: Duration = Duration::from_secs(3_600);

/// Its own diffs are not what it missed.
#[tokio::test]
async fn own_pushes_that_fit_are_named_on_return() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config().resync_spread(Duration::ZERO));
    let _a = client.subscribe_from(&shard(1), 3);
    let _b = client.subscribe_from(&shard(2), 3);
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    session.grant(Some(3)).await;
    // 4 and 5 follow what the host was told; of shard 2, 4 is another's.
    for seqno in 4..=5 {
        client.push_diff(&shard(1), seqno, payload(seqno));
        assert_eq!(session.publish().await.1, seqno);
    }
    for seqno in [5, 7] {
        client.push_diff(&shard(2), seqno, payload(seqno));
        assert_eq!(session.publish().await.1, seqno);
    }
    session.fail(tonic::Status::unavailable("bye")).await;
    expect_disconnected(&mut events).await;

    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    let (request, asked) = session.subscribe().await;
    assert_eq!(asked, [(shard(1), Some(5)), (shard(2), Some(3))]);
    // The last of each was lost with the connection: the server is not ignorant
    // for that.
    session
        .subscribed(request, &[(shard(1), Some(4)), (shard(2), Some(4))])
        .await;
    session.diff(shard(1), 6).await;
    expect_diff(&mut events, shard(1), 6).await;
    session.diff(shard(2), 4).await;
    expect_diff(&mut events, shard(2), 4).await;
    // The server does not know it for the host's own any more.
    session.diff(shard(2), 5).await;
    session.diff(shard(2), 6).await;
    expect_diff(&mut events, shard(2), 6).await;
    session.gap(shard(2), 7, 7, 8).await;
    session.diff(shard(2), 8).await;
    expect_diff(&mut events, shard(2), 8).await;
    let now = client.stats();
    assert_eq!((now.gaps, now.resyncs), (0, 0));
}

#[tokio::test]
async fn a_server_that_knows_less_than_was_told_is_not_excused_by_own_pushes() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config().resync_spread(Duration::ZERO));
    let _token = client.subscribe_from(&shard(1), 8);
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    session.grant(Some(8)).await;
    client.push_diff(&shard(1), 9, payload(9));
    session.publish().await;
    session.fail(tonic::Status::unavailable("bye")).await;
    expect_disconnected(&mut events).await;
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    assert_eq!(session.grant(Some(2)).await, [(shard(1), Some(9))]);
    expect_resync(&mut events, shard(1), Some(2)).await;
    while session.publish().await.1 != 9 {}
    session.unsubscribe().await;
    assert_eq!(session.grant(Some(2)).await, [(shard(1), Some(2))]);
    session.diff(shard(1), 3).await;
    expect_diff(&mut events, shard(1), 3).await;
}

/// Each shard's resync has a moment of its own, and those of which a diff
/// comes that follows need none.
#[tokio::test]
async fn a_server_that_has_forgotten_is_no_stampede() {
    const SHARDS: u8 = 100;
    for (wait, resyncs) in [(NEVER, 0), (Duration::from_millis(200), SHARDS)] {
        let mut peer = Peer::<V1>::start().await;
        let (client, mut events) = connect(peer.config().resync_spread(wait));
        let _tokens: Vec<_> = (0..SHARDS)
            .map(|n| client.subscribe_from(&shard(n), 3))
            .collect();
        let mut session = peer.welcome().await;
        expect_connected(&mut events).await;
        session.grant(Some(3)).await;
        session.fail(tonic::Status::unavailable("killed")).await;
        expect_disconnected(&mut events).await;
        let mut session = peer.welcome().await;
        expect_connected(&mut events).await;
        session.grant(None).await;
        if resyncs == 0 {
            for n in 0..SHARDS {
                session.diff(shard(n), 4).await;
                expect_diff(&mut events, shard(n), 4).await;
            }
        } else {
            let mut told = Vec::new();
            for _ in 0..SHARDS {
                match event(&mut events).await {
                    Event::Resync {
                        shard,
                        highest: None,
                    } => told.push(shard),
                    other => panic!("{other:?}"),
                }
            }
            assert!(!told.is_sorted(), "not in the order of the answer");
            session.diff(shard(0), 9).await;
            expect_diff(&mut events, shard(0), 9).await;
        }
        let now = client.stats();
        assert_eq!(now.resyncs, u64::from(resyncs));
        assert_eq!(now.resyncs_cancelled, u64::from(SHARDS - resyncs));
        // A subscription that the host makes now is told at once.
        let _new = client.subscribe(&shard(200));
        session.grant(None).await;
        expect_resync(&mut events, shard(200), None).await;
    }
}

#[tokio::test]
async fn a_push_that_follows_spares_the_fetch() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config().resync_spread(NEVER));
    let _token = client.subscribe_from(&shard(1), 3);
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    session.grant(Some(3)).await;
    session.fail(tonic::Status::unavailable("killed")).await;
    expect_disconnected(&mut events).await;
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    session.grant(None).await;
    // Heard, for what was said before it was.
    let _other = client.subscribe_from(&shard(2), 0);
    session.grant(Some(0)).await;
    session.diff(shard(2), 1).await;
    expect_diff(&mut events, shard(2), 1).await;
    client.push_diff(&shard(1), 4, payload(4));
    assert_eq!(client.stats().resyncs_cancelled, 1);
    assert_eq!(client.stats().resyncs, 0);
}

/// v0 forgets at every loss of a connection.
#[tokio::test]
async fn v0_spreads_its_resyncs_on_return_too() {
    let mut peer = Peer::<V0>::start().await;
    let config = peer.config().wire(WirePreference::V0).resync_spread(NEVER);
    let (client, mut events) = connect(config);
    let _a = client.subscribe_from(&shard(1), 3);
    for round in 0..2 {
        let mut session = peer.accept().await;
        expect_connected(&mut events).await;
        session.hear().await;
        if round == 0 {
            expect_resync(&mut events, shard(1), None).await;
            session.fail(tonic::Status::unavailable("bye")).await;
            expect_disconnected(&mut events).await;
        } else {
            let _b = client.subscribe(&shard(2));
            session.hear().await;
            expect_resync(&mut events, shard(2), None).await;
            session.diff(shard(1), 4).await;
            expect_diff(&mut events, shard(1), 4).await;
            until(&client, "the fetch spared", |s| s.resyncs_cancelled == 1).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscribe_that_is_never_answered_costs_the_session() {
    let (mut peer, config) = Peer::inside();
    let most = Duration::from_millis(100);
    let (client, mut events) = connect(config.subscribe_timeout(most));
    let _a = client.subscribe_from(&shard(1), 3);
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    session.grant(Some(3)).await;
    // Another request is not answered, on a session that lives.
    let _b = client.subscribe_from(&shard(2), 3);
    session.subscribe().await;
    let mouth = session.mouth();
    let talking = tokio::spawn(async move {
        for seqno in 4.. {
            mouth
                .say(crate::script::diff(shard(1), seqno, payload(seqno)))
                .await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let reason = loop {
        match event(&mut events).await {
            Event::Disconnected { reason } => break reason,
            Event::Diff { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(reason, Reason::Unanswered(most));
    talking.abort();
    session.hear_gone().await;
    let mut session = peer.welcome().await;
    expect_connected(&mut events).await;
    let (request, asked) = session.subscribe().await;
    assert_eq!(asked.len(), 2);
    let heads: Vec<_> = asked.iter().map(|(shard, have)| (*shard, *have)).collect();
    session.subscribed(request, &heads).await;
    session.diff(shard(2), 4).await;
    expect_diff(&mut events, shard(2), 4).await;
    assert_eq!(client.stats().lost, 1);
}

/// The host keeps the answer from being read: that is not the server's fault.
#[tokio::test(start_paused = true)]
async fn an_answer_that_the_host_keeps_from_being_read_is_waited_for() {
    let (mut peer, config) = Peer::inside();
    let most = Duration::from_millis(300);
    let (client, mut events) = connect(config.subscribe_timeout(most).event_buffer(1, 1));
    let _a = client.subscribe_from(&shard(1), 3);
    let mut session = peer.welcome().await;
    session.grant(Some(3)).await;
    for seqno in 4..=6 {
        session.diff(shard(1), seqno).await;
    }
    until(&client, "a full queue", |stats| stats.diffs >= 1).await;
    let _b = client.subscribe_from(&shard(2), 3);
    session.grant(Some(3)).await;
    // Longer than a server may take.
    tokio::time::sleep(most * 2).await;
    expect_connected(&mut events).await;
    for seqno in 4..=6 {
        expect_diff(&mut events, shard(1), seqno).await;
    }
    session.diff(shard(2), 4).await;
    expect_diff(&mut events, shard(2), 4).await;
    assert_eq!(client.stats().lost, 0);
}
