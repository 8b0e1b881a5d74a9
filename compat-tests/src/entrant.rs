//! How a peer gets in: over TLS or not, with a certificate or a token or
//! neither.

use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::certificates::{Authority, Issued};
use crate::v0_peer::PeerError;
use crate::wait::within;

/// A peer at the door.
#[derive(Clone, Debug)]
pub struct Entrant {
    url: String,
    tls: Option<ClientTlsConfig>,
    token: Option<String>,
}

impl Entrant {
    /// One with nothing to show, at a URL.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            tls: None,
            token: None,
        }
    }

    /// Trusts servers of this authority. The URL is an https one then.
    #[must_use]
    pub fn trusting(mut self, authority: &Authority) -> Self {
        let tls = self.tls.take().unwrap_or_default();
        let ca = Certificate::from_pem(authority.pem());
        self.tls = Some(tls.ca_certificate(ca));
        self
    }

    /// Shows this certificate.
    #[must_use]
    pub fn showing(mut self, issued: &Issued) -> Self {
        let tls = self.tls.take().unwrap_or_default();
        let identity = Identity::from_pem(&issued.certificate, &issued.key);
        self.tls = Some(tls.identity(identity));
        self
    }

    /// Shows this token.
    #[must_use]
    pub fn with_token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    /// Where it wants in.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What its requests carry.
    ///
    /// # Errors
    /// A token that metadata cannot carry.
    pub fn metadata(&self) -> Result<MetadataMap, PeerError> {
        let mut metadata = MetadataMap::new();
        if let Some(token) = &self.token {
            let value = format!("Bearer {token}");
            let value = value.parse().map_err(|_| PeerError::Invalid(value))?;
            metadata.insert("authorization", value);
        }
        Ok(metadata)
    }

    /// Connects, with TLS where there is any.
    ///
    /// # Errors
    /// It cannot, or not in time.
    pub async fn connect(&self) -> Result<Channel, PeerError> {
        let url = &self.url;
        let mut endpoint = Endpoint::from_shared(url.clone())
            .map_err(|e| PeerError::Invalid(format!("{url:?}: {e}")))?
            .tcp_nodelay(true);
        if let Some(tls) = &self.tls {
            endpoint = endpoint.tls_config(tls.clone())?;
        }
        Ok(within(&format!("a connection to {url}"), endpoint.connect()).await??)
    }
}
