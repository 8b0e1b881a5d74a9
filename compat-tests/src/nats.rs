//! nats-servers as child processes, on free ports of the loopback: one, or a
//! cluster of them; open, or with users and certificates.
//!
//! A server that is started anew has other ports, for nobody can keep a port
//! free. Replicas therefore reach theirs through a line, a
//! [`Proxy`](crate::proxy::Proxy) of their own, which can be led elsewhere,
//! and cut.

pub mod cluster;
pub mod conf;
pub mod jwt;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

use self::conf::Conf;
use crate::child::{Folder, send_signal};
use crate::operator::{self, OperatorError};
use crate::tools::{self, Missing};
use crate::wait::{TimedOut, within};

/// How often a server's ports are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// The file in a server's folder that configures it.
const CONF: &str = "nats.conf";

/// A running nats-server. Dropping it kills the process.
#[derive(Debug)]
pub struct Nats {
    conf: Conf,
    process: Child,
    folder: Folder,
    ports: Ports,
}

/// Where a nats-server serves.
#[derive(Clone, Copy, Debug)]
struct Ports {
    clients: SocketAddr,
    monitoring: SocketAddr,
    routes: Option<SocketAddr>,
}

/// A nats-server does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// It is not installed.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The operating system refused.
    #[error("nats-server: {0}")]
    Io(#[from] std::io::Error),
    /// It does not serve, or not end; with what it wrote.
    #[error("{0}; nats-server wrote:\n{1}")]
    TimedOut(TimedOut, String),
    /// It does not say what it should of itself.
    #[error("nats-server's monitoring: {0}")]
    Monitoring(#[from] OperatorError),
    /// It has ended.
    #[error("nats-server has ended")]
    Ended,
}

/// The program, or none: then the test is left out, and says so.
#[must_use]
pub fn found(test: &str) -> bool {
    program()
        .inspect_err(|why| tools::left_out(test, why))
        .is_ok()
}

fn program() -> Result<PathBuf, Missing> {
    tools::find("nats-server", "NATS_SERVER")
}

impl Nats {
    /// Starts one, and waits until it serves.
    ///
    /// # Errors
    /// It does not.
    pub async fn start(conf: &Conf) -> Result<Self, NatsError> {
        let folder = Folder::new()?;
        let file = folder.path().join(CONF);
        std::fs::write(&file, conf.text(folder.path()))?;
        let log = std::fs::File::create(folder.log())?;
        let mut process = Command::new(program()?)
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            // Into a file: a pipe that nobody empties would stall it.
            .stderr(log.try_clone()?)
            .stdout(log)
            .kill_on_drop(true)
            .spawn()?;
        let pid = process.id().ok_or(NatsError::Ended)?;
        let file = folder.path().join(format!("nats-server_{pid}.ports"));
        let ports = match within(
            "nats-server to write its ports",
            serves(&mut process, &file),
        )
        .await
        {
            Ok(Some(ports)) => ports,
            Ok(None) => return Err(ended(&folder)),
            Err(late) => return Err(NatsError::TimedOut(late, folder.read_log())),
        };
        Ok(Self {
            conf: conf.clone(),
            process,
            folder,
            ports,
        })
    }

    /// Kills it if it still runs, and starts another in its place: with
    /// nothing of what the first one had, and on other ports.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restart(&mut self) -> Result<(), NatsError> {
        self.kill().await?;
        *self = Self::start(&self.conf).await?;
        Ok(())
    }

    /// Where clients connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.ports.clients
    }

    /// The same, as `--backplane` has it.
    #[must_use]
    pub fn url(&self) -> String {
        self.conf.url(self.ports.clients)
    }

    /// The process, unless it has ended.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// Where the other members of its cluster connect to.
    #[must_use]
    pub fn routes(&self) -> Option<SocketAddr> {
        self.ports.routes
    }

    /// What its monitoring says: `/varz`, `/connz`, `/routez`.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn monitoring(&self, path: &str) -> Result<serde_json::Value, NatsError> {
        let (_, body) = operator::get(self.ports.monitoring, path).await?;
        let json = serde_json::from_str(&body);
        Ok(json.map_err(|_| OperatorError::NotHttp(body))?)
    }

    /// Everything that it has written.
    #[must_use]
    pub fn log(&self) -> String {
        self.folder.read_log()
    }

    /// Sends any signal, by its name without `SIG`.
    ///
    /// # Errors
    /// It has ended.
    pub async fn signal(&self, name: &str) -> Result<(), NatsError> {
        let pid = self.process.id().ok_or(NatsError::Ended)?;
        Ok(send_signal(name, pid).await?)
    }

    /// Kills it, if it still runs, and waits for its end.
    ///
    /// # Errors
    /// It does not end.
    pub async fn kill(&mut self) -> Result<(), NatsError> {
        match within("nats-server to end", self.process.kill()).await {
            Ok(ended) => Ok(ended?),
            Err(late) => Err(NatsError::TimedOut(late, self.log())),
        }
    }
}

/// Waits for the file that it writes once it serves. None: it has ended.
/// Without an end of its own.
async fn serves(process: &mut Child, file: &Path) -> Option<Ports> {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    loop {
        looks.tick().await;
        if process.try_wait().is_ok_and(|ended| ended.is_some()) {
            return None;
        }
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if let Some(ports) = Ports::parse(&text) {
            return Some(ports);
        }
    }
}

fn ended(folder: &Folder) -> NatsError {
    let said = format!("nats-server ended:\n{}", folder.read_log());
    std::io::Error::other(said).into()
}

impl Ports {
    /// Of the file that it writes once it serves. None: it is not whole yet.
    fn parse(text: &str) -> Option<Self> {
        let json: serde_json::Value = serde_json::from_str(text).ok()?;
        let address = |kind: &str| {
            let (_, address) = json[kind][0].as_str()?.split_once("://")?;
            address.parse().ok()
        };
        Some(Self {
            clients: address("nats")?,
            monitoring: address("monitoring")?,
            routes: address("cluster"),
        })
    }
}
