//! A scripted v0 client: it says what it is told to, as exact bytes where
//! that matters, and shows what it receives.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use persist_pubsub_proto::v0::proto_pub_sub_message::Message as Kind;
use persist_pubsub_proto::v0::{
    self, ProtoDuration, ProtoPubSubMessage, ProtoPushDiff, ProtoSubscribe, ProtoUnsubscribe,
};
use persist_pubsub_proto::{InvalidShardId, ShardId};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::entrant::Entrant;
use crate::recording::{Push, shard_of};
use crate::wait::{TimedOut, within};
use persist_pubsub_server::recording::raw_codec::RawCodec;

/// Messages that wait for tonic to take them. A send beyond waits: a peer
/// that is told to send feels the server's flow control.
const OUTGOING_MESSAGES: usize = 64;

/// HTTP/2 pings of a client.
#[derive(Clone, Copy, Debug)]
pub struct KeepAlive {
    /// How often.
    pub interval: Duration,
    /// How long the answer may take.
    pub timeout: Duration,
}

/// A connection of a v0 client: one TCP connection with one stream.
#[derive(Debug)]
pub struct Peer {
    sender: Sender,
    receiver: Receiver,
}

/// The half of a [`Peer`] that speaks. Dropping the last clone half-closes
/// the stream.
#[derive(Clone, Debug)]
pub struct Sender {
    outgoing: mpsc::Sender<Bytes>,
}

/// The half of a [`Peer`] that listens. Dropping it cancels the stream.
#[derive(Debug)]
pub struct Receiver {
    incoming: Streaming<Bytes>,
}

/// One message from the server.
#[derive(Clone, Debug)]
pub struct Received {
    /// Its bytes, as they were on the wire.
    pub raw: Bytes,
    /// The same, decoded.
    pub message: ProtoPubSubMessage,
}

/// A peer could not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The URL or the caller id cannot be used.
    #[error("{0}")]
    Invalid(String),
    /// No connection.
    #[error("no connection: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The server refused the call, or ended the stream with an error.
    #[error("the server ended the call: {0}")]
    Status(#[from] Status),
    /// The stream has ended.
    #[error("the stream has ended")]
    Ended,
    /// The server sent what is no message of the wire version.
    #[error("the server's message does not decode: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// The server sent something else than a diff of a shard.
    #[error("the server sent something else than a diff: {0}")]
    NotADiff(String),
    /// The server sent something else than what is due.
    #[error("waited for {what}, but {got} came")]
    Other {
        /// What is due.
        what: String,
        /// What came.
        got: String,
    },
    /// Nothing came.
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
}

impl Peer {
    /// Connects, and opens the stream under a caller id.
    ///
    /// # Errors
    /// No connection, or the call is refused.
    pub async fn connect(url: &str, caller_id: &str) -> Result<Self, PeerError> {
        Self::connect_alive(url, caller_id, None).await
    }

    /// As [`Peer::connect`], with HTTP/2 pings: without them a connection
    /// that died without a word is never noticed.
    ///
    /// # Errors
    /// As [`Peer::connect`].
    pub async fn connect_alive(
        url: &str,
        caller_id: &str,
        keep_alive: Option<KeepAlive>,
    ) -> Result<Self, PeerError> {
        let mut metadata = MetadataMap::new();
        let caller_id = AsciiMetadataValue::try_from(caller_id)
            .map_err(|e| PeerError::Invalid(format!("caller id {caller_id:?}: {e}")))?;
        metadata.insert(v0::CALLER_ID, caller_id);
        Self::open(url, metadata, keep_alive).await
    }

    /// Connects over TLS and with a token, as the entrant has them.
    ///
    /// # Errors
    /// As [`Peer::connect`].
    pub async fn connect_as(entrant: &Entrant) -> Result<Self, PeerError> {
        let channel = entrant.connect().await?;
        Self::over(channel, entrant.url(), entrant.metadata()?).await
    }

    /// Connects with any request metadata, or none.
    ///
    /// # Errors
    /// As [`Peer::connect`].
    pub async fn connect_with(url: &str, metadata: MetadataMap) -> Result<Self, PeerError> {
        Self::open(url, metadata, None).await
    }

    async fn open(
        url: &str,
        metadata: MetadataMap,
        keep_alive: Option<KeepAlive>,
    ) -> Result<Self, PeerError> {
        let mut endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|e| PeerError::Invalid(format!("{url:?}: {e}")))?
            .tcp_nodelay(true);
        if let Some(KeepAlive { interval, timeout }) = keep_alive {
            endpoint = endpoint
                .http2_keep_alive_interval(interval)
                .keep_alive_timeout(timeout);
        }
        let channel: Channel =
            within(&format!("a connection to {url}"), endpoint.connect()).await??;
        Self::over(channel, url, metadata).await
    }

    async fn over(channel: Channel, url: &str, metadata: MetadataMap) -> Result<Self, PeerError> {
        let mut client = tonic::client::Grpc::new(channel)
            .max_decoding_message_size(v0::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(usize::MAX);
        client.ready().await?;
        let (outgoing, messages) = mpsc::channel(OUTGOING_MESSAGES);
        let mut request = Request::new(ReceiverStream::new(messages));
        *request.metadata_mut() = metadata;
        let call = client.streaming(request, PathAndQuery::from_static(v0::PATH), RawCodec);
        let response = within(&format!("the answer of {url} to a v0 call"), call).await??;
        Ok(Self {
            sender: Sender { outgoing },
            receiver: Receiver {
                incoming: response.into_inner(),
            },
        })
    }

    /// The two halves, to be used by different tasks.
    #[must_use]
    pub fn split(self) -> (Sender, Receiver) {
        (self.sender, self.receiver)
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
}

impl Sender {
    /// Pushes a diff, stamped with the time of now.
    ///
    /// # Errors
    /// [`PeerError::Ended`], as of every send.
    pub async fn push(&self, push: Push) -> Result<(), PeerError> {
        self.say(Kind::PushDiff(ProtoPushDiff {
            shard_id: push.shard.to_string(),
            seqno: push.seqno,
            diff: push.diff,
        }))
        .await
    }

    /// Subscribes to a shard.
    ///
    /// # Errors
    /// [`PeerError::Ended`].
    pub async fn subscribe(&self, shard: ShardId) -> Result<(), PeerError> {
        self.say(Kind::Subscribe(ProtoSubscribe {
            shard_id: shard.to_string(),
        }))
        .await
    }

    /// Unsubscribes from a shard.
    ///
    /// # Errors
    /// [`PeerError::Ended`].
    pub async fn unsubscribe(&self, shard: ShardId) -> Result<(), PeerError> {
        self.say(Kind::Unsubscribe(ProtoUnsubscribe {
            shard_id: shard.to_string(),
        }))
        .await
    }

    /// Sends any bytes as a message. To have them taken is not to have them
    /// arrive: v0 answers nothing (but see [`crate::marker`]).
    ///
    /// # Errors
    /// [`PeerError::Ended`].
    pub async fn send(&self, raw: Bytes) -> Result<(), PeerError> {
        self.outgoing.send(raw).await.map_err(|_| PeerError::Ended)
    }

    async fn say(&self, message: Kind) -> Result<(), PeerError> {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let message = ProtoPubSubMessage {
            timestamp: Some(ProtoDuration {
                secs: now.as_secs(),
                nanos: now.subsec_nanos(),
            }),
            message: Some(message),
        };
        self.send(message.encode_to_vec().into()).await
    }
}

impl Receiver {
    /// The next message. `None`: the server ended the stream with OK.
    ///
    /// # Errors
    /// The stream broke, or what came is no v0 message.
    pub async fn receive(&mut self) -> Result<Option<Received>, PeerError> {
        let Some(raw) = self.incoming.message().await? else {
            return Ok(None);
        };
        let message = ProtoPubSubMessage::decode(raw.clone())?;
        Ok(Some(Received { raw, message }))
    }

    /// The next message, which has to be a diff: the only kind that deployed
    /// clients expect.
    ///
    /// # Errors
    /// [`PeerError::NotADiff`], or as [`Receiver::receive`].
    pub async fn receive_push(&mut self) -> Result<Option<Push>, PeerError> {
        match self.receive().await? {
            Some(received) => received.push().map(Some),
            None => Ok(None),
        }
    }

    /// The next diff, which has to come, and within
    /// [`crate::wait::PATIENCE`].
    ///
    /// # Errors
    /// It does not come.
    pub async fn expect_push(&mut self, what: &str) -> Result<Push, PeerError> {
        within(what, self.receive_push())
            .await??
            .ok_or(PeerError::Ended)
    }
}

impl Received {
    /// The diff that the message carries.
    ///
    /// # Errors
    /// [`PeerError::NotADiff`].
    pub fn push(self) -> Result<Push, PeerError> {
        let shard = shard_of(&self.message)
            .map_err(|e: InvalidShardId| PeerError::NotADiff(e.to_string()))?;
        match (shard, self.message.message) {
            (Some(shard), Some(Kind::PushDiff(push))) => Ok(Push {
                shard,
                seqno: push.seqno,
                diff: push.diff,
            }),
            (_, other) => Err(PeerError::NotADiff(format!("{other:?}"))),
        }
    }
}
