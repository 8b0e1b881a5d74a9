//! What a client proves to be, and whom it trusts: certificates and tokens.
//!
//! Files are read at every attempt to connect, so that what was renewed is
//! used from the next connection on.

use std::fmt;
use std::path::PathBuf;

use tonic::metadata::{Ascii, MetadataValue};

/// The metadata entry of a token.
pub(crate) const AUTHORIZATION: &str = "authorization";
/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Something that is given as it is, or by the file that holds it.
#[derive(Clone)]
pub(crate) enum Source {
    Bytes(Vec<u8>),
    File(PathBuf),
}

impl Source {
    /// On a thread that may wait: a file system can hang.
    async fn read(&self) -> Result<Vec<u8>, String> {
        let path = match self {
            Self::Bytes(bytes) => return Ok(bytes.clone()),
            Self::File(path) => path.clone(),
        };
        let name = path.display().to_string();
        let read = tokio::task::spawn_blocking(move || {
            use std::io::Read;
            let mut bytes = Vec::new();
            // A pipe would keep the thread for ever.
            if !std::fs::metadata(&path)?.is_file() {
                return Err(std::io::Error::other("no regular file"));
            }
            std::fs::File::open(&path)?
                .take(MAX_FILE)
                .read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        match read.await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => Err(format!("{name}: {error}")),
            Err(_) => Err(format!("{name}: not read")),
        }
    }
}

/// Shows where it is from, and not what it is.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "({} bytes)", bytes.len()),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Of an `https` endpoint: whom to trust, and what to show. Certificates and
/// keys are PEM.
///
/// No authority is trusted but the given ones; those of the system are in a
/// file such as `/etc/ssl/certs/ca-certificates.crt`.
#[cfg(feature = "tls")]
#[derive(Clone, Debug)]
pub struct Tls {
    ca: Source,
    client: Option<(Source, Source)>,
    server_name: Option<String>,
}

#[cfg(feature = "tls")]
impl Tls {
    /// Trusts servers whose certificate the authorities in this file vouch
    /// for.
    #[must_use]
    pub fn ca_file(path: impl Into<PathBuf>) -> Self {
        Self::new(Source::File(path.into()))
    }

    /// The same with the authorities' certificates themselves.
    #[must_use]
    pub fn ca_pem(pem: impl Into<Vec<u8>>) -> Self {
        Self::new(Source::Bytes(pem.into()))
    }

    fn new(ca: Source) -> Self {
        Self {
            ca,
            client: None,
            server_name: None,
        }
    }

    /// Shows the server the certificate of this file (a chain), whose private
    /// key is in the other.
    #[must_use]
    pub fn client_certificate(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        let files = (Source::File(certificate.into()), Source::File(key.into()));
        self.client = Some(files);
        self
    }

    /// The name that the server's certificate has to be for. Default: the
    /// endpoint's host.
    #[must_use]
    pub fn server_name(mut self, name: &str) -> Self {
        self.server_name = Some(name.to_owned());
        self
    }

    /// As tonic takes it, for a server called `host`.
    pub(crate) async fn read(
        &self,
        host: &str,
    ) -> Result<tonic::transport::ClientTlsConfig, String> {
        use tonic::transport::{Certificate, ClientTlsConfig, Identity};
        let name = self.server_name.as_deref().unwrap_or(host);
        let ca = self.ca.read().await?;
        if !ca.windows(BEGIN.len()).any(|bytes| bytes == BEGIN) {
            // tonic would trust nobody, and not say why.
            return Err(format!("{:?}: no certificate in PEM", self.ca));
        }
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(ca))
            .domain_name(name);
        if let Some((certificate, key)) = &self.client {
            tls = tls.identity(Identity::from_pem(
                certificate.read().await?,
                key.read().await?,
            ));
        }
        Ok(tls)
    }
}

#[cfg(feature = "tls")]
const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// A bearer token: who the process is, to a server that asks for it. Without
/// TLS whoever sees the connection's bytes can read it.
#[derive(Clone, Debug)]
pub struct Token(Source);

impl Token {
    /// The token that this file holds; white space around it is no part of it.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Source::File(path.into()))
    }

    /// The token itself.
    #[must_use]
    pub fn text(token: &str) -> Self {
        Self(Source::Bytes(token.as_bytes().to_vec()))
    }

    /// The `authorization` that it is sent as.
    ///
    /// # Errors
    /// The file cannot be read, or what it holds is no token; the text does
    /// not quote it.
    pub async fn authorization(&self) -> Result<MetadataValue<Ascii>, String> {
        let token = self.0.read().await?;
        let token = token.trim_ascii();
        let mut value = if token.is_empty() {
            Err(format!("{:?}: the token is empty", self.0))
        } else {
            MetadataValue::try_from([b"Bearer ", token].concat())
                .map_err(|_| format!("{:?}: a token has no control characters", self.0))
        }?;
        // Nor does anything else show it.
        value.set_sensitive(true);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_is_sent_as_it_is_and_never_shown() {
        let token = Token::text(" swordfish\n");
        let value = token.authorization().await.unwrap();
        assert_eq!(value.to_str().unwrap(), "Bearer swordfish");
        assert!(!format!("{token:?} {value:?}").contains("swordfish"));
        for bad in ["", "\n", "sword\nfish", "sword\0fish"] {
            let error = Token::text(bad).authorization().await.unwrap_err();
            assert!(!error.contains("fish"), "{error}");
        }
        let missing = Token::file("/nowhere/token");
        let error = missing.authorization().await.unwrap_err();
        assert!(error.contains("/nowhere/token"), "{error}");
    }

    #[cfg(feature = "tls")]
    #[tokio::test]
    async fn what_is_no_authority_is_said() {
        let error = Tls::ca_pem("nonsense").read("host").await.unwrap_err();
        assert!(error.contains("no certificate"), "{error}");
        let error = Tls::ca_file("/nowhere/ca").read("host").await.unwrap_err();
        assert!(error.contains("/nowhere/ca"), "{error}");
    }
}
