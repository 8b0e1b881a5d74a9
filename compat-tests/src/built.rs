//! The programs of this workspace that tests start as children. Each is built
//! first where it is missing or out of date.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::child::{ChildError, io, workspace};

/// The server: `PERSIST_PUBSUB_BIN`, or this workspace's.
///
/// # Errors
/// It cannot be built.
pub async fn server() -> Result<PathBuf, ChildError> {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    if let Some(path) = std::env::var_os("PERSIST_PUBSUB_BIN") {
        return Ok(path.into());
    }
    let server = Program {
        kind: "--bin",
        name: "persist-pubsub",
        folder: "",
        sources: &["Cargo.lock", "client", "proto", "server"],
        but: &["tests", "examples", "benches"],
    };
    BUILT
        .get_or_try_init(|| server.beside_the_test())
        .await
        .cloned()
}

/// The client crate's example of a host.
///
/// # Errors
/// It cannot be built.
pub async fn host() -> Result<PathBuf, ChildError> {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    let host = Program {
        kind: "--example",
        name: "host",
        folder: "examples",
        sources: &["Cargo.lock", "client", "proto"],
        but: &["tests", "benches"],
    };
    BUILT
        .get_or_try_init(|| host.beside_the_test())
        .await
        .cloned()
}

struct Program {
    /// What cargo calls it.
    kind: &'static str,
    name: &'static str,
    /// Where cargo puts it, below the profile's folder.
    folder: &'static str,
    /// What it is made of. cargo knows better, but `cargo test` of this
    /// package alone does not ask it, and a test of yesterday's program
    /// misleads.
    sources: &'static [&'static str],
    /// Folders in these that it is not made of.
    but: &'static [&'static str],
}

impl Program {
    /// The one beside the test executable, or beside this program.
    async fn beside_the_test(&self) -> Result<PathBuf, ChildError> {
        // target/<profile>/deps/<this test>, or target/<profile>/<this program>
        let this = std::env::current_exe().map_err(io("the test's own path"))?;
        let profile = this
            .ancestors()
            .skip(1)
            .find(|folder| !folder.ends_with("deps"))
            .unwrap_or(Path::new("."));
        let program = profile.join(self.folder).join(self.name);
        let built = std::fs::metadata(&program).and_then(|file| file.modified());
        let mut sources = self.sources.iter().map(|name| workspace().join(name));
        if built.is_ok_and(|built| !sources.any(|source| self.is_newer(&source, built))) {
            return Ok(program);
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let folder = profile.file_name().unwrap_or(OsStr::new("debug"));
        // cargo's one profile whose folder has another name
        let name = if folder == "debug" {
            OsStr::new("dev")
        } else {
            folder
        };
        let output = Command::new(cargo)
            .current_dir(workspace())
            // With the features that a test run of the whole workspace uses,
            // whose libraries are there already.
            .args(["build", "--workspace", self.kind, self.name])
            .arg("--profile")
            .arg(name)
            .arg("--target-dir")
            .arg(profile.parent().unwrap_or(profile))
            .output()
            .await
            .map_err(io("starting cargo"))?;
        if output.status.success() {
            Ok(program)
        } else {
            Err(ChildError::Build {
                name: self.name,
                status: output.status,
                stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            })
        }
    }

    /// Whether a file, or any file in a folder, was changed after `time`.
    fn is_newer(&self, path: &Path, time: std::time::SystemTime) -> bool {
        if self.but.iter().any(|folder| path.ends_with(folder)) {
            return false;
        }
        match std::fs::read_dir(path) {
            Ok(entries) => entries
                .flatten()
                .any(|entry| self.is_newer(&entry.path(), time)),
            Err(_) => std::fs::metadata(path)
                .and_then(|file| file.modified())
                .is_ok_and(|changed| changed > time),
        }
    }
}
