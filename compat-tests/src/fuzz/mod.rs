//! The bodies of the fuzz targets: plain functions of bytes, which panic when
//! something does not hold. libFuzzer calls them (`../fuzz.sh`), and so does
//! an ordinary test, over the corpus and over mutations of it
//! (`tests/fuzzing.rs`).

#![expect(clippy::panic, reason = "a panic is a target's verdict")]

pub mod config;
pub mod frames;
pub mod recordings;
pub mod sessions;

/// A target: what it is called, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets, by the names of their corpora.
pub const TARGETS: [Target; 4] = [
    ("frames", frames::run),
    ("recordings", recordings::run),
    ("config", config::run),
    ("sessions", sessions::run),
];

/// Takes the first byte off; 0 when there is none.
fn byte(data: &mut &[u8]) -> u8 {
    let Some((first, rest)) = data.split_first() else {
        return 0;
    };
    *data = rest;
    *first
}
