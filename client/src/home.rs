//! Where servers are.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;

use tonic::transport::Uri;

use crate::config::ConfigError;
use crate::in_process::InProcess;

/// The port that an endpoint without one means.
pub const DEFAULT_PORT: u16 = 6879;

/// Where a server is, or several: a name may have many addresses, and each of
/// them is a place to keep a session with. Cheap to clone. Two that lead to the
/// same host and port are the same home, however they were written; and two that
/// lead to the same run of a server in this process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Home(Kind);

/// How it is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Over the network.
    At(Arc<Endpoint>),
    /// In this process.
    InProcess(Inside),
}

/// A server in this process. The same run of it is the same server, through
/// whichever of its handles.
#[derive(Clone)]
pub(crate) struct Inside(pub(crate) Arc<dyn InProcess>);

impl fmt::Debug for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Inside")
            .field(&self.0.instance_id())
            .finish()
    }
}

impl PartialEq for Inside {
    fn eq(&self, other: &Self) -> bool {
        self.0.instance_id() == other.0.instance_id()
    }
}

impl Eq for Inside {}

impl Hash for Inside {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.instance_id().hash(state);
    }
}

/// A name or an address, and a port.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// As requests name it.
    pub(crate) origin: Uri,
    /// As it is looked up.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl PartialEq for Endpoint {
    fn eq(&self, other: &Self) -> bool {
        (&self.host, self.port) == (&other.host, other.port)
    }
}

impl Eq for Endpoint {}

impl Hash for Endpoint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.host, self.port).hash(state);
    }
}

impl Home {
    /// The server at `endpoint`: `http://host:port`, or `host:port`, or a
    /// host alone (port [`DEFAULT_PORT`]). The host is looked up when it is
    /// connected to, and again and again, not here.
    ///
    /// # Errors
    /// [`ConfigError::Endpoint`] if it does not parse, names no host, or
    /// asks for anything but plain HTTP/2.
    pub fn at(endpoint: &str) -> Result<Self, ConfigError> {
        let refuse = |reason: String| ConfigError::Endpoint {
            endpoint: endpoint.to_owned(),
            reason,
        };
        let full = if endpoint.contains("://") {
            endpoint.to_owned()
        } else {
            format!("http://{endpoint}")
        };
        let uri: Uri = full
            .parse()
            .map_err(|error| refuse(format!("does not parse ({error})")))?;
        if uri.scheme_str() != Some("http") {
            return Err(refuse("only http is spoken".to_owned()));
        }
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let bare = uri.host().unwrap_or_default();
        let expected = uri
            .port_u16()
            .map_or_else(|| bare.to_owned(), |port| format!("{bare}:{port}"));
        if authority != expected || uri.path_and_query().is_some_and(|path| path != "/") {
            return Err(refuse("holds more than a host and a port".to_owned()));
        }
        // A literal IPv6 address stands in brackets, which a look-up does not
        // take.
        let host = bare
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_ascii_lowercase();
        if host.is_empty() {
            return Err(refuse("names no host".to_owned()));
        }
        Ok(Self(Kind::At(Arc::new(Endpoint {
            port: uri.port_u16().unwrap_or(DEFAULT_PORT),
            host,
            origin: uri,
        }))))
    }

    /// A server in this process, reached without a network: v1 is spoken with
    /// it, whatever [`Config::wire`](crate::Config::wire) says. Once it is gone
    /// the home stays and is refused: it leads to that server alone.
    #[must_use]
    pub fn in_process(server: impl InProcess) -> Self {
        Self(Kind::InProcess(Inside(Arc::new(server))))
    }

    pub(crate) fn kind(&self) -> &Kind {
        &self.0
    }
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::At(at) if at.host.contains(':') => write!(f, "[{}]:{}", at.host, at.port),
            Kind::At(at) => write!(f, "{}:{}", at.host, at.port),
            Kind::InProcess(inside) => write!(f, "in-process {}", inside.0.instance_id()),
        }
    }
}

/// One server of a home.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) home: Home,
    /// One of the addresses of its name; `None` where it has no name.
    pub(crate) address: Option<SocketAddr>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{} ({address})", self.home),
            None => self.home.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_refused_early_and_says_why() {
        for bad in [
            "",
            "http://",
            "http://a b",
            "https://host:1",
            "unix:///tmp/x",
            ":6879",
            "host:notaport",
            "host:99999",
            "user@host:1",
            "http://host:1/path",
        ] {
            let error = Home::at(bad).expect_err(bad);
            assert!(
                error.to_string().contains("expected http://host:port"),
                "{error}"
            );
        }
    }

    #[test]
    fn an_endpoint_may_leave_out_scheme_and_port() {
        for (given, host, port) in [
            ("http://pubsub:7000", "pubsub", 7000),
            ("pubsub:7000", "pubsub", 7000),
            ("pubsub", "pubsub", DEFAULT_PORT),
            ("http://127.0.0.1", "127.0.0.1", DEFAULT_PORT),
            ("http://[::1]:7", "::1", 7),
        ] {
            let Kind::At(at) = Home::at(given).expect(given).0 else {
                panic!("{given} is no endpoint")
            };
            assert_eq!((at.host.as_str(), at.port), (host, port), "{given}");
        }
    }

    #[test]
    fn the_same_endpoint_is_the_same_home() {
        let home = |endpoint| Home::at(endpoint).unwrap();
        assert_eq!(home("pubsub"), home("http://Pubsub:6879/"));
        assert_ne!(home("pubsub"), home("pubsub:1"));
        assert_ne!(home("pubsub"), home("pubsub2"));
        assert_eq!(home("http://[::1]:7").to_string(), "[::1]:7");
    }
}
