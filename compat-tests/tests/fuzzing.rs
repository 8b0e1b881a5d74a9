//! The fuzz targets over their corpora, and over mutations of them: the same
//! ones in every run.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use persist_pubsub_compat_tests::fuzz::{TARGETS, Target};

use super::{Failure, Verdict};

/// A corpus is a beginning, not an archive.
const MAX_FILES: usize = 60;
/// Of each target, but for `sessions`, each of whose runs starts a server.
const MUTATIONS: u64 = 20_000;
const SESSION_MUTATIONS: u64 = 300;

fn corpus(name: &str) -> Result<Vec<(PathBuf, Vec<u8>)>, Failure> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder.join(name))? {
        let path = entry?.path();
        let content = std::fs::read(&path)?;
        files.push((path, content));
    }
    // A mutation is the same in every run.
    files.sort();
    Ok(files)
}

/// Runs a target, and says which bytes it failed on.
fn run((name, body): Target, what: &str, data: &[u8]) -> Verdict {
    catch_unwind(|| body(data)).map_err(|_| {
        let hex: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{name} failed on {what}: {hex}").into()
    })
}

/// splitmix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or(0)
    }

    /// A range of `length` bytes.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let from = self.below(length + 1);
        from..from + self.below((length - from).min(32) + 1)
    }
}

fn mutate(data: &mut Vec<u8>, others: &[(PathBuf, Vec<u8>)], random: &mut Random) {
    for _ in 0..=random.below(5) {
        let range = random.range(data.len());
        let at = random.below(data.len());
        match random.below(6) {
            0 if !data.is_empty() => data[at] ^= 1 << random.below(8),
            1 if !data.is_empty() => data[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            2 => drop(data.drain(range)),
            3 => data.extend_from_within(range),
            4 => data.truncate(range.start),
            _ => {
                let other = &others[random.below(others.len())].1;
                let piece = other[random.range(other.len())].to_vec();
                data.splice(at..at, piece);
            }
        }
    }
}

fn target(name: &str) -> Result<Target, Failure> {
    let found = TARGETS.into_iter().find(|target| target.0 == name);
    Ok(found.ok_or("no such target")?)
}

fn over_its_corpus(name: &str, mutations: u64) -> Verdict {
    let target = target(name)?;
    let corpus = corpus(name)?;
    assert!((1..=MAX_FILES).contains(&corpus.len()), "{}", corpus.len());
    for (path, data) in &corpus {
        run(target, &path.display().to_string(), data)?;
    }
    let asked = std::env::var("FUZZ_MUTATIONS").ok();
    let asked = asked.map(|text| text.parse()).transpose()?;
    let mut random = Random(1);
    for n in 0..asked.unwrap_or(mutations) {
        let mut data = corpus[random.below(corpus.len())].1.clone();
        mutate(&mut data, &corpus, &mut random);
        run(target, &format!("mutation {n}"), &data)?;
    }
    Ok(())
}

#[test]
fn frames() -> Verdict {
    over_its_corpus("frames", MUTATIONS)
}

#[test]
fn recordings() -> Verdict {
    over_its_corpus("recordings", MUTATIONS)
}

/// Each builds a command line, which takes its time.
#[test]
fn config() -> Verdict {
    over_its_corpus("config", MUTATIONS / 10)
}

#[test]
fn sessions() -> Verdict {
    over_its_corpus("sessions", SESSION_MUTATIONS)
}

/// Every target is tested here and can be run by libFuzzer.
#[test]
fn every_target_has_its_program_and_its_corpus() -> Verdict {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml"))?;
    for (name, _) in TARGETS {
        assert!(
            manifest.contains(&format!("\nname = \"{name}\"\n")),
            "{name}"
        );
        let program = fuzz.join(format!("fuzz_targets/{name}.rs"));
        let program = std::fs::read_to_string(program)?;
        assert!(program.contains(&format!("fuzz::{name}::run")), "{program}");
        assert!(!corpus(name)?.is_empty());
    }
    Ok(())
}
