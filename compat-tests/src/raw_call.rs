//! A gRPC call below gRPC: any path, any headers, any bytes as its body, and
//! the answer as HTTP/2 carries it.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tonic::codegen::http::{HeaderMap, Request};

use crate::wait::{TimedOut, within};

/// A call that is under way, on a connection of its own.
#[derive(Debug)]
pub struct RawCall {
    outgoing: h2::SendStream<Bytes>,
    answer: h2::client::ResponseFuture,
    connection: Connection,
}

/// Dropping it closes the connection.
#[derive(Debug)]
struct Connection(JoinHandle<()>);

/// How a call was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status of HTTP.
    pub http: u16,
    /// `grpc-status`, from the trailers or, without a body, the headers.
    pub status: Option<i32>,
    /// `grpc-message`.
    pub message: String,
    /// Everything in between.
    pub body: Bytes,
}

/// A call did not get to its end.
#[derive(Debug, thiserror::Error)]
pub enum RawCallError {
    /// No connection.
    #[error("no connection: {0}")]
    Io(#[from] std::io::Error),
    /// What is to be sent is no request.
    #[error("{0}")]
    Request(#[from] tonic::codegen::http::Error),
    /// The connection or the stream broke.
    #[error("HTTP/2: {0}")]
    Http2(#[from] h2::Error),
    /// It did not end.
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
}

impl RawCall {
    /// Opens a stream. The headers that gRPC asks for are sent, unless
    /// `headers` has others of the same name.
    ///
    /// # Errors
    /// No connection, or headers that are none.
    pub async fn open(
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &[u8])],
    ) -> Result<Self, RawCallError> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let (client, connection) = h2::client::handshake(tcp).await?;
        let connection = Connection(tokio::spawn(async move {
            // What breaks it, the call hears as well.
            let _ = connection.await;
        }));
        let mut request = Request::post(format!("http://{address}{path}"));
        let given = |name: &str| headers.iter().any(|(n, _)| *n == name);
        for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
            if !given(name) {
                request = request.header(name, value);
            }
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut client = client.ready().await?;
        let (answer, outgoing) = client.send_request(request.body(())?, false)?;
        Ok(Self {
            outgoing,
            answer,
            connection,
        })
    }

    /// Sends bytes of the body.
    ///
    /// # Errors
    /// The stream is gone.
    pub fn send(&mut self, bytes: impl Into<Bytes>) -> Result<(), RawCallError> {
        Ok(self.outgoing.send_data(bytes.into(), false)?)
    }

    /// Ends the body.
    ///
    /// # Errors
    /// The stream is gone.
    pub fn half_close(&mut self) -> Result<(), RawCallError> {
        Ok(self.outgoing.send_data(Bytes::new(), true)?)
    }

    /// The answer, to its end.
    ///
    /// # Errors
    /// The stream breaks, or does not end within [`crate::wait::PATIENCE`].
    pub async fn answer(self, what: &str) -> Result<Answer, RawCallError> {
        let Self {
            answer, connection, ..
        } = self;
        let answer = within(what, read(answer)).await?;
        drop(connection);
        answer
    }
}

async fn read(answer: h2::client::ResponseFuture) -> Result<Answer, RawCallError> {
    let (head, mut incoming) = answer.await?.into_parts();
    let mut body = BytesMut::new();
    while let Some(chunk) = incoming.data().await {
        let chunk = chunk?;
        incoming.flow_control().release_capacity(chunk.len())?;
        body.extend_from_slice(&chunk);
    }
    let trailers = incoming.trailers().await?.unwrap_or(head.headers);
    let text = |name: &str| text(&trailers, name);
    Ok(Answer {
        http: head.status.as_u16(),
        status: text("grpc-status").parse().ok(),
        message: text("grpc-message"),
        body: body.freeze(),
    })
}

/// A header, with `%20` and the like resolved: gRPC encodes messages so.
fn text(headers: &HeaderMap, name: &str) -> String {
    let value = headers.get(name).map_or(&b""[..], |v| v.as_bytes());
    let mut out = Vec::with_capacity(value.len());
    let mut at = 0;
    while at < value.len() {
        let coded = value
            .get(at + 1..at + 3)
            .filter(|_| value[at] == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(coded.unwrap_or(value[at]));
        at += if coded.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}
