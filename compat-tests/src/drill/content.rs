//! What a diff says, and the digest of a run of them.
//!
//! A diff names the digest of the state that it was made for, as a real one
//! applies to one state alone: a process that applied anything else before it
//! finds out at once.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher as _;

use bytes::Bytes;

/// About what the diffs of the recorded traffic have.
const BYTES: usize = 890;

/// The digest of a shard's diffs from the first to some seqno.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(pub u64);

impl Digest {
    /// With the next diff.
    #[must_use]
    pub fn then(self, seqno: u64, diff: &[u8]) -> Self {
        // The same in every process: its keys are fixed.
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher.write_u64(seqno);
        hasher.write(diff);
        Self(hasher.finish())
    }
}

/// What a diff says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// The generation of the process that wrote it.
    pub generation: u64,
    /// Generations below this one are fenced out. 0: none.
    pub fence: u64,
    /// The state that it was made for.
    pub after: Digest,
}

impl Content {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(BYTES);
        for number in [self.generation, self.fence, self.after.0] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        // Not all alike, so that a diff cut or shifted is another.
        bytes.extend((bytes.len()..BYTES).map(|at| at.to_le_bytes()[0]));
        bytes.into()
    }

    /// What bytes say. `None`: they are no diff of the drill.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| {
            let bytes = bytes.get(at * 8..at * 8 + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        Some(Self {
            generation: number(0)?,
            fence: number(1)?,
            after: Digest(number(2)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let content = Content {
            generation: 2,
            fence: 3,
            after: Digest::default().then(1, b"one"),
        };
        let bytes = content.encode();
        assert_eq!(bytes.len(), BYTES);
        assert_eq!(Content::decode(&bytes), Some(content));
        assert_eq!(Content::decode(&bytes[..20]), None);
    }

    #[test]
    fn a_digest_tells_what_when_and_after_what() {
        let one = Digest::default().then(1, b"one");
        assert_eq!(one, Digest::default().then(1, b"one"));
        let others = [
            Digest::default().then(1, b"two"),
            Digest::default().then(2, b"one"),
            one.then(1, b"one"),
        ];
        assert!(!others.contains(&one), "{one:?} is among {others:?}");
    }
}
