//! What a process reports, one line each. Times are nanoseconds since the
//! Unix epoch.

use std::fmt;
use std::str::FromStr;

use super::content::Digest;
use super::shards::Number;

/// How a diff became part of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The process committed it.
    Own,
    /// It was told of it.
    Told,
    /// It fetched: told to by a gap or a resync, or because it connects again.
    Fetched,
    /// It polled.
    Polled,
    /// It wanted to commit, and somebody else had.
    Outrun,
    /// It read the whole state, to begin with.
    Read,
}

const HOWS: [(How, &str); 6] = [
    (How::Own, "own"),
    (How::Told, "told"),
    (How::Fetched, "fetched"),
    (How::Polled, "polled"),
    (How::Outrun, "outrun"),
    (How::Read, "read"),
];

/// One thing that happened in a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A state moved on by one diff: of [`How::Own`], the diff was committed.
    Moved {
        /// When.
        at: u64,
        /// Whose state.
        shard: Number,
        /// Up to where.
        seqno: u64,
        /// What the state is now.
        digest: Digest,
        /// How.
        how: How,
        /// In which of the process's sessions; 0 for none.
        session: u64,
    },
    /// A diff was discarded because something before it was missing.
    Discarded {
        /// When.
        at: u64,
        /// Whose.
        shard: Number,
        /// Which.
        seqno: u64,
        /// Where the state was.
        state: u64,
        /// In which of the process's sessions.
        session: u64,
    },
    /// A session began, and every shard was subscribed to.
    Up {
        /// When.
        at: u64,
        /// Its number, from 1.
        session: u64,
    },
    /// A session is over.
    Down {
        /// When.
        at: u64,
        /// Its number.
        session: u64,
        /// Why.
        why: String,
    },
    /// What may never be.
    Wrong {
        /// When.
        at: u64,
        /// What.
        what: String,
    },
    /// The process ends, because its generation was fenced out.
    Fenced {
        /// When.
        at: u64,
        /// Who told it, and what.
        why: String,
    },
    /// The process has done what it was told: the order's number.
    Done {
        /// When.
        at: u64,
        /// Which.
        order: u64,
    },
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A line is a record.
        let flat = |text: &str| text.replace(['\n', '\r'], " ");
        match self {
            Self::Moved {
                at,
                shard,
                seqno,
                digest,
                how,
                session,
            } => {
                let how = HOWS.iter().find(|(it, _)| it == how).map_or("", |(_, n)| n);
                write!(f, "moved {at} {shard} {seqno} {} {how} {session}", digest.0)
            }
            Self::Discarded {
                at,
                shard,
                seqno,
                state,
                session,
            } => write!(f, "discarded {at} {shard} {seqno} {state} {session}"),
            Self::Up { at, session } => write!(f, "up {at} {session}"),
            Self::Down { at, session, why } => write!(f, "down {at} {session} {}", flat(why)),
            Self::Wrong { at, what } => write!(f, "wrong {at} {}", flat(what)),
            Self::Fenced { at, why } => write!(f, "fenced {at} {}", flat(why)),
            Self::Done { at, order } => write!(f, "done {at} {order}"),
        }
    }
}

/// A line that is no record.
#[derive(Debug, thiserror::Error)]
#[error("a process reported {0:?}")]
pub struct NoRecord(String);

impl FromStr for Record {
    type Err = NoRecord;

    fn from_str(line: &str) -> Result<Self, NoRecord> {
        parse(line).ok_or_else(|| NoRecord(line.to_owned()))
    }
}

fn parse(line: &str) -> Option<Record> {
    let (kind, rest) = line.split_once(' ')?;
    let (at, rest) = rest.split_once(' ')?;
    let at = at.parse().ok()?;
    let mut words = rest.split(' ');
    Some(match kind {
        "moved" => Record::Moved {
            at,
            shard: words.next()?.parse().ok()?,
            seqno: words.next()?.parse().ok()?,
            digest: Digest(words.next()?.parse().ok()?),
            how: {
                let name = words.next()?;
                HOWS.iter().find(|(_, it)| *it == name)?.0
            },
            session: words.next()?.parse().ok()?,
        },
        "discarded" => Record::Discarded {
            at,
            shard: words.next()?.parse().ok()?,
            seqno: words.next()?.parse().ok()?,
            state: words.next()?.parse().ok()?,
            session: words.next()?.parse().ok()?,
        },
        "up" => Record::Up {
            at,
            session: rest.parse().ok()?,
        },
        "down" => {
            let (session, why) = rest.split_once(' ')?;
            Record::Down {
                at,
                session: session.parse().ok()?,
                why: why.to_owned(),
            }
        }
        "wrong" => Record::Wrong {
            at,
            what: rest.to_owned(),
        },
        "fenced" => Record::Fenced {
            at,
            why: rest.to_owned(),
        },
        "done" => Record::Done {
            at,
            order: rest.parse().ok()?,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_record() {
        let at = 1_790_000_000_000_000_000;
        let why = "a  reason, with spaces".to_owned();
        let records = [
            Record::Moved {
                at,
                shard: 3,
                seqno: 9,
                digest: Digest(u64::MAX),
                how: How::Outrun,
                session: 2,
            },
            Record::Discarded {
                at,
                shard: 3,
                seqno: 9,
                state: 6,
                session: 1,
            },
            Record::Up { at, session: 1 },
            Record::Down {
                at,
                session: 1,
                why: why.clone(),
            },
            Record::Wrong {
                at,
                what: why.clone(),
            },
            Record::Fenced { at, why },
            Record::Done { at, order: 4 },
        ];
        for record in records {
            let line = record.to_string();
            assert_eq!(line.parse::<Record>().ok(), Some(record), "{line}");
        }
        for line in ["", "moved", "moved 1 2", "up x 1", "gone 1 2"] {
            assert!(line.parse::<Record>().is_err(), "{line}");
        }
    }
}
