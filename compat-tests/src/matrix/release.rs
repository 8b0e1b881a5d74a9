//! What is kept of each release, and built from it.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::server::Failure;
use crate::child::workspace;

/// A release: its version, and the programs that were built from its
/// packages.
#[derive(Clone, Debug)]
pub struct Release {
    /// As in `releases/`.
    pub version: String,
    /// The client crate, told what to do by lines.
    pub client: PathBuf,
    /// The server.
    pub server: PathBuf,
}

/// Where releases are kept.
#[must_use]
pub fn folder() -> PathBuf {
    workspace().join("compat-tests/releases")
}

/// The versions that are kept, the oldest first.
///
/// # Errors
/// The folder cannot be read.
pub fn versions() -> std::io::Result<Vec<String>> {
    let mut versions = Vec::new();
    for entry in std::fs::read_dir(folder())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            versions.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    let numbers = |version: &String| -> Vec<u64> {
        version.split('.').filter_map(|n| n.parse().ok()).collect()
    };
    versions.sort_by_key(numbers);
    Ok(versions)
}

impl Release {
    /// Whether its server can be one of several replicas.
    ///
    /// # Errors
    /// It does not run.
    pub async fn has_replicas(&self) -> Result<bool, Failure> {
        let mut help = Command::new(&self.server);
        let said = help.args(["serve", "--help"]).output().await?;
        Ok(String::from_utf8_lossy(&said.stdout).contains("--backplane"))
    }
}

/// Builds a release from its packages, unless it has been: `released.sh`.
///
/// # Errors
/// It does not build, with what cargo said.
pub async fn build(version: &str) -> Result<Release, Failure> {
    let output = Command::new("bash")
        .arg(workspace().join("compat-tests/released.sh"))
        .arg(version)
        .output()
        .await?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("release {version} does not build:\n{said}").into());
    }
    let built = workspace()
        .join("target/released")
        .join(version)
        .join("bin");
    let program = |name: &str| -> Result<PathBuf, Failure> {
        let file = Path::new(&built).join(name);
        if file.is_file() {
            Ok(file)
        } else {
            Err(format!("{} was not built", file.display()).into())
        }
    };
    Ok(Release {
        version: version.to_owned(),
        client: program("matrix-client")?,
        server: program("persist-pubsub")?,
    })
}
