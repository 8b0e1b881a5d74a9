//! A server of some kind at work, behind a network that can be cut.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::broadcaster::Broadcaster;
use crate::child::Child;
use crate::operator::Operator;
use crate::proxy::{Cut, Proxy};

use super::client::GENERATION;

/// Errors of scenarios.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Messages that wait per connection of the v0 server: none is dropped here.
const QUEUE: usize = 1_024;

/// A kind of server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerKind {
    /// A plain one that speaks v0 alone.
    V0,
    /// That of a release, and its program.
    Released(String, PathBuf),
    /// This workspace's.
    Today,
}

impl ServerKind {
    /// As the table shows it.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::V0 => "a v0 server".to_owned(),
            Self::Released(version, _) => format!("server {version}"),
            Self::Today => "server of today".to_owned(),
        }
    }

    /// Whether it keeps a log, and speaks v1.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        *self != Self::V0
    }
}

/// How long it waits for a diff that others have overtaken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// As by default: what will not come is told soon.
    Shortly,
    /// However long a busy machine lets the other connection stand still.
    AsLongAsItTakes,
}

/// One at work.
pub struct Server {
    kind: ServerKind,
    wait: Wait,
    process: Process,
    network: Proxy,
}

enum Process {
    V0(Broadcaster),
    Ours(Box<Child>),
}

impl Process {
    async fn start(kind: &ServerKind, wait: Wait) -> Result<Self, Failure> {
        let window = match wait {
            Wait::Shortly => "--reorder-window=50ms",
            Wait::AsLongAsItTakes => "--reorder-window=10s",
        };
        let flags = [
            window.to_owned(),
            format!("--v0-generation=matrix-*={GENERATION}"),
            // Scripted peers send no heartbeats.
            "--heartbeat-interval=1h".to_owned(),
            "--drain-window=1s".to_owned(),
        ];
        Ok(match kind {
            ServerKind::V0 => Self::V0(Broadcaster::start(QUEUE).await?),
            ServerKind::Released(_, program) => {
                Self::Ours(Box::new(Child::start_binary(program, &flags).await?))
            }
            ServerKind::Today => Self::Ours(Box::new(Child::start(&flags).await?)),
        })
    }

    fn url(&self) -> String {
        match self {
            Self::V0(broadcaster) => broadcaster.url(),
            Self::Ours(child) => child.url(),
        }
    }

    fn address(&self) -> Result<SocketAddr, Failure> {
        Ok(self.url().trim_start_matches("http://").parse()?)
    }
}

impl Server {
    /// Starts one.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(kind: &ServerKind, wait: Wait) -> Result<Self, Failure> {
        let process = Process::start(kind, wait).await?;
        let network = Proxy::start(process.address()?).await?;
        Ok(Self {
            kind: kind.clone(),
            wait,
            process,
            network,
        })
    }

    /// Whether it speaks v1.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.kind.is_ours()
    }

    /// Where the client under test connects to.
    #[must_use]
    pub fn url(&self) -> String {
        self.network.url()
    }

    /// Where everybody else does, past the network.
    #[must_use]
    pub fn direct_url(&self) -> String {
        self.process.url()
    }

    /// The network breaks, and leads nowhere.
    pub fn cut(&self) {
        // Nobody listens there: new connections close at once.
        self.network.switch(SocketAddr::from(([127, 0, 0, 1], 1)));
        self.network.cut(Cut::Reset);
    }

    /// It leads to the server again.
    ///
    /// # Errors
    /// The server has no address.
    pub fn mend(&self) -> Result<(), Failure> {
        self.network.switch(self.process.address()?);
        Ok(())
    }

    /// It is killed, and another one started in its place.
    ///
    /// # Errors
    /// It does not start.
    pub async fn kill(&mut self) -> Result<(), Failure> {
        if let Process::Ours(child) = &mut self.process {
            child.signal("KILL").await?;
            child.wait().await?;
        }
        self.process = Process::start(&self.kind, self.wait).await?;
        self.network.cut(Cut::Reset);
        self.mend()
    }

    /// Another one takes its place, and it is told to go; once it has gone
    /// this returns.
    ///
    /// # Errors
    /// It does not start, or not go.
    pub async fn replace(&mut self) -> Result<(), Failure> {
        let new = Process::start(&self.kind, self.wait).await?;
        let old = std::mem::replace(&mut self.process, new);
        self.mend()?;
        if let Process::Ours(mut child) = old {
            child.terminate().await?;
            let status = child.wait().await?;
            if !status.success() {
                return Err(format!("it ended with {status}: {}", child.log()).into());
            }
        }
        Ok(())
    }

    /// It is told to go; this returns at once.
    ///
    /// # Errors
    /// It has gone.
    pub async fn terminate(&self) -> Result<(), Failure> {
        if let Process::Ours(child) = &self.process {
            child.terminate().await?;
        }
        Ok(())
    }

    /// Fences out whatever is below a generation.
    ///
    /// # Errors
    /// It is none of ours, or does not answer.
    pub async fn fence(&self, below: u64) -> Result<(), Failure> {
        let Process::Ours(child) = &self.process else {
            return Err("a v0 server has no fence".into());
        };
        let operator = Operator::connect(child).await?;
        operator.fence("", below, false).await?;
        Ok(())
    }
}
