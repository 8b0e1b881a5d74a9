//! Settings of who gets in.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use super::check::{bytes, range, within};
use super::{Config, InvalidConfig};
use crate::access::IdentityLimits;
use crate::reload::File;
use crate::tls::{Flags, TlsFiles};
use crate::units::{duration, size};

const DATA: Flags = Flags {
    certificate: "--tls-cert",
    key: "--tls-key",
    client_ca: "--tls-client-ca",
    allowed_names: "--tls-allowed-names",
};
const ADMIN: Flags = Flags {
    certificate: "--admin-tls-cert",
    key: "--admin-tls-key",
    client_ca: "--admin-tls-client-ca",
    allowed_names: "--admin-tls-allowed-names",
};

/// Who gets in, and how much each may take. Files are PEM, but for the tokens'.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[non_exhaustive]
pub struct AccessConfig {
    /// Certificate chain of the data port, which then speaks TLS
    #[arg(
        help_heading = "Who gets in",
        long,
        value_name = "PATH",
        env = "PERSIST_PUBSUB_TLS_CERT"
    )]
    pub tls_cert: Option<PathBuf>,
    /// Its private key
    #[arg(
        help_heading = "Who gets in",
        long,
        value_name = "PATH",
        env = "PERSIST_PUBSUB_TLS_KEY"
    )]
    pub tls_key: Option<PathBuf>,
    /// Authorities of client certificates, which are then required
    #[arg(
        help_heading = "Who gets in",
        long,
        value_name = "PATH",
        env = "PERSIST_PUBSUB_TLS_CLIENT_CA"
    )]
    pub tls_client_ca: Option<PathBuf>,
    /// Names of which a client certificate has to have one: DNS names and URIs (SPIFFE ids), exactly; none: any name
    #[arg(
        help_heading = "Who gets in",
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        env = "PERSIST_PUBSUB_TLS_ALLOWED_NAMES"
    )]
    pub tls_allowed_names: Vec<String>,
    /// Address of a second data port without TLS, for processes that have none; none if not given
    #[arg(
        help_heading = "Who gets in",
        long,
        value_name = "IP:PORT",
        env = "PERSIST_PUBSUB_LISTEN_PLAINTEXT"
    )]
    pub listen_plaintext: Option<SocketAddr>,
    /// As --tls-cert, of the operators' port
    #[arg(
        help_heading = "Who gets in",
        long,
        value_name = "PATH",
        env = "PERSIST_PUBSUB_ADMIN_TLS_CERT"
    )]
    pub admin_tls_cert: Option<PathBuf>,
    /// As --tls-key
    #[arg(
        help_heading = "Who gets in",
        long,
        value_name = "PATH",
        env = "PERSIST_PUBSUB_ADMIN_TLS_KEY"
    )]
    pub admin_tls_key: Option<PathBuf>,
    /// As --tls-client-ca
    #[arg(
        help_heading = "Who gets in",
        long,
        value_name = "PATH",
        env = "PERSIST_PUBSUB_ADMIN_TLS_CLIENT_CA"
    )]
    pub admin_tls_client_ca: Option<PathBuf>,
    /// As --tls-allowed-names
    #[arg(
        help_heading = "Who gets in",
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        env = "PERSIST_PUBSUB_ADMIN_TLS_ALLOWED_NAMES"
    )]
    pub admin_tls_allowed_names: Vec<String>,
    /// Identities (TOML): by which token or certificate each is known, its environment, its rights; none: everybody may do everything
    #[arg(
        help_heading = "Who gets in",
        long,
        value_name = "PATH",
        env = "PERSIST_PUBSUB_TOKENS_FILE"
    )]
    pub tokens_file: Option<PathBuf>,
    /// How often the files of certificates and identities are looked at
    #[arg(help_heading = "Who gets in", long, value_name = "DURATION", value_parser = duration, env = "PERSIST_PUBSUB_RELOAD_INTERVAL", default_value = "5s")]
    pub reload_interval: Duration,

    /// Sessions of one identity, or of one address where there are none; no limit if not given
    #[arg(
        help_heading = "Limits of an identity",
        long,
        value_name = "COUNT",
        env = "PERSIST_PUBSUB_MAX_SESSIONS_PER_IDENTITY"
    )]
    pub max_sessions_per_identity: Option<usize>,
    /// Its subscriptions
    #[arg(
        help_heading = "Limits of an identity",
        long,
        value_name = "COUNT",
        env = "PERSIST_PUBSUB_MAX_SUBSCRIPTIONS_PER_IDENTITY"
    )]
    pub max_subscriptions_per_identity: Option<usize>,
    /// What it publishes; more is refused (v1) or read slower (v0)
    #[arg(
        help_heading = "Limits of an identity",
        long,
        value_name = "COUNT",
        env = "PERSIST_PUBSUB_MAX_PUBLISHES_PER_SECOND"
    )]
    pub max_publishes_per_second: Option<u32>,
    /// The bytes of that
    #[arg(help_heading = "Limits of an identity", long, value_name = "SIZE", value_parser = size, env = "PERSIST_PUBSUB_MAX_PUBLISH_BYTES_PER_SECOND")]
    pub max_publish_bytes_per_second: Option<usize>,
}

impl AccessConfig {
    pub(super) fn validate(&self) -> Result<(), InvalidConfig> {
        let tls = self.tls()?;
        self.admin_tls()?;
        if let (Some(address), None) = (self.listen_plaintext, tls) {
            return Err(InvalidConfig {
                flag: "--listen-plaintext",
                value: address.to_string(),
                allowed: "needs --tls-cert beside it: without TLS, --listen is plaintext"
                    .to_owned(),
            });
        }
        let (ms, hour) = (Duration::from_millis(10), Duration::from_secs(3600));
        within("--reload-interval", self.reload_interval, ms, hour)?;
        let counts = [
            (
                "--max-sessions-per-identity",
                self.max_sessions_per_identity,
            ),
            (
                "--max-subscriptions-per-identity",
                self.max_subscriptions_per_identity,
            ),
            (
                "--max-publishes-per-second",
                self.max_publishes_per_second.map(|n| n as usize),
            ),
        ];
        for (flag, count) in counts {
            if let Some(count) = count {
                range(flag, count as u64, 1, 1 << 30)?;
            }
        }
        if let Some(size) = self.max_publish_bytes_per_second {
            bytes("--max-publish-bytes-per-second", size, 1024, 1 << 31)?;
        }
        Ok(())
    }

    /// None: the data port speaks no TLS.
    pub(crate) fn tls(&self) -> Result<Option<TlsFiles>, InvalidConfig> {
        TlsFiles::new(
            DATA,
            self.tls_cert.as_ref(),
            self.tls_key.as_ref(),
            self.tls_client_ca.as_ref(),
            &self.tls_allowed_names,
            &[b"h2"],
        )
    }

    /// None: the operators' port speaks no TLS.
    pub(crate) fn admin_tls(&self) -> Result<Option<TlsFiles>, InvalidConfig> {
        TlsFiles::new(
            ADMIN,
            self.admin_tls_cert.as_ref(),
            self.admin_tls_key.as_ref(),
            self.admin_tls_client_ca.as_ref(),
            &self.admin_tls_allowed_names,
            &[b"h2", b"http/1.1"],
        )
    }

    /// Whether everybody gets in who reaches a port, without TLS.
    pub(crate) fn is_open(&self) -> bool {
        self.tls_cert.is_none() && self.admin_tls_cert.is_none() && self.tokens_file.is_none()
    }

    /// Whether a token may pass where others can read it.
    pub(crate) fn shows_tokens(&self) -> bool {
        self.tokens_file.is_some() && (self.tls_cert.is_none() || self.admin_tls_cert.is_none())
    }

    pub(crate) fn tokens(&self) -> Option<File> {
        let path = self.tokens_file.clone()?;
        Some(File::new("--tokens-file", path))
    }
}

impl Config {
    pub(crate) fn identity_limits(&self) -> IdentityLimits {
        let access = &self.access;
        let bytes = access.max_publish_bytes_per_second;
        IdentityLimits {
            sessions: access.max_sessions_per_identity,
            subscriptions: access.max_subscriptions_per_identity,
            publishes_per_second: access.max_publishes_per_second.and_then(NonZeroU32::new),
            // At most 2 GiB, by `validate`.
            bytes_per_second: bytes
                .and_then(|n| NonZeroU32::new(u32::try_from(n).unwrap_or(u32::MAX))),
            largest: self.max_message_bytes,
        }
    }
}
