//! What an operator sees of a server: its admin port, both gRPC and HTTP.

use std::net::SocketAddr;

use persist_pubsub_proto::admin_v1::admin_service_client::AdminServiceClient;
use persist_pubsub_proto::admin_v1::{
    GetServerInfoRequest, GetServerInfoResponse, ListSessionsRequest, ListShardsRequest, Session,
    SetFenceRequest, SetFenceResponse, Shard, WatchShardsRequest, WatchShardsResponse,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::child::Child;
use crate::wait::{TimedOut, within};

/// Of several replicas, the one that is asked.
const THIS: &str = "this";

/// Looks at one server, and where that is a replica, at no other.
#[derive(Clone, Debug)]
pub struct Operator {
    /// The Admin calls.
    pub admin: AdminServiceClient<Channel>,
    address: SocketAddr,
}

/// An operator did not get an answer.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// No connection.
    #[error("no connection to the admin port: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// No connection, for HTTP.
    #[error("no connection to the admin port: {0}")]
    Io(#[from] std::io::Error),
    /// The call was refused.
    #[error("the server refused an operator's call: {0}")]
    Status(#[from] Status),
    /// What came is not HTTP.
    #[error("the admin port answered {0:?}")]
    NotHttp(String),
    /// Nothing came.
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
}

impl Operator {
    /// Connects to a server's admin port.
    ///
    /// # Errors
    /// No connection.
    pub async fn connect(server: &Child) -> Result<Self, OperatorError> {
        Self::at(server.addresses().admin_listen).await
    }

    /// Connects to an admin port: that of a server in this process, say.
    ///
    /// # Errors
    /// It cannot.
    pub async fn at(address: SocketAddr) -> Result<Self, OperatorError> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
        let channel = within("a connection to the admin port", endpoint.connect()).await??;
        Ok(Self {
            admin: AdminServiceClient::new(channel),
            address,
        })
    }

    /// GETs a path: the status and the body.
    ///
    /// # Errors
    /// No answer.
    pub async fn get(&self, path: &str) -> Result<(u16, String), OperatorError> {
        get(self.address, path).await
    }

    /// A series of `/metrics`, as it is written there:
    /// `persist_pubsub_messages_rejected_total{reason="empty",wire="v0"}`.
    /// One that is not there is 0.
    ///
    /// # Errors
    /// No answer.
    pub async fn metric(&self, series: &str) -> Result<f64, OperatorError> {
        let (_, metrics) = self.get("/metrics").await?;
        let value = metrics
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
        Ok(value.unwrap_or(0.0))
    }

    /// How many messages of a wire version were refused for a reason.
    ///
    /// # Errors
    /// No answer.
    pub async fn rejected(&self, wire: &str, reason: &str) -> Result<f64, OperatorError> {
        let name = "persist_pubsub_messages_rejected_total";
        self.metric(&format!("{name}{{reason=\"{reason}\",wire=\"{wire}\"}}"))
            .await
    }

    /// What the server says of itself.
    ///
    /// # Errors
    /// No answer.
    pub async fn info(&self) -> Result<GetServerInfoResponse, OperatorError> {
        let mut admin = self.admin.clone();
        let answer = admin
            .get_server_info(GetServerInfoRequest::default())
            .await?;
        Ok(answer.into_inner())
    }

    /// The sessions, up to 1,000.
    ///
    /// # Errors
    /// No answer.
    pub async fn sessions(&self) -> Result<Vec<Session>, OperatorError> {
        let request = ListSessionsRequest {
            page_size: 1000,
            replica: THIS.to_owned(),
            ..ListSessionsRequest::default()
        };
        let answer = self.admin.clone().list_sessions(request).await?;
        Ok(answer.into_inner().sessions)
    }

    /// The shards, up to 1,000.
    ///
    /// # Errors
    /// No answer.
    pub async fn shards(&self) -> Result<Vec<Shard>, OperatorError> {
        let request = ListShardsRequest {
            page_size: 1000,
            replica: THIS.to_owned(),
            ..ListShardsRequest::default()
        };
        let answer = self.admin.clone().list_shards(request).await?;
        Ok(answer.into_inner().shards)
    }

    /// Raises the fence of an environment.
    ///
    /// # Errors
    /// It is refused.
    pub async fn fence(
        &self,
        environment: &str,
        generation: u64,
        unknown_v0: bool,
    ) -> Result<SetFenceResponse, OperatorError> {
        let request = SetFenceRequest {
            environment: environment.to_owned(),
            generation,
            unknown_v0,
            force_was: None,
        };
        let answer = self.admin.clone().set_fence(request).await?;
        Ok(answer.into_inner())
    }

    /// Watches.
    ///
    /// # Errors
    /// The call is refused.
    pub async fn watch(
        &self,
        environment: &str,
        shard_id: &str,
    ) -> Result<Streaming<WatchShardsResponse>, OperatorError> {
        let request = WatchShardsRequest {
            environment: environment.to_owned(),
            shard_id: shard_id.to_owned(),
        };
        let answer = self.admin.clone().watch_shards(request).await?;
        Ok(answer.into_inner())
    }
}

/// GETs a path of whoever serves HTTP at an address: the status and the body.
///
/// # Errors
/// No answer.
pub async fn get(address: SocketAddr, path: &str) -> Result<(u16, String), OperatorError> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let mut tcp = TcpStream::connect(address).await?;
    tcp.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    let read = tcp.read_to_string(&mut answer);
    within(&format!("the answer to GET {path}"), read).await??;
    let code = answer
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3)?.parse().ok());
    match (code, answer.split_once("\r\n\r\n")) {
        (Some(code), Some((_, body))) => Ok((code, body.to_owned())),
        _ => Err(OperatorError::NotHttp(answer)),
    }
}
