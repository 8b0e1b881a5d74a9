//! What a restarted server has to know: a small file of JSON.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{MAX_FENCES, MAX_NAME, Token};

/// The version of what is written, and the only one that is read.
const VERSION: u64 = 1;
/// Far more than the most fences with the longest names take.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Where the state is kept.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
}

/// A state file that a server cannot start with: it does not guess who was
/// fenced out. A retry cannot help; deleting the file forgets the fences.
#[derive(Debug, thiserror::Error)]
#[error("{path} (--state-file): {why}")]
pub struct BrokenState {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

impl StateFile {
    /// Reads the file, or makes one without fences, which shows that it can be
    /// written.
    pub(super) fn open(path: &Path) -> Result<(Self, BTreeMap<String, Token>), BrokenState> {
        let broken = |why: String| BrokenState {
            path: path.to_owned(),
            why,
        };
        let file = Self {
            path: path.to_owned(),
        };
        let tokens = match File::open(path) {
            Ok(open) => {
                let mut text = String::new();
                open.take(MAX_BYTES + 1)
                    .read_to_string(&mut text)
                    .map_err(|e| broken(format!("cannot be read: {e}")))?;
                if text.len() as u64 > MAX_BYTES {
                    return Err(broken(format!("larger than {MAX_BYTES} bytes")));
                }
                parse(&text).map_err(broken)?
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let none = BTreeMap::new();
                file.write(&none)
                    .map_err(|e| broken(format!("cannot be written: {e}")))?;
                none
            }
            Err(e) => return Err(broken(format!("cannot be read: {e}"))),
        };
        Ok((file, tokens))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes it whole, or not at all, and so that it survives a loss of power.
    /// An error leaves the file as it was, or as it was to be.
    pub(super) fn write(&self, tokens: &BTreeMap<String, Token>) -> io::Result<()> {
        let mut draft = self.path.clone().into_os_string();
        draft.push(".new");
        let mut file = File::create(&draft)?;
        file.write_all(show(tokens).as_bytes())?;
        file.sync_all()?;
        drop(file);
        fs::rename(&draft, &self.path)?;
        let folder = self.path.parent().filter(|f| !f.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

fn show(tokens: &BTreeMap<String, Token>) -> String {
    let fences: Vec<_> = tokens
        .iter()
        .map(|(environment, token)| {
            json!({
                "environment": environment,
                "generation": token.generation,
                "epoch": token.epoch,
                "unknown_v0": token.unknown_v0,
                "forced": token.forced,
            })
        })
        .collect();
    format!("{:#}\n", json!({ "version": VERSION, "fences": fences }))
}

fn parse(text: &str) -> Result<BTreeMap<String, Token>, String> {
    let state: Value = serde_json::from_str(text).map_err(|e| format!("no JSON: {e}"))?;
    match state.get("version").and_then(Value::as_u64) {
        Some(VERSION) => {}
        Some(other) => {
            return Err(format!(
                "its version is {other}, and this program knows {VERSION}"
            ));
        }
        None => return Err("it has no version".to_owned()),
    }
    let fences = state.get("fences").and_then(Value::as_array);
    let fences = fences.ok_or("it has no list of fences")?;
    if fences.len() > MAX_FENCES {
        return Err(format!(
            "{} fences, and {MAX_FENCES} are the most",
            fences.len()
        ));
    }
    let mut tokens = BTreeMap::new();
    for (i, fence) in fences.iter().enumerate() {
        let number = |field: &str| {
            let value = fence.get(field).and_then(Value::as_u64);
            value.ok_or_else(|| format!("fence {}: {field} is no whole number", i + 1))
        };
        let environment = fence.get("environment").and_then(Value::as_str);
        let environment = environment.filter(|name| (1..=MAX_NAME).contains(&name.len()));
        let environment =
            environment.ok_or_else(|| format!("fence {}: it names no environment", i + 1))?;
        let unknown_v0 = fence.get("unknown_v0").and_then(Value::as_bool);
        let token = Token {
            generation: number("generation")?,
            epoch: number("epoch")?,
            unknown_v0: unknown_v0
                .ok_or_else(|| format!("fence {}: unknown_v0 is neither true nor false", i + 1))?,
            // Version 0.1.0 wrote none, and passes it over.
            forced: match fence.get("forced") {
                None => 0,
                Some(_) => number("forced")?,
            },
        };
        if tokens.insert(environment.to_owned(), token).is_some() {
            return Err(format!(
                "environment '{}' has two fences",
                environment.escape_debug()
            ));
        }
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> BTreeMap<String, Token> {
        let token = |generation, unknown_v0| Token {
            generation,
            epoch: 7,
            unknown_v0,
            forced: 5,
        };
        BTreeMap::from([
            ("default".to_owned(), token(2, true)),
            ("\"e\n".to_owned(), token(u64::MAX, false)),
        ])
    }

    #[test]
    fn what_is_written_is_read() {
        for tokens in [BTreeMap::new(), some()] {
            assert_eq!(parse(&show(&tokens)), Ok(tokens));
        }
    }

    #[test]
    fn the_largest_can_be_read() {
        let name = |i| format!("{i:0MAX_NAME$}").replace('0', "\u{1}");
        let token = Token {
            generation: u64::MAX,
            epoch: u64::MAX,
            unknown_v0: false,
            forced: u64::MAX,
        };
        let most: BTreeMap<_, _> = (0..MAX_FENCES).map(|i| (name(i), token)).collect();
        assert!((show(&most).len() as u64) < MAX_BYTES);
    }

    #[test]
    fn half_a_file_is_none() {
        let whole = show(&some());
        for len in 0..whole.trim_end().len() {
            let half = whole.get(..len).unwrap();
            assert!(parse(half).is_err(), "{half}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let one = |fence: &str| format!(r#"{{"version":1,"fences":[{fence}]}}"#);
        let good = r#"{"environment":"a","generation":1,"epoch":1,"unknown_v0":false}"#;
        assert!(parse(&one(good)).is_ok());
        for (text, expected) in [
            (String::new(), "no JSON"),
            ("{}".to_owned(), "no version"),
            (r#"{"version":2,"fences":[]}"#.to_owned(), "version is 2"),
            (r#"{"version":1}"#.to_owned(), "no list"),
            (one("1"), "names no environment"),
            (one(&good.replace("\"a\"", "\"\"")), "names no environment"),
            (one(&good.replace(":1,\"e", ":-1,\"e")), "generation"),
            (one(&good.replace("false", "0")), "unknown_v0"),
            (one(&format!("{good},{good}")), "two fences"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
