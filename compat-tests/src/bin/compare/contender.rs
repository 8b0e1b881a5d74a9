//! What is measured, each started as a process of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::str::FromStr;

use persist_pubsub_compat_tests::built;
use persist_pubsub_compat_tests::child::Child;
use persist_pubsub_compat_tests::{tools, wait};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child as Process, Command};

use super::Failure;
use super::measurement::Measurement;

/// Messages in a broadcaster's queue, where it is to be given a chance.
const LARGE_QUEUE: &str = "4096";

/// A build of the server.
#[derive(Clone, Debug)]
pub(crate) struct Build {
    name: String,
    path: PathBuf,
}

impl FromStr for Build {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = text.split_once('=').ok_or("NAME=PATH")?;
        let path = PathBuf::from(path);
        if !path.is_file() {
            return Err(format!("{} is no file", path.display()));
        }
        Ok(Self {
            name: name.to_owned(),
            path,
        })
    }
}

#[derive(Clone, Debug)]
enum Kind {
    /// None: the one of this workspace.
    Ours(Option<PathBuf>),
    Nats,
    /// With so many messages in a queue.
    Broadcaster(Option<&'static str>),
    Relay,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Contender {
    pub(crate) name: String,
    /// What it is spoken to in.
    wire: &'static str,
    kind: Kind,
}

/// All of them; with `quick`, those alone that goals are set against.
pub(crate) fn all(also: &[Build], quick: bool) -> Vec<Contender> {
    let of = |name: &str, wire, kind| Contender {
        name: name.to_owned(),
        wire,
        kind,
    };
    let mut all = vec![
        of("v0", "v0", Kind::Ours(None)),
        of("v1", "v1", Kind::Ours(None)),
    ];
    for build in also {
        for wire in ["v0", "v1"] {
            let name = format!("{wire}-{}", build.name);
            all.push(of(&name, wire, Kind::Ours(Some(build.path.clone()))));
        }
    }
    all.push(of(NATS, "nats", Kind::Nats));
    if !quick {
        all.push(of(
            "broadcaster",
            "v0",
            Kind::Broadcaster(Some(LARGE_QUEUE)),
        ));
        all.push(of("broadcaster-25", "v0", Kind::Broadcaster(None)));
        all.push(of("relay", "relay", Kind::Relay));
    }
    all
}

/// The name of whom goals are set against.
pub(crate) const NATS: &str = "nats";

impl Contender {
    /// Whether it is of ours, and may lose nothing.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self.kind, Kind::Ours(_))
    }

    /// Whether it knows shards.
    pub(crate) fn knows_shards(&self) -> bool {
        !matches!(self.kind, Kind::Relay)
    }

    /// Whether it is today's server as it is configured.
    pub(crate) fn is_today(&self) -> bool {
        matches!(self.kind, Kind::Broadcaster(None))
    }

    pub(crate) async fn start(&self, flags: &[String]) -> Result<Running, Failure> {
        let (server, address, pid) = match &self.kind {
            Kind::Ours(path) => {
                let child = match path {
                    None => Child::start(flags).await?,
                    Some(path) => Child::start_binary(path, flags).await?,
                };
                let addresses = child.addresses();
                (
                    Server::Ours(child),
                    addresses.listen.to_string(),
                    addresses.pid,
                )
            }
            Kind::Nats => nats().await?,
            Kind::Broadcaster(queue) => {
                let queue = queue.iter().flat_map(|queue| ["--queue", queue]);
                yardstick("broadcaster", queue).await?
            }
            Kind::Relay => yardstick("relay", []).await?,
        };
        Ok(Running {
            wire: self.wire,
            address,
            pid,
            _server: server,
        })
    }
}

/// A server that runs, until it is dropped.
pub(crate) struct Running {
    wire: &'static str,
    address: String,
    pid: u32,
    _server: Server,
}

#[expect(dead_code, reason = "held until the run is over")]
enum Server {
    Ours(Child),
    Other(Process),
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Loads it.
    pub(crate) async fn bench(&self, flags: &[String]) -> Result<Measurement, Failure> {
        let output = Command::new(built::server().await?)
            .args(["bench", "--format", "json", "--wire", self.wire])
            .args(["--server", &self.address, "--pid", &self.pid.to_string()])
            .args(flags)
            .kill_on_drop(true)
            .output()
            .await?;
        // It also fails when diffs are missing, which others' may.
        Measurement::parse(&output.stdout).ok_or_else(|| {
            String::from_utf8_lossy(&output.stderr)
                .trim()
                .to_owned()
                .into()
        })
    }
}

/// A program of the same build.
fn beside(name: &str) -> Result<PathBuf, Failure> {
    let this = std::env::current_exe()?;
    let path = this.parent().unwrap_or(Path::new(".")).join(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(format!("there is no {}: run compat-tests/bench.sh", path.display()).into())
    }
}

async fn yardstick(
    what: &str,
    flags: impl IntoIterator<Item = &str>,
) -> Result<(Server, String, u32), Failure> {
    let mut process = Command::new(beside("yardstick")?)
        .arg(what)
        .args(flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stdout = process.stdout.take().ok_or("no standard output")?;
    let mut lines = BufReader::new(stdout).lines();
    let address = wait::within("the yardstick to serve", lines.next_line()).await??;
    let pid = process.id().ok_or("the yardstick has ended")?;
    let address = address.ok_or("the yardstick did not start")?;
    Ok((Server::Other(process), address, pid))
}

/// nats-server writes the port that it chose into a file.
async fn nats() -> Result<(Server, String, u32), Failure> {
    let program = tools::find("nats-server", "NATS_SERVER")?;
    let folder = std::env::temp_dir().join(format!("persist-pubsub-nats-{}", fastrand::u64(..)));
    std::fs::create_dir(&folder)?;
    let process = Command::new(program)
        .args(["-a", "127.0.0.1", "-p", "-1", "--ports_file_dir"])
        .arg(&folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let pid = process.id().ok_or("nats-server has ended")?;
    let file = folder.join(format!("nats-server_{pid}.ports"));
    let address = wait::until("nats-server to write its port", async || {
        let text = std::fs::read_to_string(&file).ok()?;
        let ports: serde_json::Value = serde_json::from_str(&text).ok()?;
        let url = ports["nats"][0].as_str()?;
        Some(url.trim_start_matches("nats://").to_owned())
    })
    .await?;
    std::fs::remove_dir_all(&folder)?;
    Ok((Server::Other(process), address, pid))
}
