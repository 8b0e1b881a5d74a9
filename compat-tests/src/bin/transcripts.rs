//! Writes the golden transcripts of this workspace's server into a folder,
//! one file per scenario. For `release.sh`.

use std::fmt::Write as _;
use std::path::PathBuf;

use persist_pubsub_compat_tests::matrix::script::scripts;
use persist_pubsub_compat_tests::matrix::server::{Failure, ServerKind};
use persist_pubsub_compat_tests::matrix::transcript::play;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let folder = std::env::args().nth(1).ok_or("usage: transcripts FOLDER")?;
    let folder = PathBuf::from(folder);
    tokio::fs::create_dir_all(&folder).await?;
    for (name, script) in scripts() {
        let mut text = String::new();
        for line in play(&ServerKind::Today, &script).await? {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{line}");
        }
        let file = folder.join(name).with_extension("txt");
        tokio::fs::write(&file, text).await?;
        println!("{}", file.display());
    }
    Ok(())
}
