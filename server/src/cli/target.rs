//! Which server a command talks to, and as whom.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use persist_pubsub_client::{Config, Tls, Token};
use persist_pubsub_proto::admin_v1::Replica;
use persist_pubsub_proto::admin_v1::admin_service_client::AdminServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

use super::Failure;
use crate::config::InvalidConfig;
use crate::recording::player::causes;

/// How long a connection may take, with TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

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
    #[command(flatten)]
    credentials: Credentials,
}

impl Server {
    /// What the client crate is told.
    pub(crate) fn config(&self) -> Result<Config, Failure> {
        let mut config = Config::new(&self.credentials.url("--server", &self.server)?)?;
        if let Some(tls) = self.credentials.tls() {
            config = config.tls(tls);
        }
        if let Some(token) = self.credentials.token() {
            config = config.token(token);
        }
        Ok(config)
    }

    /// Where it is, for connections of one's own.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, Failure> {
        self.credentials.endpoint("--server", &self.server)
    }

    /// What is said of who asks.
    pub(crate) async fn authorization(&self) -> Result<Authorization, Failure> {
        self.credentials.authorization().await
    }

    pub(crate) async fn connect(&self) -> Result<Authorized, Failure> {
        self.credentials.connect("--server", &self.server).await
    }

    /// Host and port, for who speaks something else than gRPC's library, and
    /// neither TLS nor tokens.
    pub(crate) fn authority(&self) -> Result<String, Failure> {
        if self.credentials.tls_ca.is_some() || self.credentials.token_file.is_some() {
            return Err("this command speaks plaintext alone, and sends no token".into());
        }
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
    #[command(flatten)]
    credentials: Credentials,
}

impl AdminPort {
    pub(crate) async fn connect(&self) -> Result<AdminServiceClient<Authorized>, Failure> {
        let channel = self.credentials.connect("--admin", &self.admin).await?;
        Ok(AdminServiceClient::new(channel))
    }
}

/// Which replicas a command is about, where several serve as one (--backplane).
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct OfReplica {
    /// Of this replica alone, by its name or instance id; "this": of the one that is asked; otherwise of all
    #[arg(
        long,
        value_name = "NAME|all",
        env = "PERSIST_PUBSUB_REPLICA",
        default_value = ""
    )]
    replica: String,
}

impl OfReplica {
    /// As a request says it.
    pub(crate) fn named(&self) -> String {
        self.replica.clone()
    }

    /// Refuses the answer of a server that knows nothing of replicas, when one
    /// was asked for.
    pub(crate) fn check(&self, replicas: &[Replica]) -> Result<(), Failure> {
        let one = !matches!(self.replica.as_str(), "" | "all" | "this");
        if one && replicas.is_empty() {
            return Err(format!(
                "the server has no replicas, so that none is called '{}'",
                self.replica
            )
            .into());
        }
        Ok(())
    }
}

/// Says on standard error what is not in an answer.
pub(crate) fn say_missing(replicas: &[Replica]) {
    for replica in replicas.iter().filter(|r| !r.missing.is_empty()) {
        eprintln!("not asked: {}: {}", replica.name, replica.missing);
    }
}

/// Whom to trust, and who asks.
#[derive(Debug, Default, Args)]
struct Credentials {
    /// Authorities that an https server's certificate is to be of (PEM)
    #[arg(long, value_name = "PATH", env = "PERSIST_PUBSUB_TLS_CA")]
    tls_ca: Option<PathBuf>,
    /// Client certificate to show (PEM)
    #[arg(
        long,
        value_name = "PATH",
        env = "PERSIST_PUBSUB_TLS_CERT",
        requires = "tls_key"
    )]
    tls_cert: Option<PathBuf>,
    /// Its private key
    #[arg(
        long,
        value_name = "PATH",
        env = "PERSIST_PUBSUB_TLS_KEY",
        requires = "tls_cert"
    )]
    tls_key: Option<PathBuf>,
    /// Name that the server's certificate is to be for; the URL's host if none
    #[arg(long, value_name = "NAME", env = "PERSIST_PUBSUB_TLS_SERVER_NAME")]
    tls_server_name: Option<String>,
    /// File with the bearer token to show
    #[arg(long, value_name = "PATH", env = "PERSIST_PUBSUB_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

/// A channel whose requests say who asks.
pub(crate) type Authorized = InterceptedService<Channel, Authorization>;

/// Adds the token to requests, if there is one.
#[derive(Clone, Debug)]
pub(crate) struct Authorization(Option<MetadataValue<Ascii>>);

impl Authorization {
    pub(crate) fn value(self) -> Option<MetadataValue<Ascii>> {
        self.0
    }
}

/// Host and port of a plaintext URL.
pub(crate) fn authority(flag: &'static str, text: &str) -> Result<String, Failure> {
    let url: http::Uri = Credentials::default().url(flag, text)?.parse()?;
    let host = url.host().unwrap_or_default();
    Ok(format!("{host}:{}", url.port_u16().unwrap_or(80)))
}

impl tonic::service::Interceptor for Authorization {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", token.clone());
        }
        Ok(request)
    }
}

impl Credentials {
    fn tls(&self) -> Option<Tls> {
        let mut tls = Tls::ca_file(self.tls_ca.as_ref()?);
        if let (Some(certificate), Some(key)) = (&self.tls_cert, &self.tls_key) {
            tls = tls.client_certificate(certificate, key);
        }
        if let Some(name) = &self.tls_server_name {
            tls = tls.server_name(name);
        }
        Some(tls)
    }

    fn token(&self) -> Option<Token> {
        self.token_file.as_ref().map(Token::file)
    }

    async fn authorization(&self) -> Result<Authorization, Failure> {
        let Some(token) = self.token() else {
            return Ok(Authorization(None));
        };
        let value = token.authorization().await;
        Ok(Authorization(Some(
            value.map_err(|e| format!("--token-file: {e}"))?,
        )))
    }

    /// The URL, with `http://` where nothing was said.
    fn url(&self, flag: &'static str, text: &str) -> Result<String, InvalidConfig> {
        let url = if text.contains("://") {
            text.to_owned()
        } else {
            format!("http://{text}")
        };
        let invalid = |allowed: &str| InvalidConfig {
            flag,
            value: text.to_owned(),
            allowed: allowed.to_owned(),
        };
        let uri = url.parse::<http::Uri>().ok();
        let uri = uri.filter(|uri| uri.host().is_some());
        match uri.as_ref().and_then(http::Uri::scheme_str) {
            Some("https") if self.tls_ca.is_none() => {
                Err(invalid("an https server needs --tls-ca beside it"))
            }
            Some("http" | "https") => Ok(url),
            _ => Err(invalid("a URL such as http://127.0.0.1:6879, or host:port")),
        }
    }

    fn endpoint(&self, flag: &'static str, text: &str) -> Result<Endpoint, Failure> {
        let url = self.url(flag, text)?;
        let endpoint = Endpoint::from_shared(url.clone())?.connect_timeout(CONNECT_TIMEOUT);
        let (true, Some(ca)) = (url.starts_with("https:"), &self.tls_ca) else {
            return Ok(endpoint);
        };
        let read = |flag, path: &PathBuf| {
            std::fs::read(path).map_err(|e| format!("{flag} {}: {e}", path.display()))
        };
        let mut tls =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("--tls-ca", ca)?));
        if let Some(name) = &self.tls_server_name {
            tls = tls.domain_name(name);
        }
        if let (Some(certificate), Some(key)) = (&self.tls_cert, &self.tls_key) {
            let certificate = read("--tls-cert", certificate)?;
            tls = tls.identity(Identity::from_pem(certificate, read("--tls-key", key)?));
        }
        Ok(endpoint.tls_config(tls)?)
    }

    async fn connect(&self, flag: &'static str, text: &str) -> Result<Authorized, Failure> {
        let endpoint = self.endpoint(flag, text)?;
        let url = endpoint.uri().clone();
        let channel = tokio::time::timeout(CONNECT_TIMEOUT * 2, endpoint.connect()).await;
        let channel = channel
            .map_err(|_| format!("cannot reach {url}: no answer in time"))?
            .map_err(|e| format!("cannot reach {url}: {}", causes(&e)))?;
        Ok(InterceptedService::new(
            channel,
            self.authorization().await?,
        ))
    }
}
