//! A consensus store in a folder: a file per diff, written with
//! compare-and-set. As much as the example needs; a host has a database.

use std::fs;
use std::io::{ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use persist_pubsub_client::ShardId;

/// The store. A clone is the same one; so is any other of the same folder, in
/// another process too.
#[derive(Clone)]
pub(crate) struct Consensus {
    folder: PathBuf,
}

impl Consensus {
    /// The store in this folder, which is made if there is none.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// Commits a diff, if the shard has not come to this seqno yet. False: it
    /// has, and nothing was changed.
    pub(crate) async fn append(&self, shard: ShardId, seqno: u64, diff: Bytes) -> Result<bool> {
        let (folder, target) = (self.folder.clone(), self.file(shard, seqno));
        blocking(move || {
            static NEXT: AtomicU64 = AtomicU64::new(0);
            let turn = NEXT.fetch_add(1, Ordering::Relaxed);
            let draft = folder.join(format!("draft-{}-{turn}", std::process::id()));
            if let Some(shards) = target.parent() {
                fs::create_dir_all(shards)?;
            }
            // Whole, or not at all: a link is the compare-and-set.
            fs::write(&draft, diff)?;
            let linked = fs::hard_link(&draft, &target);
            fs::remove_file(&draft)?;
            match linked {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
                linked => linked.map(|()| true),
            }
        })
        .await
    }

    /// The diffs above a seqno, in order: what a fetch brings.
    pub(crate) async fn above(&self, shard: ShardId, seqno: u64) -> Result<Vec<Bytes>> {
        let store = self.clone();
        blocking(move || {
            let mut diffs = Vec::new();
            for seqno in seqno + 1.. {
                match fs::read(store.file(shard, seqno)) {
                    Ok(diff) => diffs.push(diff.into()),
                    Err(error) if error.kind() == ErrorKind::NotFound => break,
                    Err(error) => return Err(error),
                }
            }
            Ok(diffs)
        })
        .await
    }

    fn file(&self, shard: ShardId, seqno: u64) -> PathBuf {
        self.folder.join(shard.to_string()).join(seqno.to_string())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}
