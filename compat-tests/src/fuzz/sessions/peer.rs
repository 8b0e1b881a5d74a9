//! A stream over HTTP/2, as far as a run wants it.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use persist_pubsub_proto::{v0, v1};
use prost::Message;
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;
use tonic::codegen::http::Request;

/// The prefix of a gRPC message: a flag and the length.
const PREFIX: usize = 5;

/// A connection. Dropping it cuts it.
pub(super) struct Connection {
    client: SendRequest<Bytes>,
    driver: JoinHandle<()>,
}

impl Connection {
    /// None: the server hung up.
    pub(super) async fn new(pipe: DuplexStream) -> Option<Self> {
        let (client, connection) = h2::client::handshake(pipe).await.ok()?;
        let driver = tokio::spawn(async move {
            // How it ends is the run's own doing.
            let _ = connection.await;
        });
        Some(Self { client, driver })
    }

    /// Opens a stream, if the server takes one more.
    pub(super) fn open(&mut self, v1: bool) -> Option<Stream> {
        let path = if v1 { v1::PATH } else { v0::PATH };
        let request = Request::post(format!("http://fuzz{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .ok()?;
        let (answer, outgoing) = self.client.send_request(request, false).ok()?;
        Some(Stream {
            v1,
            outgoing,
            answer: Some(answer),
            reader: None,
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A stream. It is not read unless it is told to.
pub(super) struct Stream {
    pub(super) v1: bool,
    outgoing: SendStream<Bytes>,
    answer: Option<ResponseFuture>,
    reader: Option<JoinHandle<()>>,
}

impl Stream {
    /// Sends bytes of the body. The stream may be gone.
    pub(super) fn send(&mut self, bytes: Vec<u8>) {
        let _ = self.outgoing.send_data(bytes.into(), false);
    }

    /// Sends a gRPC message.
    pub(super) fn say(&mut self, message: &[u8]) {
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        self.send([&[0][..], &length.to_be_bytes(), message].concat());
    }

    pub(super) fn half_close(&mut self) {
        let _ = self.outgoing.send_data(Bytes::new(), true);
    }

    pub(super) fn reset(&mut self) {
        self.outgoing.send_reset(Reason::CANCEL);
    }

    /// Reads it from now on, to its end.
    pub(super) fn read(&mut self) -> Heard {
        let heard = Heard::default();
        if let Some(answer) = self.answer.take() {
            let into = heard.clone();
            self.reader = Some(tokio::spawn(async move {
                if let Ok(response) = answer.await {
                    take(response.into_body(), &into).await;
                }
            }));
        }
        heard
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(reader) = &self.reader {
            reader.abort();
        }
    }
}

/// The messages that came.
#[derive(Clone, Default)]
pub(super) struct Heard(Arc<Mutex<Vec<Bytes>>>);

impl Heard {
    /// Takes them.
    pub(super) fn take(&self) -> Vec<Bytes> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn take(mut body: RecvStream, heard: &Heard) {
    let mut buffer = BytesMut::new();
    while let Some(Ok(chunk)) = body.data().await {
        let _ = body.flow_control().release_capacity(chunk.len());
        buffer.extend_from_slice(&chunk);
        while let Some((prefix, rest)) = buffer.split_first_chunk::<PREFIX>() {
            let [flag, length @ ..] = *prefix;
            assert_eq!(flag, 0, "a compressed message");
            let length = u32::from_be_bytes(length) as usize;
            if rest.len() < length {
                break;
            }
            let message = buffer.split_to(PREFIX + length).freeze();
            let mut all = heard.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.push(message.slice(PREFIX..));
        }
    }
}

/// A v1 request, encoded.
pub(super) fn request(message: v1::session_request::Message) -> Vec<u8> {
    v1::SessionRequest {
        message: Some(message),
    }
    .encode_to_vec()
}
