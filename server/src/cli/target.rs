//! Which server a command talks to.

use clap::Args;
use persist_pubsub_proto::admin_v1::admin_service_client::AdminServiceClient;
use tonic::transport::{Channel, Endpoint};

use super::Failure;
use crate::recording::player::causes;

/// The data port of a server.
#[derive(Debug, Args)]
pub(crate) struct Server {
    /// Data port of the server
    #[arg(
        long,
        value_name = "URL",
        env = "PERSIST_PUBSUB_SERVER",
        default_value = "http://127.0.0.1:6879"
    )]
    server: String,
}

impl Server {
    pub(crate) fn url(&self) -> Result<String, Failure> {
        url("--server", &self.server)
    }

    pub(crate) async fn connect(&self) -> Result<Channel, Failure> {
        connect(&self.url()?).await
    }

    /// Host and port, for who speaks something else than gRPC's library.
    pub(crate) fn authority(&self) -> Result<String, Failure> {
        authority("--server", &self.server)
    }
}

/// The operators' port of a server.
#[derive(Debug, Args)]
pub(crate) struct AdminPort {
    /// Operators' port of the server
    #[arg(
        long,
        value_name = "URL",
        env = "PERSIST_PUBSUB_ADMIN",
        default_value = "http://127.0.0.1:6880"
    )]
    admin: String,
}

impl AdminPort {
    pub(crate) async fn connect(&self) -> Result<AdminServiceClient<Channel>, Failure> {
        let channel = connect(&url("--admin", &self.admin)?).await?;
        Ok(AdminServiceClient::new(channel))
    }
}

/// A URL, with `http://` where nothing was said.
fn url(flag: &'static str, text: &str) -> Result<String, Failure> {
    let url = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    match url.parse::<http::Uri>() {
        Ok(uri) if uri.host().is_some() && uri.scheme_str() == Some("http") => Ok(url),
        _ => Err(crate::config::InvalidConfig {
            flag,
            value: text.to_owned(),
            allowed: "a URL such as http://127.0.0.1:6879, or host:port".to_owned(),
        }
        .into()),
    }
}

/// Host and port of a URL.
pub(crate) fn authority(flag: &'static str, text: &str) -> Result<String, Failure> {
    let url: http::Uri = url(flag, text)?.parse()?;
    let host = url.host().unwrap_or_default();
    Ok(format!("{host}:{}", url.port_u16().unwrap_or(80)))
}

async fn connect(url: &str) -> Result<Channel, Failure> {
    Endpoint::from_shared(url.to_owned())?
        .connect_timeout(std::time::Duration::from_secs(5))
        .connect()
        .await
        .map_err(|e| format!("cannot reach {url}: {}", causes(&e)).into())
}
