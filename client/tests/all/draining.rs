//! Make before break: two sessions live, and are one to the host.

use std::time::Duration;

use persist_pubsub_client::{Client, Config, Event, Events, Subscription, Wire, connect};
use persist_pubsub_proto::v0::proto_pub_sub_message::Message as V0Message;
use persist_pubsub_proto::v1;
use persist_pubsub_proto::v1::session_response::Message as Heard;

use crate::peer::{
    NEVER, Peer, Session, V0, V1, event, expect_connected, expect_diff, expect_disconnected,
    expect_resync, payload, shard, soon, until,
};

async fn drain(session: &Session<V1>, window_millis: u32) {
    session
        .say(Heard::Draining(v1::Draining {
            reason: "upgrade".into(),
            window_millis,
        }))
        .await;
}

async fn expect_gap(events: &mut Events, from: u64, to: u64) {
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

/// A host with shard 1 at 3, whose server drains, and the next session.
struct Overlap {
    client: Client,
    events: Events,
    old: Session<V1>,
    new: Session<V1>,
    _token: Subscription,
    _peer: Peer<V1>,
}

impl Overlap {
    /// The new server is at `highest`.
    async fn begin(configure: impl Fn(Config) -> Config, highest: Option<u64>) -> Self {
        let mut peer = Peer::<V1>::start().await;
        let config = peer.config().merge_grace(NEVER).resync_spread(NEVER);
        let (client, mut events) = connect(configure(config));
        let token = client.subscribe_from(&shard(1), 3);
        let mut old = peer.welcome().await;
        expect_connected(&mut events).await;
        old.grant(Some(3)).await;
        drain(&old, 0).await;
        let mut new = peer.welcome().await;
        expect_connected(&mut events).await;
        assert_eq!(new.grant(highest).await, [(shard(1), Some(3))]);
        // Taken in, as this is counted.
        new.say(Heard::Gap(v1::Gap::default())).await;
        until(&client, "the answer to be heard", |s| s.malformed == 1).await;
        Self {
            client,
            events,
            old,
            new,
            _token: token,
            _peer: peer,
        }
    }
}

#[tokio::test]
async fn pushes_go_to_both_and_diffs_come_from_both() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    let _token = client.subscribe_from(&shard(1), 0);
    let mut old = peer.welcome().await;
    expect_connected(&mut events).await;
    old.grant(Some(0)).await;
    client.push_diff(&shard(9), 1, payload(1));
    old.publish().await;
    drain(&old, 20).await;

    let mut new = peer.welcome().await;
    expect_connected(&mut events).await;
    assert_eq!(new.grant(Some(0)).await, [(shard(1), Some(0))]);
    // What went to the old server alone, the new one's subscribers hear of.
    assert_eq!(new.publish().await, (shard(9), 1, None));
    for seqno in 2..=50 {
        client.push_diff(&shard(9), seqno, payload(seqno));
    }
    for seqno in 2..=50 {
        let expected = (shard(9), seqno, Some(payload(seqno)));
        assert_eq!(old.publish().await, expected);
        assert_eq!(new.publish().await, expected);
    }
    for seqno in 1..=20 {
        if seqno % 2 == 0 {
            old.diff(shard(1), seqno).await;
            expect_diff(&mut events, shard(1), seqno).await;
            new.diff(shard(1), seqno).await;
        } else {
            new.diff(shard(1), seqno).await;
            expect_diff(&mut events, shard(1), seqno).await;
            old.diff(shard(1), seqno).await;
        }
    }
    // The old one lives until its server ends it.
    until(&client, "the duplicates", |stats| stats.duplicates == 20).await;
    drop(old);
    client.push_diff(&shard(9), 51, payload(51));
    assert_eq!(new.publish().await, (shard(9), 51, Some(payload(51))));
    new.diff(shard(1), 21).await;
    expect_diff(&mut events, shard(1), 21).await;
    let now = client.stats();
    assert_eq!((now.sent, now.announced, now.pushes_dropped), (51, 1, 0));
    assert_eq!((now.lost, now.gaps, now.resyncs), (0, 0, 0));
}

#[tokio::test]
async fn a_gap_of_the_new_session_waits_for_the_old_one() {
    let mut o = Overlap::begin(|config| config, Some(3)).await;
    o.new.gap(shard(1), 4, 5, 6).await;
    o.new.diff(shard(1), 6).await;
    // Another shard's diff, or this one's that follows, is not kept waiting.
    o.old.diff(shard(1), 4).await;
    expect_diff(&mut o.events, shard(1), 4).await;
    o.old.diff(shard(1), 5).await;
    expect_diff(&mut o.events, shard(1), 5).await;
    expect_diff(&mut o.events, shard(1), 6).await;
    // The other way round.
    o.old.gap(shard(1), 6, 7, 8).await;
    o.old.diff(shard(1), 8).await;
    o.new.diff(shard(1), 7).await;
    expect_diff(&mut o.events, shard(1), 7).await;
    expect_diff(&mut o.events, shard(1), 8).await;
    assert_eq!(o.client.stats().gaps, 0);
}

#[tokio::test]
async fn what_waits_is_told_when_the_old_session_ends() {
    for complete in [true, false] {
        let mut o = Overlap::begin(|config| config, Some(3)).await;
        o.new.gap(shard(1), 4, 5, 6).await;
        o.new.diff(shard(1), 6).await;
        o.old.diff(shard(1), 4).await;
        expect_diff(&mut o.events, shard(1), 4).await;
        if complete {
            drop(o.old);
        } else {
            o.old.fail(tonic::Status::unavailable("bye")).await;
        }
        expect_gap(&mut o.events, 5, 5).await;
        expect_diff(&mut o.events, shard(1), 6).await;
        assert_eq!(o.client.stats().lost, 0);
    }
}

#[tokio::test]
async fn what_waits_is_told_when_the_grace_is_over() {
    let grace = Duration::from_millis(50);
    let mut o = Overlap::begin(|config| config.merge_grace(grace), Some(3)).await;
    o.new.gap(shard(1), 4, 5, 6).await;
    o.new.diff(shard(1), 6).await;
    expect_gap(&mut o.events, 4, 5).await;
    expect_diff(&mut o.events, shard(1), 6).await;
    o.old.diff(shard(1), 4).await;
    o.old.diff(shard(1), 7).await;
    expect_diff(&mut o.events, shard(1), 7).await;
}

#[tokio::test]
async fn what_waits_is_bounded_in_number_and_in_bytes() {
    let one = payload(6).len() + 64;
    for (bytes, count) in [(usize::MAX, 4), (one * 4, usize::MAX)] {
        let mut o = Overlap::begin(|config| config.merge_buffer(bytes, count), Some(3)).await;
        o.new.gap(shard(1), 4, 5, 6).await;
        for seqno in 6..=9 {
            o.new.diff(shard(1), seqno).await;
        }
        o.old.diff(shard(1), 4).await;
        expect_diff(&mut o.events, shard(1), 4).await;
        o.new.diff(shard(1), 10).await;
        o.new.diff(shard(1), 11).await;
        expect_gap(&mut o.events, 5, 5).await;
        for seqno in 6..=11 {
            expect_diff(&mut o.events, shard(1), seqno).await;
        }
    }
}

/// The new server knows nothing of a push that the old one was told before:
/// to the host it is no gap, and what the others say of it neither.
#[tokio::test]
async fn own_pushes_are_no_gap_of_the_new_session() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config().merge_grace(NEVER));
    let _token = client.subscribe_from(&shard(1), 3);
    let mut old = peer.welcome().await;
    expect_connected(&mut events).await;
    old.grant(Some(3)).await;
    drain(&old, 0).await;
    let mut new = peer.welcome().await;
    expect_connected(&mut events).await;
    // Between its subscribe and the answer.
    let (request, asked) = new.subscribe().await;
    assert_eq!(asked, [(shard(1), Some(3))]);
    client.push_diff(&shard(1), 4, payload(4));
    assert_eq!(old.publish().await.1, 4);
    assert_eq!(new.publish().await.1, 4);
    new.subscribed(request, &[(shard(1), Some(3))]).await;
    new.gap(shard(1), 4, 4, 5).await;
    new.diff(shard(1), 5).await;
    expect_diff(&mut events, shard(1), 5).await;
    old.diff(shard(1), 5).await;
    // Nor is it told it, by whatever way it came to the other server.
    client.push_diff(&shard(1), 7, payload(7));
    assert_eq!(old.publish().await.1, 7);
    new.gap(shard(1), 6, 6, 7).await;
    new.diff(shard(1), 7).await;
    new.diff(shard(1), 8).await;
    old.diff(shard(1), 6).await;
    expect_diff(&mut events, shard(1), 6).await;
    expect_diff(&mut events, shard(1), 8).await;
    assert_eq!(client.stats().gaps, 0);
}

/// What waits for a push of the host goes on with it.
#[tokio::test]
async fn a_push_frees_what_waits_for_it() {
    let mut o = Overlap::begin(|config| config, Some(3)).await;
    o.new.gap(shard(1), 4, 4, 5).await;
    o.new.diff(shard(1), 5).await;
    let _other = o.client.subscribe_from(&shard(2), 0);
    o.new.grant(Some(0)).await;
    o.new.diff(shard(2), 1).await;
    expect_diff(&mut o.events, shard(2), 1).await;
    o.client.push_diff(&shard(1), 4, payload(4));
    expect_diff(&mut o.events, shard(1), 5).await;
}

/// A new server knows nothing at first: that costs no fetch while the old one
/// tells, and none when it ends in good order.
#[tokio::test]
async fn a_new_server_that_knows_nothing_costs_no_fetch() {
    let mut o = Overlap::begin(|config| config.resync_spread(Duration::ZERO), None).await;
    o.old.diff(shard(1), 4).await;
    expect_diff(&mut o.events, shard(1), 4).await;
    drop(o.old);
    o.new.diff(shard(1), 5).await;
    expect_diff(&mut o.events, shard(1), 5).await;
    assert_eq!(o.client.stats().resyncs, 0);
    // Cut off from the old server, nobody knows what that had.
    let o = Overlap::begin(|config| config.resync_spread(Duration::ZERO), None).await;
    let (old, mut events) = (o.old, o.events);
    old.fail(tonic::Status::unavailable("bye")).await;
    expect_resync(&mut events, shard(1), None).await;
    assert_eq!(o.client.stats().lost, 0);
}

#[tokio::test]
async fn a_draining_server_that_dies_early_is_a_lost_one() {
    let mut peer = Peer::<V1>::start().await;
    let (client, mut events) = connect(peer.config());
    let _token = client.subscribe_from(&shard(1), 0);
    let mut old = peer.welcome().await;
    expect_connected(&mut events).await;
    old.grant(Some(0)).await;
    drain(&old, 3_600_000).await;
    drop(old);
    expect_disconnected(&mut events).await;
    let mut new = peer.welcome().await;
    expect_connected(&mut events).await;
    new.grant(Some(0)).await;
    assert_eq!(client.stats().lost, 1);
}

#[tokio::test]
async fn the_old_session_goes_on_when_its_successor_dies() {
    let mut o = Overlap::begin(|config| config, Some(3)).await;
    o.new.gap(shard(1), 4, 4, 5).await;
    o.new.diff(shard(1), 5).await;
    o.new.fail(tonic::Status::unavailable("not here")).await;
    // Back on the old one, without a loss; what the other brought is kept.
    expect_connected(&mut o.events).await;
    o.old.diff(shard(1), 4).await;
    expect_diff(&mut o.events, shard(1), 4).await;
    expect_diff(&mut o.events, shard(1), 5).await;
    o.client.push_diff(&shard(9), 1, payload(1));
    assert_eq!(o.old.publish().await.1, 1);

    let mut third = o._peer.welcome().await;
    expect_connected(&mut o.events).await;
    assert_eq!(third.grant(Some(5)).await, [(shard(1), Some(5))]);
    assert_eq!(third.publish().await, (shard(9), 1, None));
    drop(o.old);
    third.diff(shard(1), 6).await;
    expect_diff(&mut o.events, shard(1), 6).await;
}

#[tokio::test]
async fn a_subscription_made_while_two_sessions_live_is_on_both() {
    let mut o = Overlap::begin(|config| config, Some(3)).await;
    let second = o.client.subscribe_from(&shard(2), 0);
    assert_eq!(o.old.grant(Some(0)).await, [(shard(2), Some(0))]);
    assert_eq!(o.new.grant(Some(0)).await, [(shard(2), Some(0))]);
    o.old.diff(shard(2), 1).await;
    expect_diff(&mut o.events, shard(2), 1).await;
    o.new.diff(shard(2), 1).await;
    // Waits for what the old one may bring; then it is not wanted any more.
    o.new.gap(shard(2), 2, 2, 3).await;
    o.new.diff(shard(2), 3).await;
    drop(second);
    assert_eq!(o.old.unsubscribe().await.1, [shard(2)]);
    assert_eq!(o.new.unsubscribe().await.1, [shard(2)]);
    o.old.diff(shard(2), 2).await;
    drop(o.old);
    o.new.diff(shard(1), 4).await;
    expect_diff(&mut o.events, shard(1), 4).await;
}

#[tokio::test]
async fn dropped_handles_end_both_sessions() {
    let mut o = Overlap::begin(|config| config, Some(3)).await;
    o.client.push_diff(&shard(9), 1, payload(1));
    drop(o._token);
    drop(o.client);
    o.old.hear_gone().await;
    loop {
        match o.new.hear().await.message {
            Some(v1::session_request::Message::Publish(_)) => break,
            _ => continue,
        }
    }
    o.new.hear_gone().await;
    drop(o.new);
    assert_eq!(soon("the end", o.events.next()).await, None);
}

#[tokio::test]
async fn from_a_server_with_v1_to_one_without() {
    let mut peer = Peer::<V1>::start().await;
    let address = peer.address;
    let config = peer.config().merge_grace(NEVER).resync_spread(NEVER);
    let (client, mut events) = connect(config);
    let _token = client.subscribe_from(&shard(1), 3);
    let mut old = peer.welcome().await;
    expect_connected(&mut events).await;
    old.grant(Some(3)).await;
    // No new connection: the old one lives.
    peer.stop_listening().await;
    drain(&old, 0).await;
    let mut peer = Peer::<V0>::start_at(address).await;
    let mut new = peer.accept().await;
    let told = event(&mut events).await;
    assert!(
        matches!(told, Event::Connected { wire: Wire::V0, .. }),
        "{told:?}"
    );
    assert!(matches!(
        new.hear().await.message,
        Some(V0Message::Subscribe(_))
    ));
    client.push_diff(&shard(9), 1, payload(1));
    assert_eq!(old.publish().await.1, 1);
    assert!(matches!(
        new.hear().await.message,
        Some(V0Message::PushDiff(_))
    ));
    new.diff(shard(1), 6).await;
    for seqno in 4..=5 {
        old.diff(shard(1), seqno).await;
        expect_diff(&mut events, shard(1), seqno).await;
    }
    expect_diff(&mut events, shard(1), 6).await;
    drop(old);
    new.diff(shard(1), 8).await;
    expect_gap(&mut events, 7, 7).await;
    expect_diff(&mut events, shard(1), 8).await;
    assert_eq!(client.stats().resyncs, 0);
}
