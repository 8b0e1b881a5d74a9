//! A recording's file, from wherever it comes.

use bytes::Bytes;
use persist_pubsub_server::recording::{Problem, Recording};

/// Runs the target: the bytes are one client's file.
///
/// # Panics
/// When something does not hold.
pub fn run(data: &[u8]) {
    match Recording::of_one("fuzz", Bytes::copy_from_slice(data)) {
        Ok(recording) => valid(&recording, data),
        Err(problem) => names_a_place(&problem, data.len()),
    }
}

/// What was read is the whole file, and can be asked everything.
fn valid(recording: &Recording, data: &[u8]) {
    let mut written = Vec::with_capacity(data.len());
    for record in &recording.records {
        let micros = u64::try_from(record.at.as_micros()).unwrap_or(u64::MAX);
        let length = u32::try_from(record.raw.len()).unwrap_or(u32::MAX);
        written.extend_from_slice(&micros.to_le_bytes());
        written.extend_from_slice(&length.to_le_bytes());
        written.extend_from_slice(&record.raw);
    }
    assert_eq!(written, data, "other bytes than were read");
    let pushes = recording.pushes().count();
    let diffs = recording.diffs();
    let last = recording.last_seqnos();
    assert!(diffs.values().map(|d| d.len()).sum::<usize>() <= pushes);
    assert_eq!(diffs.len(), last.len());
    for (shard, diffs) in &diffs {
        assert_eq!(diffs.keys().next_back(), last.get(shard));
    }
    for inversion in recording.inversions() {
        assert!(inversion.early < inversion.late);
        assert!(inversion.late < recording.records.len());
    }
    let times = recording.records.iter().map(|r| r.at);
    assert_eq!(recording.length(), times.max().unwrap_or_default());
}

/// A problem points into the file.
fn names_a_place(problem: &Problem, length: usize) {
    let at = match problem {
        Problem::TruncatedHead(at) | Problem::ClockWentBack(at) => *at,
        Problem::TruncatedMessage {
            offset,
            expected,
            found,
        } => {
            assert!(found < expected && offset + found == length);
            *offset
        }
        Problem::Malformed { offset, .. } | Problem::ShardId { offset, .. } => *offset,
        Problem::Io(_) | Problem::Empty | Problem::Name => {
            panic!("{problem} of bytes")
        }
    };
    assert!(at <= length, "{problem}: the file has {length} bytes");
}
