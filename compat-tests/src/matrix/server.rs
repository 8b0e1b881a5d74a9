//! A server of some kind at work, behind a network that can be cut.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::broadcaster::Broadcaster;
use crate::child::Child;
use crate::nats::Nats;
use crate::nats::conf::Conf;
use crate::operator::Operator;
use crate::proxy::{Cut, Proxy};
use crate::replicas::KNOWN;
use crate::wait::within;

use super::client::GENERATION;

/// Errors of scenarios.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Messages that wait per connection of the v0 server: none is dropped here.
const QUEUE: usize = 1_024;

/// How often a replica is asked whom it knows.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A kind of server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerKind {
    /// A plain one that speaks v0 alone.
    V0,
    /// That of a release, and its program.
    Released(String, PathBuf),
    /// This workspace's.
    Today,
    /// Two replicas: that of the client under test, and that of everybody
    /// else.
    Replicas(Box<[Self; 2]>),
}

impl ServerKind {
    /// As the table shows it.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::V0 => "a v0 server".to_owned(),
            Self::Released(version, _) => format!("server {version}"),
            Self::Today => "server of today".to_owned(),
            Self::Replicas(both) => match both.each_ref().map(Self::version) {
                [one, other] if one == other => format!("replicas of {one}"),
                [one, other] => format!("replica of {one}, others at one of {other}"),
            },
        }
    }

    fn version(&self) -> String {
        match self {
            Self::Released(version, _) => version.clone(),
            Self::Today => "today".to_owned(),
            Self::V0 | Self::Replicas(_) => self.name(),
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
    /// Everybody else's, and what connects it with that one.
    other: Option<(Process, Nats)>,
    network: Proxy,
}

enum Process {
    V0(Broadcaster),
    Ours(Box<Child>),
}

impl Process {
    async fn start(kind: &ServerKind, wait: Wait, nats: Option<&Nats>) -> Result<Self, Failure> {
        let window = match wait {
            Wait::Shortly => "--reorder-window=50ms",
            Wait::AsLongAsItTakes => "--reorder-window=10s",
        };
        let mut flags = vec![
            window.to_owned(),
            format!("--v0-generation=matrix-*={GENERATION}"),
            // Scripted peers send no heartbeats.
            "--heartbeat-interval=1h".to_owned(),
            "--drain-window=1s".to_owned(),
        ];
        flags.extend(
            nats.iter()
                .map(|nats| format!("--backplane={}", nats.url())),
        );
        let child = match kind {
            ServerKind::V0 => return Ok(Self::V0(Broadcaster::start(QUEUE).await?)),
            ServerKind::Released(_, program) => Child::start_binary(program, &flags).await?,
            ServerKind::Today => Child::start(&flags).await?,
            ServerKind::Replicas(_) => return Err("replicas are two servers".into()),
        };
        Ok(Self::Ours(Box::new(child)))
    }

    /// Waits until a replica knows another.
    async fn knows_another(&self) -> Result<(), Failure> {
        let Self::Ours(child) = self else {
            return Ok(());
        };
        let operator = Operator::connect(child).await?;
        // Not by `until`: scenarios are spawned, and it is not `Send`.
        let known = async {
            let mut looks = tokio::time::interval(LOOK_EVERY);
            while operator.metric(KNOWN).await? == 0.0 {
                looks.tick().await;
            }
            Ok(())
        };
        within("a replica to know the other", known).await?
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
        let (kind, process, other) = match kind {
            ServerKind::Replicas(both) => {
                let [kind, others] = &**both;
                let nats = Nats::start(&Conf::default()).await?;
                let process = Process::start(kind, wait, Some(&nats)).await?;
                let other = Process::start(others, wait, Some(&nats)).await?;
                process.knows_another().await?;
                other.knows_another().await?;
                (kind, process, Some((other, nats)))
            }
            _ => (kind, Process::start(kind, wait, None).await?, None),
        };
        let network = Proxy::start(process.address()?).await?;
        Ok(Self {
            kind: kind.clone(),
            wait,
            process,
            other,
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

    /// Where everybody else does, past the network: at the other replica, if
    /// there is one.
    #[must_use]
    pub fn direct_url(&self) -> String {
        self.others().url()
    }

    fn others(&self) -> &Process {
        self.other
            .as_ref()
            .map_or(&self.process, |(other, _)| other)
    }

    /// Another one like that of the client under test.
    async fn another(&self) -> Result<Process, Failure> {
        let nats = self.other.as_ref().map(|(_, nats)| nats);
        let another = Process::start(&self.kind, self.wait, nats).await?;
        if nats.is_some() {
            another.knows_another().await?;
        }
        Ok(another)
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
        self.process = self.another().await?;
        self.network.cut(Cut::Reset);
        self.mend()
    }

    /// Another one takes its place, and it is told to go; once it has gone
    /// this returns.
    ///
    /// # Errors
    /// It does not start, or not go.
    pub async fn replace(&mut self) -> Result<(), Failure> {
        let new = self.another().await?;
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
        let Process::Ours(child) = self.others() else {
            return Err("a v0 server has no fence".into());
        };
        let operator = Operator::connect(child).await?;
        operator.fence("", below, false).await?;
        Ok(())
    }
}
