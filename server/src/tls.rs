//! Certificates: what a port proves to be, and whom it takes for whom.
//!
//! Made of files, and made anew when they change: connections that begin
//! afterwards meet the new ones, and those that are open stay.

mod certificate;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use prometheus::IntGauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::{Acceptor, NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::{
    self, CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
};
use tokio_rustls::server::TlsStream;

use crate::clock::{self, Clock};
use crate::config::InvalidConfig;
use crate::reload::{Contents, File, Reload, read};

pub(crate) use certificate::names;

/// The flags of one port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flags {
    pub(crate) certificate: &'static str,
    pub(crate) key: &'static str,
    pub(crate) client_ca: &'static str,
    pub(crate) allowed_names: &'static str,
}

/// What a port is told of TLS.
#[derive(Clone, Debug)]
pub(crate) struct TlsFiles {
    certificate: File,
    key: File,
    client_ca: Option<File>,
    /// Of client certificates, those with one of these names; empty: all that
    /// the authority vouches for.
    allowed_names: Arc<[String]>,
    /// Protocols that the port speaks, the preferred one first.
    protocols: &'static [&'static [u8]],
}

impl TlsFiles {
    /// None: the port speaks no TLS.
    pub(crate) fn new(
        flags: Flags,
        certificate: Option<&PathBuf>,
        key: Option<&PathBuf>,
        client_ca: Option<&PathBuf>,
        allowed_names: &[String],
        protocols: &'static [&'static [u8]],
    ) -> Result<Option<Self>, InvalidConfig> {
        let lacks = |flag, value: &PathBuf, other: &str| InvalidConfig {
            flag,
            value: value.display().to_string(),
            allowed: format!("needs {other} beside it"),
        };
        let (certificate, key) = match (certificate, key) {
            (Some(certificate), Some(key)) => (certificate, key),
            (Some(path), None) => return Err(lacks(flags.certificate, path, flags.key)),
            (None, Some(path)) => return Err(lacks(flags.key, path, flags.certificate)),
            (None, None) => {
                return match client_ca {
                    Some(path) => Err(lacks(flags.client_ca, path, flags.certificate)),
                    None => Self::no_names(flags, allowed_names).map(|()| None),
                };
            }
        };
        if client_ca.is_none() {
            Self::no_names(flags, allowed_names)?;
        }
        if let Some(name) = allowed_names.iter().find(|name| name.is_empty()) {
            return Err(InvalidConfig {
                flag: flags.allowed_names,
                value: name.clone(),
                allowed: "DNS names and URIs of at least one character, separated by commas"
                    .to_owned(),
            });
        }
        Ok(Some(Self {
            certificate: File::new(flags.certificate, certificate.clone()),
            key: File::new(flags.key, key.clone()),
            client_ca: client_ca.map(|path| File::new(flags.client_ca, path.clone())),
            allowed_names: allowed_names.into(),
            protocols,
        }))
    }

    fn no_names(flags: Flags, names: &[String]) -> Result<(), InvalidConfig> {
        if names.is_empty() {
            return Ok(());
        }
        Err(InvalidConfig {
            flag: flags.allowed_names,
            value: names.join(","),
            allowed: format!("needs {} beside it", flags.client_ca),
        })
    }

    fn files(&self) -> Vec<File> {
        let always = [&self.certificate, &self.key];
        always.into_iter().chain(&self.client_ca).cloned().collect()
    }

    /// Says so of a certificate that cannot be of use any more: it is taken all
    /// the same, and whoever looks at it goes away.
    fn warn_if_expired(&self, expiry: i64) {
        // As TLS itself has it.
        let now = clock::timestamp(Clock::system().now()).seconds;
        if expiry <= now {
            let File { flag, path } = &self.certificate;
            tracing::warn!(
                flag,
                file = %path.display(),
                seconds_ago = now - expiry,
                "the certificate has expired: clients refuse it"
            );
        }
    }

    /// The settings for new connections, and when the first certificate of the
    /// chain expires, in seconds since the Unix epoch.
    fn settings(&self, contents: &Contents) -> Result<(ServerConfig, i64), InvalidConfig> {
        let mut contents = contents.iter().map(Vec::as_slice);
        let mut next = || contents.next().unwrap_or_default();
        let chain = certificates(&self.certificate, next())?;
        let mut expiry = i64::MAX;
        for certificate in &chain {
            let end = certificate::expiry(certificate).map_err(|why| {
                self.certificate
                    .invalid(format!("holds a certificate that is none: {why}"))
            })?;
            expiry = expiry.min(end);
        }
        let key = PrivateKeyDer::from_pem_slice(next()).map_err(|_| {
            self.key
                .invalid("holds no private key in PEM (PKCS #8, PKCS #1 or SEC 1)")
        })?;
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| self.certificate.invalid(e.to_string()))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(file, next())? {
                    roots.add(authority).map_err(|e| {
                        file.invalid(format!("holds a certificate that is no authority's: {e}"))
                    })?;
                }
                let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|e| file.invalid(e.to_string()))?;
                builder.with_client_cert_verifier(Arc::new(Named {
                    inner,
                    allowed: Arc::clone(&self.allowed_names),
                }))
            }
        };
        let mut settings = builder.with_single_cert(chain, key).map_err(|e| match e {
            rustls::Error::InconsistentKeys(_) => self.key.invalid(format!(
                "is not the key of the first certificate in {} ({})",
                self.certificate.path.display(),
                self.certificate.flag
            )),
            e => self.key.invalid(format!("cannot be used: {e}")),
        })?;
        settings.alpn_protocols = self.protocols.iter().map(|p| p.to_vec()).collect();
        // A resumed session is one whose client's certificate is not looked at
        // again, and connections are few and long.
        settings.session_storage = Arc::new(NoServerSessionStorage {});
        settings.send_tls13_tickets = 0;
        Ok((settings, expiry))
    }
}

fn certificates(file: &File, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, InvalidConfig> {
    let all = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| file.invalid(format!("is not PEM: {e}")))?;
    if all.is_empty() {
        return Err(file.invalid("holds no certificate in PEM"));
    }
    Ok(all)
}

/// A port's TLS.
pub(crate) struct Tls {
    files: TlsFiles,
    current: RwLock<Arc<ServerConfig>>,
    /// Seconds since the Unix epoch.
    expiry: IntGauge,
}

impl Tls {
    /// Reads the files. Gives what they hold too, to be watched.
    pub(crate) fn new(
        files: TlsFiles,
        expiry: IntGauge,
    ) -> Result<(Arc<Self>, Contents), InvalidConfig> {
        let contents = read(&files.files())?;
        let (settings, seconds) = files.settings(&contents)?;
        expiry.set(seconds);
        files.warn_if_expired(seconds);
        let tls = Self {
            files,
            current: RwLock::new(Arc::new(settings)),
            expiry,
        };
        Ok((Arc::new(tls), contents))
    }

    /// Speaks TLS on one connection that begins now. None: it was closed before
    /// it had said anything whole, as by a probe of the port, which fails nobody.
    pub(crate) async fn accept<Io>(&self, io: Io) -> io::Result<Option<TlsStream<Io>>>
    where
        Io: AsyncRead + AsyncWrite + Unpin,
    {
        let greeted = match LazyConfigAcceptor::new(Acceptor::default(), io).await {
            Ok(greeted) => greeted,
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Ok(None),
                    _ => Err(error),
                };
            }
        };
        let current = {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(&current)
        };
        greeted.into_stream(current).await.map(Some)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl Reload for Tls {
    fn files(&self) -> Vec<File> {
        self.files.files()
    }

    fn reload(&self, contents: &Contents) -> Result<(), InvalidConfig> {
        let (settings, expiry) = self.files.settings(contents)?;
        self.expiry.set(expiry);
        self.files.warn_if_expired(expiry);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        Ok(())
    }
}

/// Takes the certificates that an authority vouches for and that have one of
/// the names. The client is told of a refusal by TLS itself.
#[derive(Debug)]
struct Named {
    inner: Arc<dyn ClientCertVerifier>,
    allowed: Arc<[String]>,
}

impl ClientCertVerifier for Named {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self
            .inner
            .verify_client_cert(end_entity, intermediates, now)?;
        if self.allowed.is_empty() || names(end_entity).iter().any(|n| self.allowed.contains(n)) {
            return Ok(verified);
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
