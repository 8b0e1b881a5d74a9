//! Which shards there are, and which role writes them.

use std::ops::RangeInclusive;

use persist_pubsub_proto::ShardId;

/// A shard, by its number.
pub type Number = u8;

/// Says which generation is fenced out. Written when the catalog is upgraded.
pub const CATALOG: Number = 0;
/// Written by every `environmentd`, read by every `clusterd`.
pub const TABLES: RangeInclusive<Number> = 1..=12;
/// Written by every `clusterd`, read by every `environmentd`.
pub const VIEWS: RangeInclusive<Number> = 13..=16;

/// All of them: every process follows every shard.
pub fn all() -> impl Iterator<Item = Number> {
    CATALOG..=*VIEWS.end()
}

/// A shard's id.
#[must_use]
pub fn id(number: Number) -> ShardId {
    let mut bytes = [0xd7; 16];
    bytes[15] = number;
    ShardId::new(bytes)
}

/// The number of a shard of the drill.
#[must_use]
pub fn number(id: ShardId) -> Option<Number> {
    all().find(|&number| self::id(number) == id)
}

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Role {
    /// Coordinates: writes the tables.
    Environmentd,
    /// Works: writes the views.
    Clusterd,
}

impl Role {
    /// What it writes. It is not measured on these: compare-and-set brings a
    /// writer up to date, with or without pubsub.
    #[must_use]
    pub fn writes(self) -> RangeInclusive<Number> {
        match self {
            Self::Environmentd => TABLES,
            Self::Clusterd => VIEWS,
        }
    }

    /// Its name, as processes and tables show it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Environmentd => "environmentd",
            Self::Clusterd => "clusterd",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_has_a_number_and_each_but_the_catalog_one_writing_role() {
        for shard in all() {
            assert_eq!(number(id(shard)), Some(shard));
            let roles = [Role::Environmentd, Role::Clusterd];
            let writers = roles.iter().filter(|role| role.writes().contains(&shard));
            assert_eq!(writers.count(), usize::from(shard != CATALOG), "{shard}");
        }
        assert_eq!(number(ShardId::new([1; 16])), None);
    }
}
