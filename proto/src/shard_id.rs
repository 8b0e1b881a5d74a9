//! The name of a shard.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

/// The name of a persist shard: a UUID. Its text form is `s` and the UUID in
/// lower case with hyphens, 37 characters.
///
/// 16 bytes, free to copy, cheap to compare and to hash. Any 16 bytes are a
/// valid id; in text any hexadecimal case is read and lower case is written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId([u8; 16]);

/// Text or bytes that do not name a shard. A retry cannot help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidShardId {
    /// Text that is not `s` and a hyphenated UUID.
    Text,
    /// Bytes, so many, that are not 16.
    Length(usize),
}

/// Where the hyphens of the text form stand.
const HYPHENS: [usize; 4] = [9, 14, 19, 24];

impl ShardId {
    /// The number of characters of the text form.
    pub const TEXT_LEN: usize = 37;

    /// The shard of these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The shard of these bytes, which have to be 16, as v1 carries them.
    ///
    /// # Errors
    /// [`InvalidShardId::Length`] for any other number of bytes.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, InvalidShardId> {
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| InvalidShardId::Length(bytes.len()))
    }

    /// The shard's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The shard's bytes, as v1's messages hold them.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }

    /// The text form, without an allocation.
    #[must_use]
    pub fn to_text(&self) -> [u8; Self::TEXT_LEN] {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b'-'; Self::TEXT_LEN];
        text[0] = b's';
        let mut at = 1;
        for byte in self.0 {
            if HYPHENS.contains(&at) {
                at += 1;
            }
            text[at] = HEX[usize::from(byte >> 4)];
            text[at + 1] = HEX[usize::from(byte & 15)];
            at += 2;
        }
        text
    }

    /// The shard that this text names, given as bytes.
    ///
    /// # Errors
    /// [`InvalidShardId::Text`] for anything but `s` and a hyphenated UUID.
    pub fn from_text(text: &[u8]) -> Result<Self, InvalidShardId> {
        let text: &[u8; Self::TEXT_LEN] = text.try_into().map_err(|_| InvalidShardId::Text)?;
        if text[0] != b's' || HYPHENS.iter().any(|&at| text[at] != b'-') {
            return Err(InvalidShardId::Text);
        }
        let mut bytes = [0; 16];
        let mut at = 1;
        for byte in &mut bytes {
            if HYPHENS.contains(&at) {
                at += 1;
            }
            *byte = (nibble(text[at])? << 4) | nibble(text[at + 1])?;
            at += 2;
        }
        Ok(Self(bytes))
    }
}

fn nibble(digit: u8) -> Result<u8, InvalidShardId> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(InvalidShardId::Text),
    }
}

impl FromStr for ShardId {
    type Err = InvalidShardId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_text(text.as_bytes())
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.to_text();
        // The text form is ASCII by construction.
        f.pad(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for InvalidShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str(
                "not a shard id: expected 's' and a UUID, as in s42344d73-94f1-48b1-a33b-0892cb4ebbb7",
            ),
            Self::Length(n) => write!(f, "not a shard id: {n} bytes, expected 16"),
        }
    }
}

impl std::error::Error for InvalidShardId {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_is_not_a_shard_id() {
        for text in [
            "",
            "s",
            "42344d73-94f1-48b1-a33b-0892cb4ebbb7",
            "x42344d73-94f1-48b1-a33b-0892cb4ebbb7",
            "s42344d7394f148b1a33b0892cb4ebbb7",
            "s42344d73-94f1-48b1-a33b-0892cb4ebbb",
            "s42344d73-94f1-48b1-a33b-0892cb4ebbb77",
            "s42344d73-94f1-48b1-a33b-0892cb4ebbbg",
            "s42344d73-94f1-48b1-a33b+0892cb4ebbb7",
            "s42344d73-94f1-48b1-a33b-0892cb4ebbé",
        ] {
            assert_eq!(text.parse::<ShardId>(), Err(InvalidShardId::Text), "{text}");
        }
        assert_eq!(
            ShardId::from_slice(&[0; 15]),
            Err(InvalidShardId::Length(15))
        );
    }

    proptest! {
        #[test]
        fn text_and_bytes_round_trip(bytes: [u8; 16]) {
            let shard = ShardId::new(bytes);
            prop_assert_eq!(shard.to_string().parse::<ShardId>(), Ok(shard));
            prop_assert_eq!(shard.to_string().to_uppercase().replacen('S', "s", 1).parse(), Ok(shard));
            prop_assert_eq!(ShardId::from_slice(&shard.to_bytes()), Ok(shard));
        }

        #[test]
        fn any_bytes_parse_without_panicking(bytes: Vec<u8>, text in ".{0,40}") {
            let _ = ShardId::from_text(&bytes);
            let _ = ShardId::from_slice(&bytes);
            let _ = text.parse::<ShardId>();
        }
    }
}
