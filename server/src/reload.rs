//! Files that may change while the server runs: certificates, tokens.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounter;

use crate::config::InvalidConfig;

/// The largest file that is read, in bytes: a bundle of authorities has some
/// hundred KiB.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// A file that a flag names.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) flag: &'static str,
    pub(crate) path: PathBuf,
}

impl File {
    pub(crate) fn new(flag: &'static str, path: PathBuf) -> Self {
        Self { flag, path }
    }

    /// What is wrong with it. `what` must not quote what is secret.
    pub(crate) fn invalid(&self, what: impl Into<String>) -> InvalidConfig {
        InvalidConfig {
            flag: self.flag,
            value: self.path.display().to_string(),
            allowed: what.into(),
        }
    }

    /// Its bytes.
    pub(crate) fn read(&self) -> Result<Vec<u8>, InvalidConfig> {
        let unreadable = |e: std::io::Error| self.invalid(format!("cannot be read: {e}"));
        // Before it is opened: a pipe would keep the reader for ever.
        let kind = std::fs::metadata(&self.path).map_err(unreadable)?;
        if !kind.is_file() {
            return Err(self.invalid("is no regular file"));
        }
        let mut bytes = Vec::new();
        std::fs::File::open(&self.path)
            .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
            .map_err(unreadable)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(self.invalid("is larger than 4 MiB"));
        }
        Ok(bytes)
    }
}

/// The bytes of all files of a thing, in their order.
pub(crate) type Contents = Vec<Vec<u8>>;

/// Reads all of them.
pub(crate) fn read(files: &[File]) -> Result<Contents, InvalidConfig> {
    files.iter().map(File::read).collect()
}

/// Something that is made of files.
pub(crate) trait Reload: Send + Sync + 'static {
    /// The files, always the same ones.
    fn files(&self) -> Vec<File>;
    /// Takes what the files say now. On an error the old stays in force.
    fn reload(&self, contents: &Contents) -> Result<(), InvalidConfig>;
}

/// One thing that is watched.
pub(crate) struct Watched {
    pub(crate) what: Arc<dyn Reload>,
    /// What the thing was made of.
    pub(crate) contents: Contents,
    pub(crate) reloaded: IntCounter,
    pub(crate) failed: IntCounter,
}

/// What was last seen of a thing's files.
#[derive(PartialEq, Eq)]
enum Seen {
    /// In force, or refused and told.
    Done(Result<Contents, String>),
    /// Refused once. Perhaps somebody is writing: they have to stand still
    /// until the next look.
    Doubtful(Result<Contents, String>),
}

/// Looks at the files again and again, and has their thing made anew when
/// they have changed. The files are compared and not their times: Kubernetes
/// swaps a link to a folder, whose files may be of any time.
pub(crate) async fn watch(watched: Vec<Watched>, every: Duration) {
    let mut all: Vec<(Watched, Seen)> = watched
        .into_iter()
        .map(|mut watched| {
            let seen = Seen::Done(Ok(std::mem::take(&mut watched.contents)));
            (watched, seen)
        })
        .collect();
    if all.is_empty() {
        return;
    }
    loop {
        tokio::time::sleep(every).await;
        // One thread of those for waiting: a file system that hangs keeps
        // this one and nothing else.
        let looking = tokio::task::spawn_blocking(move || {
            for (watched, seen) in &mut all {
                look(watched, seen);
            }
            all
        });
        match looking.await {
            Ok(looked) => all = looked,
            Err(error) => {
                tracing::error!(%error, "files are not watched any more");
                return;
            }
        }
    }
}

fn look(watched: &Watched, seen: &mut Seen) {
    let files = watched.what.files();
    let found = read(&files);
    let now = found.as_ref().map_err(ToString::to_string).cloned();
    let still = match seen {
        Seen::Done(before) if *before == now => return,
        Seen::Done(_) => false,
        Seen::Doubtful(before) => *before == now,
    };
    let taken = found.and_then(|contents| watched.what.reload(&contents));
    *seen = match taken {
        Ok(()) => {
            watched.reloaded.inc();
            for file in &files {
                tracing::info!(flag = file.flag, file = %file.path.display(), "reloaded");
            }
            Seen::Done(now)
        }
        Err(_) if !still => Seen::Doubtful(now),
        Err(error) => {
            watched.failed.inc();
            tracing::error!(%error, "not reloaded: what was read before stays in force");
            Seen::Done(now)
        }
    };
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A thing that refuses what begins with a `!`.
    struct Text {
        path: PathBuf,
        text: Mutex<Vec<u8>>,
    }

    impl Reload for Text {
        fn files(&self) -> Vec<File> {
            vec![File::new("--text", self.path.clone())]
        }

        fn reload(&self, contents: &Contents) -> Result<(), InvalidConfig> {
            if contents[0].starts_with(b"!") {
                return Err(self.files()[0].invalid("begins with !"));
            }
            self.text.lock().unwrap().clone_from(&contents[0]);
            Ok(())
        }
    }

    #[test]
    fn what_is_broken_keeps_the_old_and_is_told_once_it_stands_still() {
        let folder =
            std::env::temp_dir().join(format!("persist-pubsub-reload-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("text");
        let counter = |name: &str| IntCounter::new(name, "x").unwrap();
        let text = Arc::new(Text {
            path: path.clone(),
            text: Mutex::new(b"one".to_vec()),
        });
        let watched = Watched {
            what: Arc::clone(&text) as Arc<dyn Reload>,
            contents: Vec::new(),
            reloaded: counter("reloaded"),
            failed: counter("failed"),
        };
        let mut seen = Seen::Done(Ok(vec![b"one".to_vec()]));
        let mut write = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            look(&watched, &mut seen);
            let now = text.text.lock().unwrap().clone();
            (now, watched.reloaded.get(), watched.failed.get())
        };
        assert_eq!(write(b"one"), (b"one".to_vec(), 0, 0));
        assert_eq!(write(b"two"), (b"two".to_vec(), 1, 0));
        assert_eq!(write(b"!"), (b"two".to_vec(), 1, 0), "perhaps half written");
        assert_eq!(write(b"!!"), (b"two".to_vec(), 1, 0), "still moving");
        assert_eq!(write(b"!!"), (b"two".to_vec(), 1, 1));
        assert_eq!(write(b"!!"), (b"two".to_vec(), 1, 1), "told once");
        assert_eq!(write(b"two"), (b"two".to_vec(), 2, 1));
        std::fs::remove_file(&path).unwrap();
        look(&watched, &mut seen);
        look(&watched, &mut seen);
        look(&watched, &mut seen);
        assert_eq!((watched.reloaded.get(), watched.failed.get()), (2, 2));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_is_no_file_or_too_large_is_refused() {
        let folder = std::env::temp_dir();
        let error = File::new("--x", folder).read().unwrap_err().to_string();
        assert!(
            error.contains("--x") && error.contains("no regular file"),
            "{error}"
        );
        let zero = File::new("--x", "/dev/zero".into()).read().unwrap_err();
        assert!(zero.to_string().contains("no regular file"), "{zero}");
    }
}
