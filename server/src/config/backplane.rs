//! Settings of the backplane: the link to the other replicas.

use std::path::PathBuf;
use std::time::Duration;

use super::check::{bytes, within};
use super::{Config, InvalidConfig};
use crate::fleet::RESERVED;
use crate::reload::File;
use crate::units::{duration, size};

/// The link to other replicas. Files are read again at each connect.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[non_exhaustive]
pub struct BackplaneConfig {
    /// NATS servers that connect the replicas: nats://HOST:PORT or tls://HOST:PORT, separated by commas; none: there is one replica
    #[arg(
        help_heading = "Replicas",
        long,
        value_name = "URLS",
        value_delimiter = ',',
        env = "PERSIST_PUBSUB_BACKPLANE"
    )]
    pub backplane: Vec<String>,
    /// What the subjects begin with: replicas with another one hear nothing of these
    #[arg(
        help_heading = "Replicas",
        long,
        value_name = "NAME",
        env = "PERSIST_PUBSUB_BACKPLANE_PREFIX",
        default_value = "persist-pubsub"
    )]
    pub backplane_prefix: String,
    /// Credentials for NATS: a JWT and its seed, as nsc writes them
    #[arg(
        help_heading = "Replicas",
        long,
        value_name = "PATH",
        env = "PERSIST_PUBSUB_BACKPLANE_CREDENTIALS_FILE"
    )]
    pub backplane_credentials_file: Option<PathBuf>,
    /// Or the seed of an nkey
    #[arg(
        help_heading = "Replicas",
        long,
        value_name = "PATH",
        env = "PERSIST_PUBSUB_BACKPLANE_NKEY_FILE"
    )]
    pub backplane_nkey_file: Option<PathBuf>,
    /// Or a user, with --backplane-password-file
    #[arg(
        help_heading = "Replicas",
        long,
        value_name = "NAME",
        env = "PERSIST_PUBSUB_BACKPLANE_USER"
    )]
    pub backplane_user: Option<String>,
    /// The user's password
    #[arg(
        help_heading = "Replicas",
        long,
        value_name = "PATH",
        env = "PERSIST_PUBSUB_BACKPLANE_PASSWORD_FILE"
    )]
    pub backplane_password_file: Option<PathBuf>,
    /// Or a token
    #[arg(
        help_heading = "Replicas",
        long,
        value_name = "PATH",
        env = "PERSIST_PUBSUB_BACKPLANE_TOKEN_FILE"
    )]
    pub backplane_token_file: Option<PathBuf>,
    /// Authorities of the NATS servers' certificates; none: the system's
    #[arg(
        help_heading = "Replicas",
        long,
        value_name = "PATH",
        env = "PERSIST_PUBSUB_BACKPLANE_TLS_CA"
    )]
    pub backplane_tls_ca: Option<PathBuf>,
    /// Certificate chain shown to the NATS servers
    #[arg(
        help_heading = "Replicas",
        long,
        value_name = "PATH",
        env = "PERSIST_PUBSUB_BACKPLANE_TLS_CERT"
    )]
    pub backplane_tls_cert: Option<PathBuf>,
    /// Its private key
    #[arg(
        help_heading = "Replicas",
        long,
        value_name = "PATH",
        env = "PERSIST_PUBSUB_BACKPLANE_TLS_KEY"
    )]
    pub backplane_tls_key: Option<PathBuf>,
    /// How long a subscription waits for what the other replicas have of its shard
    #[arg(help_heading = "Replicas", long, value_name = "DURATION", value_parser = duration, env = "PERSIST_PUBSUB_BACKPLANE_JOIN_TIMEOUT", default_value = "1s")]
    pub backplane_join_timeout: Duration,
    /// How long a shard is still taken from NATS when its last subscriber has gone
    #[arg(help_heading = "Replicas", long, value_name = "DURATION", value_parser = duration, env = "PERSIST_PUBSUB_BACKPLANE_LINGER", default_value = "30s")]
    pub backplane_linger: Duration,
    /// Diffs that wait to be forwarded; of one more the other replicas are only told that it was there
    #[arg(help_heading = "Replicas", long, value_name = "SIZE", value_parser = size, env = "PERSIST_PUBSUB_BACKPLANE_QUEUE_BYTES", default_value = "64MiB")]
    pub backplane_queue_bytes: usize,
    /// Over how long it is spread to ask for what NATS may have lost
    #[arg(help_heading = "Replicas", long, value_name = "DURATION", value_parser = duration, env = "PERSIST_PUBSUB_BACKPLANE_RESYNC_WINDOW", default_value = "2s")]
    pub backplane_resync_window: Duration,
    /// This replica's name, for people; none: the host's
    #[arg(
        help_heading = "Replicas",
        long,
        value_name = "NAME",
        env = "PERSIST_PUBSUB_REPLICA_NAME"
    )]
    pub replica_name: Option<String>,
    /// How often sessions are moved to replicas that have fewer; 0s: never
    #[arg(help_heading = "Replicas", long, value_name = "DURATION", value_parser = duration, env = "PERSIST_PUBSUB_REBALANCE_INTERVAL", default_value = "10s")]
    pub rebalance_interval: Duration,
}

/// How the server says to NATS who it is.
#[derive(Clone, Debug)]
pub(crate) enum Login {
    Nobody,
    Credentials(File),
    Nkey(File),
    User(String, File),
    Token(File),
}

impl BackplaneConfig {
    pub(super) fn validate(&self) -> Result<(), InvalidConfig> {
        self.servers()?;
        self.login()?;
        self.tls_files()?;
        let names = [
            ("--backplane-prefix", &self.backplane_prefix, 64),
            (
                "--replica-name",
                self.replica_name.as_ref().unwrap_or(&self.backplane_prefix),
                256,
            ),
        ];
        for (flag, name, most) in names {
            let printable = |b: u8| b.is_ascii_graphic();
            if name.is_empty() || name.len() > most || !name.bytes().all(printable) {
                return Err(InvalidConfig {
                    flag,
                    value: name.escape_debug().to_string(),
                    allowed: format!("1 to {most} printable ASCII characters without spaces"),
                });
            }
        }
        let name = self.replica_name.as_deref().unwrap_or_default();
        if RESERVED.contains(&name) {
            return Err(InvalidConfig {
                flag: "--replica-name",
                value: name.to_owned(),
                allowed: format!(
                    "'{}' mean something else to operators' commands",
                    RESERVED.join("' and '")
                ),
            });
        }
        let in_subjects = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let prefix = &self.backplane_prefix;
        if !prefix.chars().all(in_subjects) || prefix.split('.').any(str::is_empty) {
            return Err(InvalidConfig {
                flag: "--backplane-prefix",
                value: prefix.clone(),
                allowed: "letters, digits, '-' and '_', in words that are separated by dots"
                    .to_owned(),
            });
        }
        let (ms, secs) = (Duration::from_millis, Duration::from_secs);
        let (join, linger) = (self.backplane_join_timeout, self.backplane_linger);
        within("--backplane-join-timeout", join, ms(10), secs(60))?;
        within("--backplane-linger", linger, secs(1), secs(3600))?;
        let window = self.backplane_resync_window;
        within("--backplane-resync-window", window, ms(0), secs(600))?;
        let rebalance = self.rebalance_interval;
        if !rebalance.is_zero() {
            within("--rebalance-interval", rebalance, secs(1), secs(3600))?;
        }
        let queue = self.backplane_queue_bytes;
        bytes("--backplane-queue-bytes", queue, 64 * 1024, 1 << 36)?;
        self.needs_backplane()
    }

    /// What means nothing without a backplane is a mistake there.
    fn needs_backplane(&self) -> Result<(), InvalidConfig> {
        if self.is_wanted() {
            return Ok(());
        }
        let path = |path: &Option<PathBuf>| path.as_ref().map(|p| p.display().to_string());
        let given = [
            (
                "--backplane-credentials-file",
                path(&self.backplane_credentials_file),
            ),
            ("--backplane-nkey-file", path(&self.backplane_nkey_file)),
            ("--backplane-user", self.backplane_user.clone()),
            ("--backplane-token-file", path(&self.backplane_token_file)),
            ("--backplane-tls-ca", path(&self.backplane_tls_ca)),
            ("--backplane-tls-cert", path(&self.backplane_tls_cert)),
        ];
        given.into_iter().try_for_each(|(flag, value)| match value {
            None => Ok(()),
            Some(value) => Err(InvalidConfig {
                flag,
                value,
                allowed: "needs --backplane beside it".to_owned(),
            }),
        })
    }

    /// Whether there is to be a backplane.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.backplane.is_empty()
    }

    /// The NATS servers.
    pub(crate) fn servers(&self) -> Result<Vec<async_nats::ServerAddr>, InvalidConfig> {
        let invalid = |url: &str, allowed: String| InvalidConfig {
            flag: "--backplane",
            // Others may read the log.
            value: if url.contains('@') {
                "(not shown)"
            } else {
                url
            }
            .to_owned(),
            allowed,
        };
        let servers = self.backplane.iter().map(|url| {
            let address: async_nats::ServerAddr = url
                .parse()
                .map_err(|e: std::io::Error| invalid(url, format!("{e}; {REACHED_BY}")))?;
            if !matches!(address.scheme(), "nats" | "tls") || address.host().is_empty() {
                return Err(invalid(url, REACHED_BY.to_owned()));
            }
            if address.has_user_pass() || address.password().is_some() {
                return Err(invalid(
                    url,
                    "a user or a token stands in a file: --backplane-user with --backplane-password-file, --backplane-token-file".to_owned(),
                ));
            }
            Ok(address)
        });
        servers.collect()
    }

    /// How the server says who it is.
    pub(crate) fn login(&self) -> Result<Login, InvalidConfig> {
        let file = |flag, path: &Option<PathBuf>| path.clone().map(|path| File::new(flag, path));
        let credentials = file(
            "--backplane-credentials-file",
            &self.backplane_credentials_file,
        )
        .map(Login::Credentials);
        let nkey = file("--backplane-nkey-file", &self.backplane_nkey_file).map(Login::Nkey);
        let token = file("--backplane-token-file", &self.backplane_token_file).map(Login::Token);
        let password = file("--backplane-password-file", &self.backplane_password_file);
        let user = match (&self.backplane_user, password) {
            (None, None) => None,
            (Some(name), Some(file)) => Some(Login::User(name.clone(), file)),
            (Some(name), None) => {
                return Err(InvalidConfig {
                    flag: "--backplane-user",
                    value: name.clone(),
                    allowed: "needs --backplane-password-file beside it".to_owned(),
                });
            }
            (None, Some(file)) => return Err(file.invalid("needs --backplane-user beside it")),
        };
        let mut given = [credentials, nkey, user, token].into_iter().flatten();
        let first = given.next().unwrap_or(Login::Nobody);
        match given.next() {
            None => Ok(first),
            Some(second) => {
                let name = |login: &Login| match login {
                    Login::Nobody => "",
                    Login::User(..) => "--backplane-user",
                    Login::Credentials(file) | Login::Nkey(file) | Login::Token(file) => file.flag,
                };
                Err(InvalidConfig {
                    flag: name(&second),
                    value: "(given)".to_owned(),
                    allowed: format!("one way to log in, and {} is there too", name(&first)),
                })
            }
        }
    }

    /// Authorities, and certificate with key.
    pub(crate) fn tls_files(&self) -> Result<(Option<File>, Option<(File, File)>), InvalidConfig> {
        let file = |flag, path: &Option<PathBuf>| path.clone().map(|path| File::new(flag, path));
        let ca = file("--backplane-tls-ca", &self.backplane_tls_ca);
        let certificate = file("--backplane-tls-cert", &self.backplane_tls_cert);
        let key = file("--backplane-tls-key", &self.backplane_tls_key);
        match (certificate, key) {
            (None, None) => Ok((ca, None)),
            (Some(certificate), Some(key)) => Ok((ca, Some((certificate, key)))),
            (Some(file), None) => Err(file.invalid("needs --backplane-tls-key beside it")),
            (None, Some(file)) => Err(file.invalid("needs --backplane-tls-cert beside it")),
        }
    }
}

const REACHED_BY: &str = "a NATS server is named by nats://HOST:PORT or tls://HOST:PORT";

impl Config {
    /// This replica's name: as given, or the host's.
    pub(crate) fn replica_name(&self) -> String {
        let given = self.backplane.replica_name.clone();
        given.unwrap_or_else(|| {
            let host = rustix::system::uname();
            host.nodename().to_string_lossy().into_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(change: impl FnOnce(&mut BackplaneConfig)) -> String {
        let mut config = Config::default();
        change(&mut config.backplane);
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_be_is_said() {
        let error_of = |url: &str| error(|c| c.backplane = vec![url.to_owned()]);
        assert_eq!(
            error_of("http://nats:4222"),
            "invalid value 'http://nats:4222' for '--backplane': invalid scheme for NATS server URL: http; a NATS server is named by nats://HOST:PORT or tls://HOST:PORT"
        );
        assert!(!error_of("nats://me:secret@nats:4222").contains("secret"));
        let user = error(|c| c.backplane_user = Some("me".to_owned()));
        assert!(
            user.ends_with("needs --backplane-password-file beside it"),
            "{user}"
        );
        let lonely = error(|c| c.backplane_token_file = Some("/token".into()));
        assert!(lonely.ends_with("needs --backplane beside it"), "{lonely}");
        let lonely = error(|c| c.backplane_tls_ca = Some("/ca".into()));
        assert!(lonely.ends_with("needs --backplane beside it"), "{lonely}");
        let two = error(|c| {
            c.backplane_token_file = Some("/token".into());
            c.backplane_nkey_file = Some("/nkey".into());
        });
        assert!(two.contains("--backplane-nkey-file is there too"), "{two}");
        let prefix = error(|c| c.backplane_prefix = "a.>".to_owned());
        assert!(
            prefix.contains("'a.>' for '--backplane-prefix'"),
            "{prefix}"
        );
        let name = error(|c| c.replica_name = Some("all".to_owned()));
        assert!(name.contains("'all' for '--replica-name'"), "{name}");
        let prefix = error(|c| c.backplane_prefix = "a..b".to_owned());
        assert!(prefix.contains("separated by dots"), "{prefix}");
    }

    #[test]
    fn several_servers_may_be_named() {
        let mut config = Config::default();
        config.backplane.backplane = vec!["nats://a:4222".into(), "tls://b".into()];
        assert_eq!(config.validate(), Ok(()));
        assert_eq!(config.backplane.servers().unwrap().len(), 2);
    }
}
