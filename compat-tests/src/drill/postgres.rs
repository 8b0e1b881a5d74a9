//! A consensus store in PostgreSQL: one that is there, or one that is started
//! for the drill in a temporary folder and ends with it.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::process::Command;
use tokio_postgres::{NoTls, Statement};

use super::Failure;
use super::consensus::Row;
use super::shards::Number;
use crate::child::Folder;
use crate::tools::{self, Missing};
use crate::wait::{TimedOut, until};

/// Where Debian keeps a version's programs, and it has them nowhere else.
const DEBIAN: &str = "/usr/lib/postgresql";
/// PostgreSQL refuses to run as root; one of these runs it then.
const USERS: [&str; 2] = ["postgres", "nobody"];
/// Connections of a process, so that one fetch does not delay another.
const CONNECTIONS: usize = 4;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS persist_pubsub_drill (
    shard smallint NOT NULL,
    seqno bigint NOT NULL,
    diff bytea NOT NULL,
    PRIMARY KEY (shard, seqno))";
/// Nobody leaves out a seqno, so that it is enough that this one is free.
const APPEND: &str = "INSERT INTO persist_pubsub_drill VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
const SINCE: &str =
    "SELECT seqno, diff FROM persist_pubsub_drill WHERE shard = $1 AND seqno > $2 ORDER BY seqno";
const HEAD: &str = "SELECT coalesce(max(seqno), 0) FROM persist_pubsub_drill WHERE shard = $1";

/// A PostgreSQL of the drill's own. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    _process: tokio::process::Child,
    folder: Folder,
}

/// PostgreSQL could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It is not installed.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The operating system refused.
    #[error("PostgreSQL: {0}")]
    Io(#[from] std::io::Error),
    /// It says why.
    #[error("{program} ended with {status}: {stderr}")]
    Failed {
        /// Which of its programs.
        program: &'static str,
        /// How.
        status: std::process::ExitStatus,
        /// What it wrote.
        stderr: String,
    },
    /// We are root, and there is nobody else.
    #[error("PostgreSQL does not run as root, and there is none of the users {USERS:?}")]
    NoUser,
    /// It does not answer.
    #[error("{0}; it wrote:\n{1}")]
    TimedOut(TimedOut, String),
}

impl Server {
    /// Makes a database in a temporary folder and serves it on a socket
    /// there. What it holds lives as long as the drill: nothing is synced.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub async fn start() -> Result<Self, StartError> {
        let folder = Folder::new()?;
        let user = user()?;
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid))?;
        }
        let data = folder.path().join("data");
        let made = command("initdb", &folder, user)?
            .arg("--pgdata")
            .arg(&data)
            .args(["--username=drill", "--auth=trust", "--no-sync"])
            .args(["--no-locale", "--encoding=UTF8"])
            .stdout(Stdio::null())
            .output()
            .await?;
        if !made.status.success() {
            return Err(StartError::Failed {
                program: "initdb",
                status: made.status,
                stderr: String::from_utf8_lossy(&made.stderr).into_owned(),
            });
        }
        let log = std::fs::File::create(folder.log())?;
        let process = command("postgres", &folder, user)?
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(folder.path())
            .args(["-c", "listen_addresses=", "-c", "fsync=off"])
            .args(["-c", "max_connections=100"])
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let server = Self {
            _process: process,
            folder,
        };
        let url = server.url();
        until("PostgreSQL to serve", async || {
            clear(&url).await.ok().map(|()| url.clone())
        })
        .await
        .map_err(|late| StartError::TimedOut(late, server.log()))?;
        Ok(server)
    }

    /// Where it serves.
    #[must_use]
    pub fn url(&self) -> String {
        format!(
            "host={} user=drill dbname=postgres",
            self.folder.path().display()
        )
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.log()).unwrap_or_default()
    }
}

/// One of its programs, to be run as a user that it accepts.
fn command(
    program: &'static str,
    folder: &Folder,
    user: Option<(u32, u32)>,
) -> Result<Command, StartError> {
    let mut command = Command::new(find(program)?);
    command
        .current_dir(folder.path())
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    Ok(command)
}

/// `POSTGRES_BIN`'s, the newest of Debian's, or that on the path.
fn find(program: &'static str) -> Result<PathBuf, Missing> {
    if let Some(folder) = std::env::var_os("POSTGRES_BIN") {
        return Ok(Path::new(&folder).join(program));
    }
    let versions = std::fs::read_dir(DEBIAN).into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            let file = entry.path().join("bin").join(program);
            file.is_file().then_some((version, file))
        })
        .max();
    match newest {
        Some((_, file)) => Ok(file),
        None => tools::find(program, "POSTGRES_BIN"),
    }
}

/// Who is to run it: user and group. `None`: we may.
fn user() -> Result<Option<(u32, u32)>, StartError> {
    if std::fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd")?;
    let named = |name: &&str| {
        users.lines().find_map(|line| {
            let mut fields = line.split(':');
            if fields.next()? != *name {
                return None;
            }
            let ids = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
            Some(ids)
        })
    };
    let ids = USERS.iter().find_map(named);
    ids.map(Some).ok_or(StartError::NoUser)
}

/// Empties the store, and makes it if there is none.
///
/// # Errors
/// It cannot be reached.
pub async fn clear(url: &str) -> Result<(), Failure> {
    let client = connect(url).await?;
    client
        .batch_execute(&format!("{TABLE}; TRUNCATE persist_pubsub_drill"))
        .await?;
    Ok(())
}

async fn connect(url: &str) -> Result<tokio_postgres::Client, Failure> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // It ends with the client; why, the next call says.
    tokio::spawn(connection);
    Ok(client)
}

/// A process's connections to PostgreSQL.
pub struct Client {
    connections: Vec<Connection>,
    next: AtomicUsize,
}

struct Connection {
    client: tokio_postgres::Client,
    append: Statement,
    since: Statement,
    head: Statement,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// There is no store, or it has not been [cleared](clear) yet.
    pub async fn connect(url: &str) -> Result<Self, Failure> {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let client = connect(url).await?;
            connections.push(Connection {
                append: client.prepare(APPEND).await?,
                since: client.prepare(SINCE).await?,
                head: client.prepare(HEAD).await?,
                client,
            });
        }
        Ok(Self {
            connections,
            next: AtomicUsize::new(0),
        })
    }

    /// As [`super::consensus::Consensus::compare_and_set`].
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn compare_and_set(
        &self,
        shard: Number,
        at: u64,
        diff: &Bytes,
    ) -> Result<bool, Failure> {
        let connection = self.turn()?;
        let (shard, seqno) = (i16::from(shard), i64::try_from(at + 1)?);
        let rows = connection
            .client
            .execute(&connection.append, &[&shard, &seqno, &diff.as_ref()])
            .await?;
        Ok(rows == 1)
    }

    /// As [`super::consensus::Consensus::since`].
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn since(&self, shard: Number, at: u64) -> Result<Vec<Row>, Failure> {
        let connection = self.turn()?;
        let (shard, at) = (i16::from(shard), i64::try_from(at)?);
        let rows = connection
            .client
            .query(&connection.since, &[&shard, &at])
            .await?;
        rows.iter()
            .map(|row| {
                let seqno: i64 = row.try_get(0)?;
                let diff: Vec<u8> = row.try_get(1)?;
                Ok((u64::try_from(seqno)?, diff.into()))
            })
            .collect()
    }

    /// As [`super::consensus::Consensus::head`].
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn head(&self, shard: Number) -> Result<u64, Failure> {
        let connection = self.turn()?;
        let row = connection
            .client
            .query_one(&connection.head, &[&i16::from(shard)])
            .await?;
        Ok(u64::try_from(row.try_get::<_, i64>(0)?)?)
    }

    fn turn(&self) -> Result<&Connection, Failure> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let connection = self.connections.get(turn % CONNECTIONS);
        Ok(connection.ok_or("no connection to the store")?)
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("connections", &self.connections.len())
            .finish_non_exhaustive()
    }
}
