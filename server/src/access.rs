//! Who gets in, and what each may do: identities, their rights, their limits.
//!
//! An identity is known by a bearer token, by a name in its client
//! certificate, or by having come over the plaintext port. Without a file of
//! identities everybody may do everything, as far as the connection itself
//! was let in.

mod limits;
mod tokens;

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, header};
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::config::InvalidConfig;
use crate::error::{Refusal, RefusalCode};
use crate::frame::Publication;
use crate::logging::LogGate;
use crate::metrics::AccessMetrics;
use crate::reload::{Contents, File, Reload, read};
use crate::service::{Connection, Port};

use limits::{Accounts, Lease};
use tokens::{Digest, Table};

pub(crate) use limits::IdentityLimits;
pub(crate) use tokens::{Identity, Rights};

/// When a peer that was refused a session may try again: others end at any
/// moment, and nobody knows which.
const SESSION_RETRY: Duration = Duration::from_secs(5);
/// Log lines a minute about peers that were refused.
const REFUSAL_LINES: u32 = 10;

/// Lets peers in, or not.
#[derive(Debug)]
pub(crate) struct Access {
    /// None: everybody may do everything.
    known: Option<Known>,
    /// None: no limit is set.
    accounts: Option<Arc<Accounts>>,
    metrics: AccessMetrics,
    refusals: LogGate,
}

#[derive(Debug)]
struct Known {
    file: File,
    table: RwLock<Arc<Table>>,
}

/// By what an identity is known.
#[derive(Clone, PartialEq, Eq)]
enum Credential {
    Token(Digest),
    Certificate(String),
    Plaintext,
}

/// Somebody who was let in.
#[derive(Debug)]
pub(crate) struct Caller {
    /// For people: the identity's name, the certificate's, or none.
    name: Option<Arc<str>>,
    identity: Option<(Credential, Arc<Identity>)>,
    /// Of a session, where limits are set.
    lease: Option<Lease>,
}

impl Access {
    /// Reads the file of identities, if there is one. Gives what it holds too,
    /// to be watched.
    pub(crate) fn new(
        file: Option<File>,
        limits: IdentityLimits,
        metrics: AccessMetrics,
    ) -> Result<(Self, Option<Contents>), InvalidConfig> {
        let mut contents = None;
        let known = match file {
            None => None,
            Some(file) => {
                let read = read(std::slice::from_ref(&file))?;
                let table = RwLock::new(Arc::new(table(&file, &read)?));
                contents = Some(read);
                Some(Known { file, table })
            }
        };
        let access = Self {
            known,
            accounts: Accounts::new(limits, metrics.clone()),
            metrics,
            refusals: LogGate::new(REFUSAL_LINES, Duration::from_secs(60)),
        };
        Ok((access, contents))
    }

    fn table(&self) -> Option<Arc<Table>> {
        let known = self.known.as_ref()?;
        let table = known.table.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&table))
    }

    /// Who sent a request.
    ///
    /// # Errors
    /// UNAUTHENTICATED: nobody that is known.
    pub(crate) fn identify(
        &self,
        headers: &HeaderMap,
        connection: &Connection,
    ) -> Result<Caller, Status> {
        let Some(table) = self.table() else {
            return Ok(Caller {
                name: connection.names.first().map(|name| name.as_str().into()),
                ..Caller::anybody()
            });
        };
        match credential(headers, connection, &table) {
            Ok((credential, identity)) => Ok(Caller {
                name: Some(Arc::clone(&identity.name)),
                identity: Some((credential, identity)),
                lease: None,
            }),
            Err(why) => {
                self.refused(connection, "unauthenticated", why);
                Err(Status::unauthenticated(why))
            }
        }
    }

    /// Counts and logs somebody who was refused.
    pub(crate) fn refused(&self, connection: &Connection, reason: &str, why: &str) {
        let port = connection.port.as_str();
        self.metrics
            .refused
            .with_label_values(&[port, reason])
            .inc();
        if let Some(unlogged) = self.refusals.admit(Instant::now()) {
            tracing::warn!(peer = %connection.peer, port, reason, why, unlogged, "refused");
        }
    }

    /// Lets a caller have one more session.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: it has as many as it may.
    pub(crate) fn admit(&self, mut caller: Caller, peer: IpAddr) -> Result<Caller, Status> {
        if let Some(accounts) = &self.accounts {
            let lease = Accounts::admit(accounts, caller.name.as_ref(), peer);
            caller.lease = Some(lease.map_err(|max| {
                exhausted(
                    format!("{max} sessions of this identity or address are open, and no more are taken (--max-sessions-per-identity)"),
                    SESSION_RETRY,
                )
            })?);
        }
        Ok(caller)
    }

    /// Whether a caller's identity is still what it was when it came.
    pub(crate) fn holds(&self, caller: &Caller) -> bool {
        let (Some(table), Some((credential, identity))) = (self.table(), &caller.identity) else {
            return true;
        };
        let now = match credential {
            Credential::Token(digest) => table.by_token.get(digest),
            Credential::Certificate(name) => table.by_certificate.get(name),
            Credential::Plaintext => table.plaintext.as_ref(),
        };
        now == Some(identity)
    }
}

impl Reload for Access {
    fn files(&self) -> Vec<File> {
        self.known.iter().map(|known| known.file.clone()).collect()
    }

    fn reload(&self, contents: &Contents) -> Result<(), InvalidConfig> {
        if let Some(known) = &self.known {
            let table = Arc::new(table(&known.file, contents)?);
            *known.table.write().unwrap_or_else(PoisonError::into_inner) = table;
        }
        Ok(())
    }
}

fn table(file: &File, contents: &Contents) -> Result<Table, InvalidConfig> {
    let bytes = contents.first().map_or(&[][..], Vec::as_slice);
    Table::parse(bytes).map_err(|what| file.invalid(what))
}

/// A token counts before a certificate: it was given for this request. One
/// that nobody has is refused, whatever the certificate says.
fn credential(
    headers: &HeaderMap,
    connection: &Connection,
    table: &Table,
) -> Result<(Credential, Arc<Identity>), &'static str> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let token = token(value.as_bytes(), connection.port)
            .ok_or("the authorization is not 'Bearer TOKEN'")?;
        let digest = tokens::digest(&token);
        let identity = table
            .by_token
            .get(&digest)
            .ok_or("the bearer token is not one that is known")?;
        return Ok((Credential::Token(digest), Arc::clone(identity)));
    }
    for name in connection.names.iter() {
        if let Some(identity) = table.by_certificate.get(name) {
            let credential = Credential::Certificate(name.clone());
            return Ok((credential, Arc::clone(identity)));
        }
    }
    match &table.plaintext {
        Some(identity) if connection.port == Port::Plaintext => {
            Ok((Credential::Plaintext, Arc::clone(identity)))
        }
        _ => Err("neither a bearer token nor a client certificate that is known"),
    }
}

/// The token of an authorization. On the operators' port it may be the
/// password of any user too: that is what a browser asks for.
fn token(value: &[u8], port: Port) -> Option<Vec<u8>> {
    let space = value.iter().position(|&byte| byte == b' ')?;
    let (scheme, said) = value.split_at(space);
    let said = said.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"Bearer") {
        return Some(said.to_vec());
    }
    if !scheme.eq_ignore_ascii_case(b"Basic") || port != Port::Admin {
        return None;
    }
    let mut user = BASE64_STANDARD.decode(said).ok()?;
    let colon = user.iter().position(|&byte| byte == b':')?;
    Some(user.split_off(colon + 1))
}

/// "Not now", and when to try again.
pub(crate) fn exhausted(why: String, retry_after: Duration) -> Status {
    let details = ErrorDetails::with_retry_info(Some(retry_after));
    Status::with_error_details(Code::ResourceExhausted, why, details)
}

impl Caller {
    /// One without an identity, as everybody is without a file of them.
    pub(crate) fn anybody() -> Self {
        Self {
            name: None,
            identity: None,
            lease: None,
        }
    }

    /// For people: of its identity, or of its certificate.
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub(crate) fn rights(&self) -> Rights {
        self.identity
            .as_ref()
            .map_or(Rights::ALL, |(_, identity)| identity.rights)
    }

    /// The only environment that it may speak of; None: any.
    pub(crate) fn environment(&self) -> Option<&str> {
        let (_, identity) = self.identity.as_ref()?;
        identity.environment.as_deref()
    }

    fn may(&self, allowed: bool, right: &str) -> Result<(), Refusal> {
        if allowed {
            return Ok(());
        }
        let name = self.name().unwrap_or_default();
        Err(Refusal::new(
            RefusalCode::NotAllowed,
            format!("'{name}' has no right to {right}"),
        ))
    }

    /// Whether there is a limit to what it may take.
    pub(crate) fn is_limited(&self) -> bool {
        self.lease.is_some()
    }

    /// Fails if it has no right to publish.
    pub(crate) fn may_publish(&self) -> Result<(), Refusal> {
        self.may(self.rights().publish, "publish")
    }

    /// Fails if it has no right to subscribe, or as many subscriptions as it
    /// may.
    pub(crate) fn may_subscribe(&self, shards: usize) -> Result<(), Refusal> {
        self.may(self.rights().subscribe, "subscribe")?;
        match &self.lease {
            Some(lease) => lease.room_for(shards),
            None => Ok(()),
        }
    }

    /// Counts a subscription.
    pub(crate) fn subscribed(&self) -> Result<(), Refusal> {
        self.lease.as_ref().map_or(Ok(()), Lease::subscribe)
    }

    /// Takes subscriptions back.
    pub(crate) fn unsubscribed(&self, shards: usize) {
        if let Some(lease) = &self.lease {
            lease.unsubscribe(shards);
        }
    }

    /// Counts a publication, or refuses it for now.
    pub(crate) fn pay(&self, publication: &Publication) -> Result<(), Refusal> {
        match &self.lease {
            Some(lease) => lease.pay(bytes(publication)),
            None => Ok(()),
        }
    }

    /// How a publication is paid for by somebody who waits for it: call it
    /// until it gives nothing, and wait until the moment that it gives.
    pub(crate) fn payment(&self, publication: &Publication) -> Option<limits::Payment<'_>> {
        let lease = self.lease.as_ref()?;
        lease.payment(bytes(publication))
    }
}

fn bytes(publication: &Publication) -> usize {
    publication.diff.as_ref().map_or(0, |diff| diff.len())
}

/// Tells how, and not by what.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(_) => f.write_str("Token(..)"),
            Self::Certificate(name) => f.debug_tuple("Certificate").field(name).finish(),
            Self::Plaintext => f.write_str("Plaintext"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_what_bears_it_or_on_the_operators_port_a_password() {
        let basic = format!("Basic {}", BASE64_STANDARD.encode("me:to:ken"));
        for (value, port, expected) in [
            ("Bearer to:ken", Port::Data, Some("to:ken")),
            ("bearer  to:ken ", Port::Admin, Some("to:ken")),
            (basic.as_str(), Port::Admin, Some("to:ken")),
            (basic.as_str(), Port::Data, None),
            ("Basic me:token", Port::Admin, None),
            ("Bearerto:ken", Port::Data, None),
            ("Digest to:ken", Port::Admin, None),
            ("", Port::Admin, None),
        ] {
            let found = token(value.as_bytes(), port);
            let expected = expected.map(|text| text.as_bytes().to_vec());
            assert_eq!(found, expected, "{value}");
        }
    }
}
