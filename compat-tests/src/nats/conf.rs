//! What a nats-server is to be: its configuration file.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use crate::certificates::Issued;

/// A configuration. By default: open to everybody on the loopback, without
/// JetStream.
#[derive(Clone, Debug, Default)]
pub struct Conf {
    lines: Vec<String>,
    users: Vec<String>,
    cluster: Option<Vec<SocketAddr>>,
    jetstream: bool,
    tls: bool,
}

/// What a user may not do: subjects, as NATS writes them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Denied<'a> {
    /// Publish to.
    pub publish: &'a [&'a str],
    /// Subscribe to.
    pub subscribe: &'a [&'a str],
}

impl Conf {
    /// With a further line, as `max_pending: 64KB`.
    #[must_use]
    pub fn line(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }

    /// With JetStream, in a folder that goes with the server.
    #[must_use]
    pub fn jetstream(mut self) -> Self {
        self.jetstream = true;
        self
    }

    /// Notices within seconds that somebody is gone who does not say so.
    #[must_use]
    pub fn attentive(self) -> Self {
        self.line("ping_interval: \"1s\"").line("ping_max: 2")
    }

    /// With TLS. `verify`: clients have to show a certificate of the same
    /// authority.
    #[must_use]
    pub fn tls(mut self, issued: &Issued, verify: bool) -> Self {
        self.tls = true;
        let file = |name: &str| issued.file(name).display().to_string();
        self.line(format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: {verify} }}",
            file("tls.crt"),
            file("tls.key"),
            file("ca.crt"),
        ))
    }

    /// Lets in who knows a token.
    #[must_use]
    pub fn token(self, token: &str) -> Self {
        self.line(format!("authorization {{ token: {token:?} }}"))
    }

    /// Lets in a user with a password, who may do everything but what is
    /// denied.
    #[must_use]
    pub fn user(self, name: &str, password: &str, denied: Denied<'_>) -> Self {
        let who = format!("user: {name:?}, password: {password:?}");
        self.entrant(&who, denied)
    }

    /// Lets in who holds the seed of this public key (`U...`).
    #[must_use]
    pub fn nkey(self, public: &str, denied: Denied<'_>) -> Self {
        self.entrant(&format!("nkey: {public}"), denied)
    }

    fn entrant(mut self, who: &str, denied: Denied<'_>) -> Self {
        let list = |subjects: &[&str]| format!("{subjects:?}");
        let mut user = format!("{{ {who}, permissions: {{ ");
        for (what, subjects) in [("publish", denied.publish), ("subscribe", denied.subscribe)] {
            // Writing to a String does not fail.
            let _ = match subjects {
                [] => write!(user, "{what}: {{ allow: [\">\"] }}, "),
                _ => write!(user, "{what}: {{ deny: {} }}, ", list(subjects)),
            };
        }
        user.push_str("} }");
        self.users.push(user);
        self
    }

    /// A member of a cluster, with routes to those that there are.
    #[must_use]
    pub(super) fn member(mut self, number: usize, routes: Vec<SocketAddr>) -> Self {
        self.cluster = Some(routes);
        self.line(format!("server_name: member-{number}"))
    }

    /// How a server at this address is named to its clients.
    pub(super) fn url(&self, address: SocketAddr) -> String {
        format!("{}://{address}", if self.tls { "tls" } else { "nats" })
    }

    /// The file, of a server whose folder this is.
    pub(super) fn text(&self, folder: &Path) -> String {
        let mut lines = vec![
            // -1: a free port. It writes which ones into its folder.
            "listen: \"127.0.0.1:-1\"".to_owned(),
            "http: \"127.0.0.1:-1\"".to_owned(),
            format!("ports_file_dir: {:?}", folder.display().to_string()),
        ];
        lines.extend(self.lines.iter().cloned());
        if !self.users.is_empty() {
            let users = self.users.join(", ");
            lines.push(format!("authorization {{ users: [ {users} ] }}"));
        }
        if self.jetstream {
            let store = folder.join("jetstream").display().to_string();
            lines.push(format!("jetstream {{ store_dir: {store:?} }}"));
        }
        if let Some(routes) = &self.cluster {
            let routes: Vec<_> = routes
                .iter()
                .map(|at| format!("nats-route://{at}"))
                .collect();
            // Clients are not told of the others: they would go past their lines.
            lines.push(format!(
                "cluster {{ name: test, listen: \"127.0.0.1:-1\", no_advertise: true, routes: {routes:?} }}"
            ));
        }
        lines.join("\n")
    }
}
