//! Starts the real `persist-pubsub` as a child process, on free ports of the
//! loopback, and knows when it serves because it says so.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::process::Command;

use crate::built;
use crate::wait::{TimedOut, within};

/// How often the child's addresses file is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A running server. Dropping it kills the process.
#[derive(Debug)]
pub struct Child {
    process: tokio::process::Child,
    binary: PathBuf,
    folder: Folder,
    addresses: Addresses,
}

/// Where a child serves, as it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The data port.
    pub listen: SocketAddr,
    /// The data port without TLS beside one with it.
    pub listen_plaintext: Option<SocketAddr>,
    /// The operators' port.
    pub admin_listen: SocketAddr,
    /// The process.
    pub pid: u32,
}

/// A child did not start, or not stop.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// There is no binary, and none could be built.
    #[error("cargo build of {name} failed with {status}:\n{stderr}")]
    Build {
        /// Which one.
        name: &'static str,
        /// How cargo ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// It ended before it served.
    #[error("the server ended with {status} before it served; it wrote:\n{log}")]
    Exited {
        /// How.
        status: ExitStatus,
        /// Its standard output and error.
        log: String,
    },
    /// It says something about its addresses that cannot be read.
    #[error("the addresses file says {0:?}")]
    Addresses(String),
    /// In time.
    #[error("{source}; the server wrote:\n{log}")]
    TimedOut {
        /// What was awaited.
        source: TimedOut,
        /// Its standard output and error.
        log: String,
    },
}

pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> ChildError {
    let what = what.into();
    move |source| ChildError::Io { what, source }
}

impl Child {
    /// Starts the server with further flags, and waits until it serves. Its
    /// ports are free ones of the loopback, unless `--listen=` or
    /// `--admin-listen=` says otherwise.
    ///
    /// # Errors
    /// It cannot be built or started, ends, or does not serve within
    /// [`crate::wait::PATIENCE`].
    pub async fn start<S: AsRef<OsStr>>(flags: &[S]) -> Result<Self, ChildError> {
        Self::start_binary(&built::server().await?, flags).await
    }

    /// As [`Child::start`], of any binary with the same command line: one of
    /// a release, say.
    ///
    /// # Errors
    /// As [`Child::start`].
    pub async fn start_binary<S: AsRef<OsStr>>(
        binary: &Path,
        flags: &[S],
    ) -> Result<Self, ChildError> {
        let folder = Folder::new().map_err(io("a temporary folder"))?;
        let file = folder.path().join("addresses.json");
        let log = std::fs::File::create(folder.log()).map_err(io("the child's log"))?;
        let mut command = Command::new(binary);
        // The settings of whoever runs the tests are not the test's.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PERSIST_PUBSUB_") {
                command.env_remove(name);
            }
        }
        command.arg("serve").arg("--addresses-file").arg(&file);
        for port in ["--listen=", "--admin-listen="] {
            let names_it = |flag: &S| flag.as_ref().to_string_lossy().starts_with(port);
            if !flags.iter().any(names_it) {
                command.arg(format!("{port}127.0.0.1:0"));
            }
        }
        command
            .args(flags)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            // Into a file: a pipe that nobody empties would stall the server.
            .stderr(log.try_clone().map_err(io("the child's log"))?)
            .stdout(log)
            .kill_on_drop(true);
        let mut process = command
            .spawn()
            .map_err(io(format!("starting {}", binary.display())))?;

        let ready = serves(&mut process, &file);
        match within("the server to write its addresses", ready).await {
            Ok(Ok(addresses)) => Ok(Self {
                process,
                binary: binary.to_owned(),
                folder,
                addresses,
            }),
            Ok(Err(NotServing::Exited(status))) => Err(ChildError::Exited {
                status,
                log: folder.read_log(),
            }),
            Ok(Err(NotServing::Other(error))) => Err(error),
            Err(source) => Err(ChildError::TimedOut {
                source,
                log: folder.read_log(),
            }),
        }
    }

    /// Runs a command of the same program that looks into this server, to
    /// its end: `&["generations", "--wait-gone=1"]`.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn ask(&self, command: &[&str]) -> Result<std::process::Output, ChildError> {
        let asked = Command::new(&self.binary)
            .args(command)
            .arg(format!("--admin={}", self.admin_url()))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        asked.await.map_err(io(format!("starting {command:?}")))
    }

    /// Where it serves.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The data port, to connect to.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addresses.listen)
    }

    /// The operators' port, to connect to.
    #[must_use]
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.addresses.admin_listen)
    }

    /// Everything that it has written to its standard output and error.
    #[must_use]
    pub fn log(&self) -> String {
        self.folder.read_log()
    }

    /// Memory that it has in use, in KiB.
    ///
    /// # Errors
    /// There is no `/proc`, or the process has ended.
    pub fn resident_kib(&self) -> std::io::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.addresses.pid))?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .ok_or_else(|| std::io::Error::other("no VmRSS in /proc"))
    }

    /// Sends SIGTERM, the polite request to end. Follow with [`Child::wait`].
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub async fn terminate(&self) -> Result<(), ChildError> {
        self.signal("TERM").await
    }

    /// Sends any signal, by its name without `SIG`.
    ///
    /// # Errors
    /// The signal cannot be sent: the child has ended, say.
    pub async fn signal(&self, name: &str) -> Result<(), ChildError> {
        // None once it was waited for: its number may be another's by now.
        let pid = self.process.id();
        let sent = match pid {
            Some(pid) => send_signal(name, pid).await,
            None => Err(std::io::ErrorKind::NotFound.into()),
        };
        sent.map_err(io(format!("SIG{name} to the server")))
    }

    /// Waits for it to end.
    ///
    /// # Errors
    /// It does not, within [`crate::wait::PATIENCE`].
    pub async fn wait(&mut self) -> Result<ExitStatus, ChildError> {
        match within("the server to end", self.process.wait()).await {
            Ok(status) => status.map_err(io("waiting for the server")),
            Err(source) => Err(ChildError::TimedOut {
                source,
                log: self.log(),
            }),
        }
    }
}

/// Sends a process a signal, by its name without `SIG`.
pub(crate) async fn send_signal(name: &str, pid: u32) -> std::io::Result<()> {
    // The shell's own `kill` is everywhere; the program is not.
    let status = Command::new("sh")
        .args(["-c", "kill -s \"$1\" \"$2\"", "sh", name, &pid.to_string()])
        .status()
        .await?;
    match status.success() {
        true => Ok(()),
        false => Err(std::io::Error::other(status.to_string())),
    }
}

enum NotServing {
    Exited(ExitStatus),
    Other(ChildError),
}

/// Waits for the addresses file, which appears whole (it is renamed into
/// place) once the server serves. Without an end of its own.
async fn serves(process: &mut tokio::process::Child, file: &Path) -> Result<Addresses, NotServing> {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            status = process.wait() => {
                return Err(match status {
                    Ok(status) => NotServing::Exited(status),
                    Err(e) => NotServing::Other(io("waiting for the server")(e)),
                });
            }
            _ = looks.tick() => {}
        }
        match tokio::fs::read_to_string(file).await {
            Ok(text) => {
                return Addresses::parse(&text)
                    .ok_or(NotServing::Other(ChildError::Addresses(text)));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(NotServing::Other(io("reading the addresses file")(e))),
        }
    }
}

impl Addresses {
    fn parse(text: &str) -> Option<Self> {
        let json: serde_json::Value = serde_json::from_str(text).ok()?;
        Some(Self {
            listen: json["listen"].as_str()?.parse().ok()?,
            listen_plaintext: match json["listen_plaintext"].as_str() {
                Some(address) => Some(address.parse().ok()?),
                None => None,
            },
            admin_listen: json["admin_listen"].as_str()?.parse().ok()?,
            pid: json["pid"].as_u64()?.try_into().ok()?,
        })
    }
}

/// The workspace's folder.
#[must_use]
pub fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// A temporary folder. Removed when dropped.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// A new and empty one.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new() -> std::io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "persist-pubsub-child-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        // Left over from a killed process of the same number.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file in it for what a child writes.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// What a child has written there so far.
    #[must_use]
    pub fn read_log(&self) -> String {
        std::fs::read(self.log())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
