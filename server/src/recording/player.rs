//! Plays a recording to a server over v0: one connection per file, under the
//! file's caller id, each message as the bytes it was.

use std::time::Duration;

use bytes::Bytes;
use persist_pubsub_proto::v0;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::metadata::{AsciiMetadataValue, MetadataMap, errors::InvalidMetadataValue};
use tonic::transport::{Channel, Endpoint};

use super::Recording;
use super::raw_codec::RawCodec;

/// Messages that wait for one connection to take them.
const AHEAD: usize = 256;

/// How fast a recording is played.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// So many times as fast as it was recorded; above 0.
    Times(f64),
    /// As fast as the server takes it.
    Full,
}

/// What was played.
#[derive(Clone, Copy, Debug, Default)]
pub struct Played {
    /// Messages sent.
    pub messages: usize,
    /// Of these, pushes.
    pub pushes: usize,
    /// Bytes of all messages.
    pub bytes: usize,
    /// Diffs received in return.
    pub received: usize,
    /// From the first message until the server had taken all of them.
    pub took: Duration,
}

/// Why playing stopped. A retry can help once the server is there.
#[derive(Debug, thiserror::Error)]
pub enum PlayError {
    /// The server cannot be reached.
    #[error("{url}: {}", causes(.source))]
    Connect {
        /// The server.
        url: String,
        /// What the transport says.
        source: tonic::transport::Error,
    },
    /// A stream failed.
    #[error("{caller}: {status}")]
    Stream {
        /// Whose.
        caller: String,
        /// How it ended.
        status: Box<tonic::Status>,
    },
    /// A file's name cannot be a caller id.
    #[error(transparent)]
    CallerId(#[from] InvalidMetadataValue),
    /// A connection's task panicked.
    #[error(transparent)]
    Task(#[from] tokio::task::JoinError),
}

/// An error and what caused it, in one line.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Plays `recording` to a server, with this `authorization` if there is one. Returns when the server has taken
/// everything: each stream is half-closed behind its last message, and the
/// server ends it when it has come so far.
///
/// # Errors
/// A connection fails, or a stream ends with an error.
pub async fn play(
    recording: &Recording,
    endpoint: &Endpoint,
    authorization: Option<AsciiMetadataValue>,
    speed: Speed,
) -> Result<Played, PlayError> {
    let mut connections = Vec::new();
    for caller in &recording.callers {
        let connected = endpoint.connect().await;
        let channel = connected.map_err(|source| PlayError::Connect {
            url: endpoint.uri().to_string(),
            source,
        })?;
        let mut metadata = MetadataMap::new();
        metadata.insert(v0::CALLER_ID, AsciiMetadataValue::try_from(caller)?);
        if let Some(authorization) = &authorization {
            metadata.insert("authorization", authorization.clone());
        }
        connections.push((caller.clone(), channel, metadata));
    }
    let start = Instant::now();
    let first = recording.records.first().map_or(Duration::ZERO, |r| r.at);
    let mut players = JoinSet::new();
    for (index, (caller, channel, metadata)) in connections.into_iter().enumerate() {
        let script = recording
            .records
            .iter()
            .filter(|record| record.caller == index)
            .map(|record| {
                let due = match speed {
                    Speed::Times(times) => Some(start + (record.at - first).div_f64(times)),
                    Speed::Full => None,
                };
                (due, record.raw.clone())
            })
            .collect();
        players.spawn(connection(channel, caller, metadata, script));
    }
    let mut played = Played {
        messages: recording.records.len(),
        pushes: recording.pushes().count(),
        bytes: recording.records.iter().map(|r| r.raw.len()).sum(),
        ..Played::default()
    };
    while let Some(received) = players.join_next().await {
        played.received += received??;
    }
    played.took = start.elapsed();
    Ok(played)
}

/// Plays one file. Returns how many diffs came back.
async fn connection(
    channel: Channel,
    caller: String,
    metadata: MetadataMap,
    script: Vec<(Option<Instant>, Bytes)>,
) -> Result<usize, PlayError> {
    let failed = |status| PlayError::Stream {
        caller: caller.clone(),
        status: Box::new(status),
    };
    let (to_send, sent) = tokio::sync::mpsc::channel(AHEAD);
    let sending = tokio::spawn(async move {
        for (due, raw) in script {
            if let Some(due) = due {
                tokio::time::sleep_until(due).await;
            }
            if to_send.send(raw).await.is_err() {
                // The stream is gone; its reader says why.
                return;
            }
        }
    });
    let mut request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(sent));
    *request.metadata_mut() = metadata;
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|source| PlayError::Connect {
        url: caller.clone(),
        source,
    })?;
    let path = http::uri::PathAndQuery::from_static(v0::PATH);
    let response = grpc
        .streaming(request, path, RawCodec)
        .await
        .map_err(failed)?;
    let mut stream = response.into_inner();
    let mut received = 0;
    while stream.message().await.map_err(failed)?.is_some() {
        received += 1;
    }
    sending.await?;
    Ok(received)
}
