//! A change of the project's code that breaks one promise, and the test that has
//! to notice. `../mutations` holds them, `../mutants.sh` tries them.
//!
//! ```text
//! promise: order
//! file: server/src/topic/cursor.rs
//! test: promises::order
//! --- before
//! text that stands in the file exactly once
//! --- after
//! what takes its place
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutation {
    /// Its file's name, without the ending.
    pub name: String,
    /// The promise that it breaks.
    pub promise: String,
    /// The file that it changes, from the workspace's folder on.
    pub file: PathBuf,
    /// The test of this crate that has to fail.
    pub test: String,
    before: String,
    after: String,
}

/// A mutation that cannot be read or applied.
#[derive(Debug, thiserror::Error)]
pub enum MutationError {
    /// A file.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    /// Its own text.
    #[error("{0}: not as a mutation is written: {1}")]
    Malformed(String, &'static str),
    /// The code has changed: mend the mutation.
    #[error("{name}: its text stands {times} times in {}, not once", file.display())]
    NotOnce {
        /// Which.
        name: String,
        /// Where.
        file: PathBuf,
        /// How often.
        times: usize,
    },
}

/// All mutations, by name.
///
/// # Errors
/// One of them cannot be read.
pub fn all() -> Result<Vec<Mutation>, MutationError> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("mutations");
    let io = |e| MutationError::Io(folder.clone(), e);
    let mut all = Vec::new();
    for entry in fs::read_dir(&folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let text = fs::read_to_string(&path).map_err(|e| MutationError::Io(path.clone(), e))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        all.push(Mutation::parse(&name, &text)?);
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

impl Mutation {
    fn parse(name: &str, text: &str) -> Result<Self, MutationError> {
        let malformed = |what| MutationError::Malformed(name.to_owned(), what);
        let (head, rest) = text
            .split_once("--- before\n")
            .ok_or_else(|| malformed("no `--- before`"))?;
        let (before, after) = rest
            .split_once("--- after\n")
            .ok_or_else(|| malformed("no `--- after`"))?;
        let field = |key: &str| head.lines().find_map(|line| line.strip_prefix(key));
        Ok(Self {
            name: name.to_owned(),
            promise: field("promise: ")
                .ok_or_else(|| malformed("no `promise:`"))?
                .to_owned(),
            file: field("file: ")
                .ok_or_else(|| malformed("no `file:`"))?
                .into(),
            test: field("test: ")
                .ok_or_else(|| malformed("no `test:`"))?
                .to_owned(),
            // The last line's end is the file's, not the text's.
            before: before.strip_suffix('\n').unwrap_or(before).to_owned(),
            after: after.strip_suffix('\n').unwrap_or(after).to_owned(),
        })
    }

    /// Its file in the workspace at `root`, mutated.
    ///
    /// # Errors
    /// The text is not there exactly once.
    pub fn applied(&self, root: &Path) -> Result<String, MutationError> {
        let path = root.join(&self.file);
        let code = fs::read_to_string(&path).map_err(|e| MutationError::Io(path, e))?;
        let times = code.matches(&self.before).count();
        if times != 1 {
            return Err(MutationError::NotOnce {
                name: self.name.clone(),
                file: self.file.clone(),
                times,
            });
        }
        Ok(code.replacen(&self.before, &self.after, 1))
    }
}
