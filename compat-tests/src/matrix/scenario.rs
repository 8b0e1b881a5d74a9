//! What a pair has to be able to do.

use bytes::Bytes;
use persist_pubsub_proto::v1::session_request::Message as Request;
use persist_pubsub_proto::v1::session_response::Message as Response;
use persist_pubsub_proto::v1::{self, RejectionCode};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::client::{Client, ClientKind, GENERATION, Heard};
use super::partner::{Partner, diff, flows, following, hear_diff, shard};
use super::server::{Failure, Server, ServerKind, Wait};
use crate::recording;
use crate::replay::{Inversions, Speed, replay};
use crate::store::Store;
use crate::v0_peer;
use crate::v0_reader::Reader;
use crate::v1_peer;
use crate::wait::within;

/// A field that no message has, and will not have for long.
const FUTURE_FIELD: u32 = 1_999;
/// What stands in it.
const FUTURE: &[u8] = b"from the future";

/// One thing that a pair has to be able to do.
#[derive(Debug)]
pub struct Scenario {
    /// As the table shows it.
    pub name: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Publish,
    Join,
    Resume,
    Gap,
    Drain,
    Fence,
    Future,
    Mismatch,
    Restart,
    Reconnect,
    Replay,
}

const fn scenario(name: &'static str, kind: Kind) -> Scenario {
    Scenario { name, kind }
}

/// All.
pub const SCENARIOS: [Scenario; 11] = [
    scenario("publish each way", Kind::Publish),
    scenario("join", Kind::Join),
    scenario("resume", Kind::Resume),
    scenario("gap", Kind::Gap),
    scenario("drain", Kind::Drain),
    scenario("fence", Kind::Fence),
    scenario("unknown fields and kinds", Kind::Future),
    scenario("capability mismatch", Kind::Mismatch),
    scenario("restart", Kind::Restart),
    scenario("reconnect", Kind::Reconnect),
    scenario("replay", Kind::Replay),
];

impl Scenario {
    /// Whether it makes sense for a pair. A v0 server keeps no log, is told
    /// nothing of generations and does not drain.
    #[must_use]
    pub fn is_for(&self, client: &ClientKind, server: &ServerKind) -> bool {
        if *client == ClientKind::V0Recorded {
            return self.kind == Kind::Replay;
        }
        match self.kind {
            Kind::Publish | Kind::Gap | Kind::Restart | Kind::Reconnect | Kind::Future => true,
            Kind::Join | Kind::Resume | Kind::Drain | Kind::Fence | Kind::Mismatch => {
                server.is_ours()
            }
            Kind::Replay => false,
        }
    }

    /// Runs it, with a client and a server of its own.
    ///
    /// # Errors
    /// The pair cannot do it: why.
    pub async fn run(&self, client: &ClientKind, server: &ServerKind) -> Result<(), Failure> {
        let wait = match self.kind {
            Kind::Replay => Wait::AsLongAsItTakes,
            _ => Wait::Shortly,
        };
        let mut server = Server::start(server, wait).await?;
        if self.kind == Kind::Replay {
            return replayed(&server).await;
        }
        let is_ours = client.is_ours();
        let mut client = Client::start(client, &server.url()).await?;
        match self.kind {
            Kind::Publish => publish(&mut client, &server).await,
            Kind::Join => join(&mut client, &server).await,
            Kind::Resume => resume(&mut client, &server).await,
            Kind::Gap => gap(&mut client, &server, is_ours).await,
            Kind::Drain => {
                flows(&mut client, &server, 1).await?;
                server.replace().await?;
                flows(&mut client, &server, 2).await
            }
            // Boxed, as in `until`: a whole connect is in it.
            Kind::Fence => Box::pin(fence(&mut client, &server, is_ours)).await,
            Kind::Future => future(&mut client, &server).await,
            Kind::Mismatch => mismatch(&mut client, &server).await,
            Kind::Restart => {
                flows(&mut client, &server, 1).await?;
                server.kill().await?;
                client.connected().await?;
                flows(&mut client, &server, 2).await
            }
            Kind::Reconnect => {
                flows(&mut client, &server, 1).await?;
                server.cut();
                server.mend()?;
                client.connected().await?;
                publish(&mut client, &server).await
            }
            Kind::Replay => Ok(()),
        }
    }
}

/// What the client publishes reaches readers of every wire version that the
/// server has, and the other way round.
async fn publish(client: &mut Client, server: &Server) -> Result<(), Failure> {
    let (to, url) = (shard(20), server.direct_url());
    let v0 = Reader::connect(&url, "reader").await?;
    v0.follow(to, 1).await?;
    let mut v1 = None;
    if server.is_ours() {
        let mut peer = v1_peer::Peer::connect(&url, "reader").await?;
        peer.follow(to, Some(1)).await?;
        v1 = Some(peer);
    }
    // v0 does not say that it listens: its own mark tells.
    let probe = v0_peer::Peer::connect(&url, "probe").await?;
    v0.mark().await?.passed_by(probe.sender()).await?;
    for seqno in 2..=4 {
        client.push(to, seqno, &diff(seqno)).await?;
    }
    v0.reach(&[(to, 4)].into()).await?;
    let applied = v0.model();
    let applied = applied.shard(to).map(|followed| &followed.applied);
    let expected: Vec<_> = (2..=4).map(|seqno| (seqno, diff(seqno))).collect();
    if applied != Some(&expected) {
        return Err(format!("a v0 reader was told {applied:?}").into());
    }
    if let Some(peer) = &mut v1 {
        for seqno in 2..=4 {
            let told = peer.receiver().expect_diff("what it published").await?;
            if (told.seqno, &told.diff) != (seqno, &diff(seqno)) {
                return Err(format!("a v1 reader was told {told:?} for {seqno}").into());
            }
        }
    }
    flows(client, server, 21).await
}

/// What was published before it came is told to who says what it has.
async fn join(client: &mut Client, server: &Server) -> Result<(), Failure> {
    let mut partner = Partner::start(server).await?;
    for seqno in 1..=4 {
        partner.publish(shard(3), seqno).await?;
    }
    partner.taken(30).await?;
    client.subscribe(shard(3), 2).await?;
    for seqno in 3..=4 {
        hear_diff(client, shard(3), seqno).await?;
    }
    Ok(())
}

/// What is published while it is away comes when it is back.
async fn resume(client: &mut Client, server: &Server) -> Result<(), Failure> {
    let mut partner = Partner::start(server).await?;
    let at = following(client, &mut partner, shard(4), 1).await?;
    server.cut();
    client
        .hear_until("that it is cut off", |heard| {
            matches!(heard, Heard::Disconnected(_)).then_some(())
        })
        .await?;
    for seqno in at + 1..=at + 3 {
        partner.publish(shard(4), seqno).await?;
    }
    partner.taken(31).await?;
    server.mend()?;
    for seqno in at + 1..=at + 3 {
        hear_diff(client, shard(4), seqno).await?;
    }
    Ok(())
}

/// What will not come is told, where there is a word for it; then the rest
/// comes.
async fn gap(client: &mut Client, server: &Server, is_ours: bool) -> Result<(), Failure> {
    let mut partner = Partner::start(server).await?;
    let at = following(client, &mut partner, shard(5), 1).await?;
    partner.publish(shard(5), at + 3).await?;
    if is_ours {
        let is_missing = |from: u64, to: u64| from <= at + 1 && to >= at + 2;
        client
            .hear_until("of the gap", |heard| match heard {
                Heard::Gap(_, from, to) if is_missing(*from, *to) => Some(Ok(())),
                Heard::Diff(_, seqno, _) if *seqno > at => Some(Err(format!(
                    "diff {seqno} came, and nothing was said of {}",
                    at + 1
                ))),
                _ => None,
            })
            .await??;
    }
    hear_diff(client, shard(5), at + 3).await?;
    Ok(())
}

/// A generation that is fenced out is told so, where there is a word for it,
/// and does not get back in.
async fn fence(client: &mut Client, server: &Server, is_ours: bool) -> Result<(), Failure> {
    flows(client, server, 6).await?;
    server.fence(GENERATION + 1).await?;
    client
        .hear_until("that it is fenced out", |heard| match heard {
            Heard::Fenced(by) if is_ours => Some(*by == GENERATION + 1),
            Heard::Disconnected(why) if !is_ours => Some(why.contains("fenced")),
            _ => None,
        })
        .await?
        .then_some(())
        .ok_or("what it was told does not say who fenced it out")?;
    if is_ours {
        // It does not come back: its events have ended.
        return match client.hear("the end").await {
            Err(_) => Ok(()),
            Ok(heard) => Err(format!("it went on: {heard:?}").into()),
        };
    }
    // A v0 call begins well; its stream says it.
    let again = Box::pin(async {
        let mut peer = v0_peer::Peer::connect(&server.direct_url(), "matrix-again").await?;
        peer.receiver().receive().await
    });
    match within("an answer to who was fenced out", again).await? {
        Err(v0_peer::PeerError::Status(status)) if status.message().contains("fenced") => Ok(()),
        other => Err(format!("it was not refused: {other:?}").into()),
    }
}

/// With a field that nobody knows yet.
fn with_future(mut message: Vec<u8>) -> Bytes {
    encode_key(FUTURE_FIELD, WireType::LengthDelimited, &mut message);
    encode_varint(FUTURE.len() as u64, &mut message);
    message.extend_from_slice(FUTURE);
    message.into()
}

/// Somebody of a later revision says more than the pair knows, and is
/// understood as far as it goes.
async fn future(client: &mut Client, server: &Server) -> Result<(), Failure> {
    let mut partner = Partner::start(server).await?;
    let at = following(client, &mut partner, shard(7), 1).await?;
    let (shard, seqno) = (shard(7), at + 1);
    let url = server.direct_url();
    if server.is_ours() {
        let (sender, mut receiver) = v1_peer::open(&url).await?;
        let hello = v1::SessionRequest {
            message: Some(Request::Hello(v1_peer::hello("from-the-future"))),
        };
        sender.send(with_future(hello.encode_to_vec())).await?;
        receiver.expect_welcome("a welcome").await?;
        // A kind of message that there is not.
        sender.send(with_future(Vec::new())).await?;
        let mut inner = v1::Publish {
            shard_id: shard.to_bytes(),
            seqno,
            committed_unix_nanos: 1,
            diff: Some(diff(seqno)),
        }
        .encode_to_vec();
        inner = with_future(inner).to_vec();
        let mut outer = Vec::new();
        // Where Publish stands in SessionRequest.
        let publish = v1::SessionRequest {
            message: Some(Request::Publish(v1::Publish::default())),
        };
        outer.extend_from_slice(&publish.encode_to_vec()[..1]);
        encode_varint(inner.len() as u64, &mut outer);
        outer.extend_from_slice(&inner);
        sender.send(outer.into()).await?;
        hear_diff(client, shard, seqno).await?;
        partner.publish(shard, seqno + 1).await?;
        hear_diff(client, shard, seqno + 1).await?;
        return Ok(());
    }
    let peer = v0_peer::Peer::connect(&url, "from-the-future").await?;
    peer.sender().send(with_future(Vec::new())).await?;
    let push = persist_pubsub_proto::v0::ProtoPubSubMessage {
        timestamp: None,
        message: Some(
            persist_pubsub_proto::v0::proto_pub_sub_message::Message::PushDiff(
                persist_pubsub_proto::v0::ProtoPushDiff {
                    shard_id: shard.to_string(),
                    seqno,
                    diff: diff(seqno),
                },
            ),
        ),
    };
    peer.sender()
        .send(with_future(push.encode_to_vec()))
        .await?;
    hear_diff(client, shard, seqno).await?;
    Ok(())
}

/// Who speaks nothing that the server speaks is told what it does; who knows
/// more than it is welcomed; and nobody else notices.
async fn mismatch(client: &mut Client, server: &Server) -> Result<(), Failure> {
    let url = server.direct_url();
    let (sender, mut receiver) = v1_peer::open(&url).await?;
    let hello = v1::Hello {
        min_revision: 1_000,
        max_revision: 1_001,
        ..v1_peer::hello("too-new")
    };
    sender.say(Request::Hello(hello)).await?;
    match receiver.expect("a refusal").await? {
        Response::Rejected(rejected)
            if rejected.code() == RejectionCode::NoCommonRevision
                && rejected.reason.contains(&v1::MAX_REVISION.to_string()) => {}
        other => return Err(format!("the server answered {other:?}").into()),
    }
    let hello = v1::Hello {
        max_revision: 1_001,
        capabilities: vec!["from-the-future".to_owned()],
        ..v1_peer::hello("newer")
    };
    let newer = v1_peer::Peer::connect_as(&url, hello).await?;
    let welcome = newer.welcome();
    if welcome.revision > v1::MAX_REVISION
        || welcome
            .capabilities
            .iter()
            .any(|it| it == "from-the-future")
    {
        return Err(format!("the server welcomed it with {welcome:?}").into());
    }
    flows(client, server, 8).await
}

/// What was recorded goes to a reader, whole. A plain server drops nothing
/// here either, but hands on what overtook as it came.
async fn replayed(server: &Server) -> Result<(), Failure> {
    let name = if server.is_ours() {
        "v0-contended"
    } else {
        "v0-steady"
    };
    let recording = recording::named(name)?;
    let store = Store::default();
    let heads = recording.last_seqnos();
    let reader = Reader::connect(&server.direct_url(), "reader").await?;
    for &shard in heads.keys() {
        reader.follow(shard, store.head(shard)).await?;
    }
    let probe = v0_peer::Peer::connect(&server.direct_url(), "probe").await?;
    reader.mark().await?.passed_by(probe.sender()).await?;
    replay(
        &recording,
        &server.url(),
        Speed::Times(4.0),
        Inversions::Kept,
        &store,
    )
    .await?;
    reader.reach(&heads).await?;
    let early = reader.model().early;
    if early > 0 {
        return Err(format!("{early} diffs came before their predecessors").into());
    }
    Ok(())
}
