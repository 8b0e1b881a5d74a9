//! A scripted v1 client: it says what it is told to, as exact bytes where
//! that matters, and shows what it receives.
//!
//! It sends no heartbeats by itself. Tests that are not about them start
//! their server with a long `--heartbeat-interval`.
//!
//! It is at the other end of a connection, or in the server's own process
//! ([`Way`]).

use std::future::poll_fn;

use bytes::Bytes;
use persist_pubsub_client::{InProcess as _, Reason, Responses};
use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::v1::session_request::Message as Request;
use persist_pubsub_proto::v1::session_response::Message as Response;
use persist_pubsub_proto::v1::{self, Hello, SessionMode, ShardPosition, Welcome};
use persist_pubsub_server::InProcess;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Status, Streaming};

use crate::entrant::Entrant;
use crate::v0_peer::PeerError;
use crate::wait::within;
use persist_pubsub_server::recording::raw_codec::RawCodec;

/// Messages that wait for tonic to take them. A send beyond waits: a peer
/// that is told to send feels the server's flow control.
const OUTGOING_MESSAGES: usize = 64;

/// How a server is reached.
#[derive(Clone, Copy, Debug)]
pub enum Way<'a> {
    /// Over TCP, at this URL.
    Network(&'a str),
    /// The same with TLS and request metadata, as the entrant has them.
    Entrant(&'a Entrant),
    /// In this process.
    InProcess(&'a InProcess),
}

impl<'a> From<&'a str> for Way<'a> {
    fn from(url: &'a str) -> Self {
        Self::Network(url)
    }
}

impl<'a> From<&'a String> for Way<'a> {
    fn from(url: &'a String) -> Self {
        Self::Network(url)
    }
}

impl<'a> From<&'a Entrant> for Way<'a> {
    fn from(entrant: &'a Entrant) -> Self {
        Self::Entrant(entrant)
    }
}

impl<'a> From<&'a InProcess> for Way<'a> {
    fn from(server: &'a InProcess) -> Self {
        Self::InProcess(server)
    }
}

/// A session of a v1 client: one TCP connection with one stream, or one in
/// process.
#[derive(Debug)]
pub struct Peer {
    sender: Sender,
    receiver: Receiver,
    welcome: Welcome,
}

/// The half of a [`Peer`] that speaks. Dropping the last clone half-closes
/// the stream.
#[derive(Clone, Debug)]
pub struct Sender {
    outgoing: Outgoing,
}

#[derive(Clone, Debug)]
enum Outgoing {
    Bytes(mpsc::Sender<Bytes>),
    Messages(mpsc::Sender<v1::SessionRequest>),
}

/// The half of a [`Peer`] that listens. Dropping it cancels the stream.
#[derive(Debug)]
pub struct Receiver {
    incoming: Incoming,
}

enum Incoming {
    Bytes(Box<Streaming<Bytes>>),
    Messages(Responses),
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bytes(_) => "Bytes",
            Self::Messages(_) => "Messages",
        })
    }
}

/// One message from the server.
#[derive(Clone, Debug)]
pub struct Received {
    /// Its bytes, as they were on the wire; in process, as they would be.
    pub raw: Bytes,
    /// The same, decoded. `None`: a kind that this crate does not know.
    pub message: Option<Response>,
}

/// The Hello of a client that publishes and subscribes, in the environment
/// of the v0 sessions.
#[must_use]
pub fn hello(client_name: &str) -> Hello {
    Hello {
        client_name: client_name.to_owned(),
        client_version: "1.2.3".to_owned(),
        role: "compat-tests".to_owned(),
        deploy_generation: 7,
        mode: SessionMode::ReadWrite.into(),
        min_revision: v1::MIN_REVISION,
        max_revision: v1::MAX_REVISION,
        ..Hello::default()
    }
}

/// Opens a stream on which nothing was said yet.
///
/// # Errors
/// No connection, or the call is refused.
pub async fn open<'a>(way: impl Into<Way<'a>>) -> Result<(Sender, Receiver), PeerError> {
    match way.into() {
        Way::Network(url) => open_stream(&Entrant::new(url)).await,
        Way::Entrant(entrant) => open_stream(entrant).await,
        Way::InProcess(server) => {
            let (outgoing, messages) = mpsc::channel(OUTGOING_MESSAGES);
            let opened = server.open(Box::pin(ReceiverStream::new(messages)));
            let responses = opened.map_err(|reason| PeerError::Status(status(&reason)))?;
            let outgoing = Outgoing::Messages(outgoing);
            let incoming = Incoming::Messages(responses);
            Ok((Sender { outgoing }, Receiver { incoming }))
        }
    }
}

/// A reason of a server in this process, as a stream's end would show it.
fn status(reason: &Reason) -> Status {
    match reason {
        Reason::Status { code, message } => Status::new((*code).into(), message.clone()),
        other => Status::unknown(other.to_string()),
    }
}

async fn open_stream(entrant: &Entrant) -> Result<(Sender, Receiver), PeerError> {
    let channel = entrant.connect().await?;
    let url = entrant.url();
    let mut client = tonic::client::Grpc::new(channel)
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX);
    client.ready().await?;
    let (outgoing, messages) = mpsc::channel(OUTGOING_MESSAGES);
    let mut request = tonic::Request::new(ReceiverStream::new(messages));
    *request.metadata_mut() = entrant.metadata()?;
    let call = client.streaming(request, PathAndQuery::from_static(v1::PATH), RawCodec);
    let response = within(&format!("the answer of {url} to a v1 call"), call).await??;
    let incoming = Incoming::Bytes(Box::new(response.into_inner()));
    let outgoing = Outgoing::Bytes(outgoing);
    Ok((Sender { outgoing }, Receiver { incoming }))
}

impl Peer {
    /// Connects, says [`hello`] and takes the welcome.
    ///
    /// # Errors
    /// No connection, or no welcome.
    pub async fn connect<'a>(
        way: impl Into<Way<'a>>,
        client_name: &str,
    ) -> Result<Self, PeerError> {
        Self::connect_as(way, hello(client_name)).await
    }

    /// The same with any Hello.
    ///
    /// # Errors
    /// As [`Peer::connect`].
    pub async fn connect_as<'a>(way: impl Into<Way<'a>>, hello: Hello) -> Result<Self, PeerError> {
        let (sender, mut receiver) = open(way).await?;
        sender.say(Request::Hello(hello)).await?;
        let welcome = receiver.expect_welcome("a welcome").await?;
        Ok(Self {
            sender,
            receiver,
            welcome,
        })
    }

    /// The two halves, to be used by different tasks.
    #[must_use]
    pub fn split(self) -> (Sender, Receiver) {
        (self.sender, self.receiver)
    }

    /// What the server welcomed it with.
    #[must_use]
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// The half that speaks.
    #[must_use]
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// The half that listens.
    pub fn receiver(&mut self) -> &mut Receiver {
        &mut self.receiver
    }

    /// Subscribes to one shard, behind `seqno` if there is one, and returns
    /// its head once that is answered. For a peer to which nothing else is
    /// due.
    ///
    /// # Errors
    /// Something else comes.
    pub async fn follow(
        &mut self,
        shard: ShardId,
        seqno: Option<u64>,
    ) -> Result<Option<u64>, PeerError> {
        self.sender.subscribe(1, &[(shard, seqno)]).await?;
        let what = format!("the answer to the subscription of {shard}");
        let answer = self.receiver.expect_subscribed(&what).await?;
        Ok(answer.shards.first().and_then(|head| head.highest_seqno))
    }
}

impl Sender {
    /// Publishes a diff. `nanos` is the time of its commit.
    ///
    /// # Errors
    /// [`PeerError::Ended`], as of every send.
    pub async fn publish(
        &self,
        shard: ShardId,
        seqno: u64,
        nanos: u64,
        diff: impl Into<Bytes>,
    ) -> Result<(), PeerError> {
        self.say(Request::Publish(v1::Publish {
            shard_id: shard.to_bytes(),
            seqno,
            committed_unix_nanos: nanos,
            diff: Some(diff.into()),
        }))
        .await
    }

    /// Says that a shard has reached a seqno, without the diff.
    ///
    /// # Errors
    /// [`PeerError::Ended`].
    pub async fn announce(&self, shard: ShardId, seqno: u64) -> Result<(), PeerError> {
        self.say(Request::Publish(v1::Publish {
            shard_id: shard.to_bytes(),
            seqno,
            ..v1::Publish::default()
        }))
        .await
    }

    /// Subscribes to shards, each behind a seqno if there is one.
    ///
    /// # Errors
    /// [`PeerError::Ended`].
    pub async fn subscribe(
        &self,
        request_id: u64,
        shards: &[(ShardId, Option<u64>)],
    ) -> Result<(), PeerError> {
        self.say(Request::Subscribe(v1::Subscribe {
            request_id,
            shards: shards
                .iter()
                .map(|(shard, seqno)| ShardPosition {
                    shard_id: shard.to_bytes(),
                    seqno: *seqno,
                })
                .collect(),
        }))
        .await
    }

    /// Gives subscriptions back.
    ///
    /// # Errors
    /// [`PeerError::Ended`].
    pub async fn unsubscribe(&self, request_id: u64, shards: &[ShardId]) -> Result<(), PeerError> {
        self.say(Request::Unsubscribe(v1::Unsubscribe {
            request_id,
            shard_ids: shards.iter().map(ShardId::to_bytes).collect(),
        }))
        .await
    }

    /// Says any message.
    ///
    /// # Errors
    /// [`PeerError::Ended`].
    pub async fn say(&self, message: Request) -> Result<(), PeerError> {
        let message = v1::SessionRequest {
            message: Some(message),
        };
        match &self.outgoing {
            Outgoing::Bytes(_) => self.send(message.encode_to_vec().into()).await,
            Outgoing::Messages(to) => to.send(message).await.map_err(|_| PeerError::Ended),
        }
    }

    /// Sends any bytes as a message. Not in process, where no bytes go.
    ///
    /// # Errors
    /// [`PeerError::Ended`]; in process [`PeerError::Invalid`].
    pub async fn send(&self, raw: Bytes) -> Result<(), PeerError> {
        match &self.outgoing {
            Outgoing::Bytes(to) => to.send(raw).await.map_err(|_| PeerError::Ended),
            Outgoing::Messages(_) => {
                let why = "bytes cannot be sent in process";
                Err(PeerError::Invalid(why.to_owned()))
            }
        }
    }
}

/// A method of [`Receiver`] for each kind that tests wait for.
macro_rules! expect {
    ($($name:ident: $kind:ident,)*) => {
        impl Receiver {
            $(
                /// The next message, heartbeats aside, which has to be of
                /// this kind.
                ///
                /// # Errors
                /// Another kind comes, or nothing.
                pub async fn $name(&mut self, what: &str) -> Result<v1::$kind, PeerError> {
                    match self.expect(what).await? {
                        Response::$kind(message) => Ok(message),
                        other => Err(PeerError::Other {
                            what: what.to_owned(),
                            got: format!("{other:?}"),
                        }),
                    }
                }
            )*
        }
    };
}

expect! {
    expect_welcome: Welcome,
    expect_diff: Diff,
    expect_subscribed: Subscribed,
    expect_unsubscribed: Unsubscribed,
    expect_gap: Gap,
    expect_rejected: Rejected,
    expect_draining: Draining,
    expect_fenced: Fenced,
    expect_mode_set: ModeSet,
}

impl Receiver {
    /// The next message, whatever it is. `None`: the server ended the stream
    /// with OK.
    ///
    /// # Errors
    /// The stream broke, or what came is no v1 message.
    pub async fn receive(&mut self) -> Result<Option<Received>, PeerError> {
        match &mut self.incoming {
            Incoming::Bytes(stream) => {
                let Some(raw) = stream.message().await? else {
                    return Ok(None);
                };
                let message = v1::SessionResponse::decode(raw.clone())?.message;
                Ok(Some(Received { raw, message }))
            }
            Incoming::Messages(stream) => {
                let Some(said) = poll_fn(|cx| stream.as_mut().poll_next(cx)).await else {
                    return Ok(None);
                };
                let said = said.map_err(|reason| PeerError::Status(status(&reason)))?;
                let raw = said.encode_to_vec().into();
                let message = said.message;
                Ok(Some(Received { raw, message }))
            }
        }
    }

    /// The next message, heartbeats aside, which has to come within
    /// [`crate::wait::PATIENCE`].
    ///
    /// # Errors
    /// The stream ends, or nothing comes.
    pub async fn expect(&mut self, what: &str) -> Result<Response, PeerError> {
        within(what, async {
            loop {
                match self.receive().await?.ok_or(PeerError::Ended)?.message {
                    None | Some(Response::Heartbeat(_)) => {}
                    Some(message) => return Ok(message),
                }
            }
        })
        .await?
    }

    /// How the stream ends, which it has to do next, heartbeats aside.
    ///
    /// # Errors
    /// Something else comes, or nothing.
    pub async fn expect_end(&mut self, what: &str) -> Result<Status, PeerError> {
        match self.expect(what).await {
            Ok(got) => Err(PeerError::Other {
                what: what.to_owned(),
                got: format!("{got:?}"),
            }),
            Err(PeerError::Ended) => Ok(Status::ok("")),
            Err(PeerError::Status(status)) => Ok(status),
            Err(error) => Err(error),
        }
    }
}
