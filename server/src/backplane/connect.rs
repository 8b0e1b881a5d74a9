//! The connection to NATS: who the server is, and what is wrong when it does
//! not come about.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::time::Duration;

use async_nats::{Auth, AuthError, Client, ConnectError, ConnectErrorKind, ConnectOptions, Event};
use async_nats::{ServerAddr, ServerError, rustls};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::SelectAll;
use tokio::sync::mpsc;

use super::subjects::Subjects;
use crate::config::{BackplaneConfig, InvalidConfig, Login};
use crate::reload::File;

/// How long one attempt to connect may take.
const CONNECT: Duration = Duration::from_secs(2);
/// How often the NATS server is asked whether it lives; it is given up at the
/// third answer that does not come.
const PING: Duration = Duration::from_secs(1);
/// How long the start waits for NATS, before it goes on without.
const START: Duration = Duration::from_secs(5);
/// Messages of one subscription that wait to be read; with more, what comes is
/// dropped and asked for. A moment of a busy shard.
const SUBSCRIPTION_MESSAGES: usize = 16_384;
/// Commands that wait for the connection's task.
const COMMANDS: usize = 1024;

/// Why there can be no backplane as it was asked for. A retry cannot help.
#[derive(Debug, thiserror::Error)]
pub enum BackplaneError {
    /// NATS knows nobody of that name or secret.
    #[error("NATS (--backplane {servers}) does not let the server in with {login}: {what}")]
    Login {
        /// `--backplane`.
        servers: String,
        /// The flags that say who the server is.
        login: String,
        /// What NATS or the library says.
        what: String,
    },
    /// No TLS between the two: a certificate that one of them does not take.
    #[error(
        "no TLS with NATS (--backplane {servers}): {what} (--backplane-tls-ca, --backplane-tls-cert, and the certificate of the NATS server)"
    )]
    Tls {
        /// `--backplane`.
        servers: String,
        /// What is wrong.
        what: String,
    },
    /// The NATS account lacks a permission.
    #[error(
        "NATS (--backplane {servers}) denies what replicas need: {what}; the account has to publish and subscribe on '{subjects}'"
    )]
    Denied {
        /// `--backplane`.
        servers: String,
        /// What NATS says.
        what: String,
        /// What the account needs.
        subjects: String,
    },
}

/// Why there is no connection now.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It will never come as things are.
    Wrong(BackplaneError),
    /// NATS is not there, or slow. It may come.
    Away(String),
}

/// How NATS is reached.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    servers: Vec<ServerAddr>,
    login: Login,
    ca: Option<File>,
    certificate: Option<(File, File)>,
    /// As NATS lists the connection.
    name: String,
}

impl Reach {
    /// Reads the files once, so that what is wrong with them names the flag.
    pub(super) fn new(config: &BackplaneConfig, name: &str) -> Result<Self, InvalidConfig> {
        let (ca, certificate) = config.tls_files()?;
        let reach = Self {
            servers: config.servers()?,
            login: config.login()?,
            ca,
            certificate,
            name: format!("persist-pubsub {name}"),
        };
        authenticate(&reach.login, b"any")?;
        let certificate = reach.certificate.iter().flat_map(|(cert, key)| [cert, key]);
        for file in reach.ca.iter().chain(certificate) {
            file.read()?;
        }
        Ok(reach)
    }

    fn servers(&self) -> String {
        let servers = self.servers.iter().map(|server| {
            let (scheme, host, port) = (server.scheme(), server.host(), server.port());
            format!("{scheme}://{host}:{port}")
        });
        servers.collect::<Vec<_>>().join(",")
    }

    fn options(&self) -> ConnectOptions {
        let options = match &self.login {
            Login::Nobody => ConnectOptions::new(),
            login => {
                let login = login.clone();
                ConnectOptions::with_auth_callback(move |nonce| {
                    let login = login.clone();
                    async move {
                        let read = move || authenticate(&login, &nonce);
                        let auth = tokio::task::spawn_blocking(read).await;
                        auth.map_err(AuthError::new)?.map_err(AuthError::new)
                    }
                })
            }
        };
        let mut options = options
            .name(&self.name)
            .connection_timeout(CONNECT)
            .ping_interval(PING)
            .subscription_capacity(SUBSCRIPTION_MESSAGES)
            .client_capacity(COMMANDS);
        if let Some(ca) = &self.ca {
            options = options.add_root_certificates(ca.path.clone());
        }
        if let Some((certificate, key)) = &self.certificate {
            options = options.add_client_certificate(certificate.path.clone(), key.path.clone());
        }
        options
    }

    /// Connects now or later, and again whenever the connection is lost.
    pub(super) async fn connect(
        &self,
        inbox: String,
        events: impl Fn(Event) + Send + Sync + 'static,
    ) -> Result<Client, String> {
        let options = self
            .options()
            .no_echo()
            .custom_inbox_prefix(inbox)
            .retry_on_initial_connect()
            .event_callback(move |event| {
                events(event);
                std::future::ready(())
            });
        options
            .connect(&self.servers[..])
            .await
            .map_err(|e| e.to_string())
    }

    /// Tries whether NATS lets the server in, and permits what it needs: on a
    /// connection of its own, which hears what it says itself.
    pub(super) async fn try_out(&self, subjects: &Subjects, needs: &str) -> Result<(), Trouble> {
        let trial = tokio::time::timeout(START, self.trial(subjects, needs)).await;
        trial.unwrap_or_else(|_| {
            let why = format!("no answer within {} s", START.as_secs());
            Err(Trouble::Away(why))
        })
    }

    async fn trial(&self, subjects: &Subjects, needs: &str) -> Result<(), Trouble> {
        let (denied, mut denials) = mpsc::channel(8);
        let options = self.options().event_callback(move |event| {
            if let Event::ServerError(error) = event {
                // The first ones tell.
                let _ = denied.try_send(error);
            }
            std::future::ready(())
        });
        let client = options.connect(&self.servers[..]).await;
        let client = client.map_err(|e| self.trouble(&e))?;
        let gone = |e: &dyn fmt::Display| Trouble::Away(e.to_string());
        let mut echoes = SelectAll::new();
        let probes = subjects.probes();
        for (_, subject) in &probes {
            let heard = client.subscribe(subject.clone()).await;
            let heard = heard.map_err(|e| gone(&e))?;
            let subject = subject.clone();
            echoes.push(heard.map(move |message| (subject.clone(), message)));
        }
        for (_, subject) in &probes {
            let said = client.publish(subject.clone(), Bytes::new()).await;
            said.map_err(|e| gone(&e))?;
        }
        let mut missing: Vec<_> = probes.into_iter().map(|(_, subject)| subject).collect();
        while !missing.is_empty() {
            tokio::select! {
                Some(error) = denials.recv() => return Err(self.denial(&error, needs)),
                echo = echoes.next() => match echo {
                    // Others use some of the subjects: theirs is not empty.
                    Some((subject, message)) if message.payload.is_empty() => {
                        missing.retain(|other| *other != subject);
                    }
                    Some(_) => {}
                    None => return Err(gone(&"the connection was closed")),
                },
            }
        }
        Ok(())
    }

    fn denial(&self, error: &ServerError, needs: &str) -> Trouble {
        let text = error.to_string();
        let what = text.strip_prefix("nats: ").unwrap_or(&text);
        if what
            .to_ascii_lowercase()
            .starts_with("permissions violation")
        {
            return Trouble::Wrong(BackplaneError::Denied {
                servers: self.servers(),
                what: what.to_owned(),
                subjects: needs.to_owned(),
            });
        }
        Trouble::Away(what.to_owned())
    }

    fn trouble(&self, error: &ConnectError) -> Trouble {
        let servers = self.servers();
        let what = in_full(error);
        match error.kind() {
            ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
                let login = match &self.login {
                    Login::Nobody => "no credentials".to_owned(),
                    Login::User(name, file) => format!("--backplane-user {name} and {}", file.flag),
                    Login::Credentials(file) | Login::Nkey(file) | Login::Token(file) => {
                        file.flag.to_owned()
                    }
                };
                Trouble::Wrong(BackplaneError::Login {
                    servers,
                    login,
                    what,
                })
            }
            ConnectErrorKind::Tls => Trouble::Wrong(BackplaneError::Tls { servers, what }),
            _ => match tls_error(error) {
                Some(what) => Trouble::Wrong(BackplaneError::Tls { servers, what }),
                None => Trouble::Away(what),
            },
        }
    }
}

/// The error and what caused it, in one line.
fn in_full(error: &ConnectError) -> String {
    let mut text = error.kind().to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // As it says itself, without the library's name for it.
        let why = error.to_string();
        let why = why.strip_prefix("nats: ").unwrap_or(&why);
        if !text.ends_with(why) {
            text = format!("{text}: {why}");
        }
        cause = error.source();
    }
    text
}

/// What TLS says, where it was TLS that failed.
fn tls_error(error: &ConnectError) -> Option<String> {
    let mut cause = error.source();
    while let Some(error) = cause {
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        if let Some(tls) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Some(tls.to_string());
        }
        cause = error.source();
    }
    None
}

/// Reads who the server is, and signs what NATS wants signed.
fn authenticate(login: &Login, nonce: &[u8]) -> Result<Auth, InvalidConfig> {
    let mut auth = Auth::new();
    match login {
        Login::Nobody => {}
        Login::User(name, file) => {
            auth.username = Some(name.clone());
            auth.password = Some(secret(file)?);
        }
        Login::Token(file) => auth.token = Some(secret(file)?),
        Login::Nkey(file) => {
            let text = text(file)?;
            let seed = text.lines().map(str::trim).find(|l| l.starts_with("SU"));
            let (public, signature) = sign(file, seed, nonce)?;
            (auth.nkey, auth.signature) = (Some(public), Some(signature));
        }
        Login::Credentials(file) => {
            let text = text(file)?;
            let after = |mark: &str| {
                let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
                lines.find(|line| line.starts_with("-----") && line.contains(mark))?;
                lines.next()
            };
            let jwt = after("BEGIN NATS USER JWT").filter(|l| !l.starts_with('-'));
            let jwt =
                jwt.ok_or_else(|| file.invalid("has no user JWT: a file as nsc writes it"))?;
            let (_, signature) = sign(file, after("BEGIN USER NKEY SEED"), nonce)?;
            (auth.jwt, auth.signature) = (Some(jwt.to_owned()), Some(signature));
        }
    }
    Ok(auth)
}

/// The public key of a seed, and the signature.
fn sign(file: &File, seed: Option<&str>, nonce: &[u8]) -> Result<(String, Vec<u8>), InvalidConfig> {
    let pair = seed.and_then(|seed| nkeys::KeyPair::from_seed(seed).ok());
    let pair = pair.ok_or_else(|| file.invalid("has no seed of a user's nkey (SU...)"))?;
    let signature = pair.sign(nonce);
    let signature = signature.map_err(|e| file.invalid(format!("does not sign: {e}")))?;
    Ok((pair.public_key(), signature))
}

fn text(file: &File) -> Result<String, InvalidConfig> {
    String::from_utf8(file.read()?).map_err(|_| file.invalid("is no text"))
}

/// A file's one line.
fn secret(file: &File) -> Result<String, InvalidConfig> {
    let text = text(file)?;
    let secret = text.trim();
    if secret.is_empty() {
        return Err(file.invalid("is empty"));
    }
    Ok(secret.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of a test's, removed with it.
    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new(contents: &str) -> Self {
            let name = format!("persist-pubsub-login-{:016x}", fastrand::u64(..));
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, contents).unwrap();
            Self(path)
        }

        fn file(&self) -> File {
            File::new("--backplane-credentials-file", self.0.clone())
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn credentials_as_nsc_writes_them_sign() {
        let pair = nkeys::KeyPair::new_user();
        let scratch = Scratch::new(&format!(
            "-----BEGIN NATS USER JWT-----\nab.cd.ef\n------END NATS USER JWT------\n\n\
             ************************* IMPORTANT *************************\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            pair.seed().unwrap()
        ));
        let auth = authenticate(&Login::Credentials(scratch.file()), b"nonce").unwrap();
        assert_eq!(auth.jwt.as_deref(), Some("ab.cd.ef"));
        pair.verify(b"nonce", &auth.signature.unwrap()).unwrap();
        let auth = authenticate(&Login::Nkey(scratch.file()), b"nonce").unwrap();
        assert_eq!(auth.nkey, Some(pair.public_key()));
    }

    #[test]
    fn files_that_say_nothing_are_named() {
        let scratch = Scratch::new("-----BEGIN NATS USER JWT-----\n");
        let error = authenticate(&Login::Credentials(scratch.file()), b"")
            .err()
            .unwrap();
        assert!(error.to_string().contains("has no user JWT"), "{error}");
        let error = authenticate(&Login::Nkey(scratch.file()), b"")
            .err()
            .unwrap();
        assert!(error.to_string().contains("has no seed"), "{error}");
        let blank = Scratch::new(" \n");
        let error = authenticate(&Login::Token(blank.file()), b"")
            .err()
            .unwrap();
        assert!(error.to_string().ends_with("is empty"), "{error}");
    }
}
