//! Recorded v0 traffic: folders of `.frames` files, one per client, named after
//! its caller id. A file is a sequence of records, integers little endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | microseconds since the recording began |
//! | 4 | length N of the message |
//! | N | one encoded `ProtoPubSubMessage` |
//!
//! The clock is shared by the files of one folder.

pub mod player;
pub mod raw_codec;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Buf, Bytes};
use persist_pubsub_proto::v0::ProtoPubSubMessage;
use persist_pubsub_proto::v0::proto_pub_sub_message::Message as Kind;
use persist_pubsub_proto::{InvalidShardId, ShardId};
use prost::Message;

/// What the clients of one folder sent, in the order in which the server of
/// the recording received it.
#[derive(Debug)]
pub struct Recording {
    /// The caller ids, sorted. A [`Record`] names its caller by its place here.
    pub callers: Vec<String>,
    /// Everything sent, by time.
    pub records: Vec<Record>,
}

/// One message of a recording.
#[derive(Clone, Debug)]
pub struct Record {
    /// When the server received it, since the recording began.
    pub at: Duration,
    /// Who sent it: an index into [`Recording::callers`].
    pub caller: usize,
    /// The message's bytes, as they were on the wire.
    pub raw: Bytes,
    /// The same, decoded.
    pub message: ProtoPubSubMessage,
    /// The shard that the message is about. `None`: it says nothing.
    pub shard: Option<ShardId>,
}

/// A diff that was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// Of which shard.
    pub shard: ShardId,
    /// Its place in the shard's state.
    pub seqno: u64,
    /// Its bytes.
    pub diff: Bytes,
}

/// Two pushes of one shard whose later seqno was received first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inversion {
    /// The push that came too early: an index into [`Recording::records`].
    pub early: usize,
    /// The push that should have come before it.
    pub late: usize,
}

/// A folder that is not a recording. A retry cannot help.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct RecordingError {
    /// The folder or file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a recording. Offsets count from the start of the file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file system refused.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// No `.frames` file in the folder.
    #[error("holds no .frames file")]
    Empty,
    /// A file whose name is no caller id.
    #[error("its name is not ASCII, as a caller id has to be")]
    Name,
    /// The file ends within a record's time or length.
    #[error("ends at byte {0}, within the head of a record")]
    TruncatedHead(usize),
    /// The file ends within a message.
    #[error("the message at byte {offset} should have {expected} bytes, {found} are left")]
    TruncatedMessage {
        /// Where the message begins.
        offset: usize,
        /// Its length, as its record says.
        expected: usize,
        /// The bytes that follow.
        found: usize,
    },
    /// A record that is older than the one before it.
    #[error("the record at byte {0} is older than the one before it")]
    ClockWentBack(usize),
    /// Bytes that are not a v0 message.
    #[error("the message at byte {offset} does not decode: {source}")]
    Malformed {
        /// Where the message begins.
        offset: usize,
        /// What the decoder says.
        source: prost::DecodeError,
    },
    /// A message about something that is not a shard.
    #[error("the message at byte {offset}: {source}")]
    ShardId {
        /// Where the message begins.
        offset: usize,
        /// What the parser says.
        source: InvalidShardId,
    },
}

/// Microseconds (8 bytes) and length (4 bytes), before each message.
const HEAD_BYTES: usize = 12;

impl Recording {
    /// Reads a folder. A file's name without `.frames` is its caller's id.
    ///
    /// # Errors
    /// Whatever is not a whole and valid recording.
    pub fn read(folder: &Path) -> Result<Self, RecordingError> {
        let wrong = |path: &Path, problem| RecordingError {
            path: path.to_owned(),
            problem,
        };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(|e| wrong(folder, e.into()))? {
            let path = entry.map_err(|e| wrong(folder, e.into()))?.path();
            if path.extension().is_some_and(|end| end == "frames") {
                paths.push(path);
            }
        }
        if paths.is_empty() {
            return Err(wrong(folder, Problem::Empty));
        }
        paths.sort();

        let mut callers = Vec::new();
        let mut records = Vec::new();
        for (caller, path) in paths.iter().enumerate() {
            let name = path
                .file_stem()
                .and_then(|stem| stem.to_str())
                .filter(|stem| stem.is_ascii())
                .ok_or_else(|| wrong(path, Problem::Name))?;
            callers.push(name.to_owned());
            let content = std::fs::read(path).map_err(|e| wrong(path, e.into()))?;
            records.extend(parse(content.into(), caller).map_err(|problem| wrong(path, problem))?);
        }
        // Stable: what one client sent keeps its order even at equal times.
        records.sort_by_key(|record| record.at);
        Ok(Self { callers, records })
    }

    /// Reads the content of one client's file. Total: any bytes give a
    /// recording or a problem.
    ///
    /// # Errors
    /// Whatever is not a whole and valid file.
    pub fn of_one(caller: &str, content: Bytes) -> Result<Self, Problem> {
        Ok(Self {
            callers: vec![caller.to_owned()],
            records: parse(content, 0)?,
        })
    }

    /// The diffs that were pushed, with their index into
    /// [`Recording::records`].
    pub fn pushes(&self) -> impl Iterator<Item = (usize, Push)> + '_ {
        self.records
            .iter()
            .enumerate()
            .filter_map(|(index, record)| Some((index, record.push()?)))
    }

    /// Each shard's diffs by seqno. Should a seqno have been pushed twice, the
    /// first push counts.
    #[must_use]
    pub fn diffs(&self) -> BTreeMap<ShardId, BTreeMap<u64, Bytes>> {
        let mut shards = BTreeMap::<_, BTreeMap<_, _>>::new();
        for (_, push) in self.pushes() {
            shards
                .entry(push.shard)
                .or_default()
                .entry(push.seqno)
                .or_insert(push.diff);
        }
        shards
    }

    /// Each shard's highest seqno.
    #[must_use]
    pub fn last_seqnos(&self) -> BTreeMap<ShardId, u64> {
        let mut last = BTreeMap::new();
        for (_, push) in self.pushes() {
            let highest = last.entry(push.shard).or_insert(push.seqno);
            *highest = push.seqno.max(*highest);
        }
        last
    }

    /// The pushes that were received before a push of a lower seqno, each with
    /// the lower ones that came after it.
    #[must_use]
    pub fn inversions(&self) -> Vec<Inversion> {
        // By shard: the highest seqno so far, and who pushed it.
        let mut heads = BTreeMap::<ShardId, (u64, usize)>::new();
        let mut inversions = Vec::new();
        for (index, push) in self.pushes() {
            let head = heads.entry(push.shard).or_insert((push.seqno, index));
            if push.seqno < head.0 {
                inversions.push(Inversion {
                    early: head.1,
                    late: index,
                });
            } else {
                *head = (push.seqno, index);
            }
        }
        inversions
    }

    /// The time of the last record.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.records
            .last()
            .map_or(Duration::ZERO, |record| record.at)
    }
}

impl Record {
    /// The diff, if the message pushes one.
    #[must_use]
    pub fn push(&self) -> Option<Push> {
        match &self.message.message {
            Some(Kind::PushDiff(push)) => Some(Push {
                shard: self.shard?,
                seqno: push.seqno,
                diff: push.diff.clone(),
            }),
            _ => None,
        }
    }
}

/// Reads the content of one file. Total: any bytes give records or a problem.
fn parse(content: Bytes, caller: usize) -> Result<Vec<Record>, Problem> {
    let length = content.len();
    let mut rest = content;
    let mut records = Vec::<Record>::new();
    while !rest.is_empty() {
        let head = length - rest.len();
        if rest.len() < HEAD_BYTES {
            return Err(Problem::TruncatedHead(length));
        }
        let at = Duration::from_micros(rest.get_u64_le());
        let expected = usize::try_from(rest.get_u32_le()).unwrap_or(usize::MAX);
        let offset = head + HEAD_BYTES;
        if rest.len() < expected {
            return Err(Problem::TruncatedMessage {
                offset,
                expected,
                found: rest.len(),
            });
        }
        if records.last().is_some_and(|last| last.at > at) {
            return Err(Problem::ClockWentBack(head));
        }
        let raw = rest.split_to(expected);
        let message = ProtoPubSubMessage::decode(raw.clone())
            .map_err(|source| Problem::Malformed { offset, source })?;
        let shard = shard_of(&message).map_err(|source| Problem::ShardId { offset, source })?;
        records.push(Record {
            at,
            caller,
            raw,
            message,
            shard,
        });
    }
    Ok(records)
}

/// The shard that a message is about.
///
/// # Errors
/// The text is not a shard id.
pub fn shard_of(message: &ProtoPubSubMessage) -> Result<Option<ShardId>, InvalidShardId> {
    let text = match &message.message {
        None => return Ok(None),
        Some(Kind::PushDiff(push)) => &push.shard_id,
        Some(Kind::Subscribe(subscribe)) => &subscribe.shard_id,
        Some(Kind::Unsubscribe(unsubscribe)) => &unsubscribe.shard_id,
    };
    text.parse().map(Some)
}

#[cfg(test)]
mod tests {
    use persist_pubsub_proto::v0::ProtoSubscribe;

    use super::*;

    fn record(micros: u64, raw: &[u8]) -> Vec<u8> {
        let mut bytes = micros.to_le_bytes().to_vec();
        bytes.extend(u32::try_from(raw.len()).unwrap().to_le_bytes());
        bytes.extend(raw);
        bytes
    }

    fn subscribe(shard_id: &str) -> Vec<u8> {
        ProtoPubSubMessage {
            timestamp: None,
            message: Some(Kind::Subscribe(ProtoSubscribe {
                shard_id: shard_id.to_owned(),
            })),
        }
        .encode_to_vec()
    }

    const SHARD: &str = "s42344d73-94f1-48b1-a33b-0892cb4ebbb7";

    #[test]
    fn a_file_cut_off_anywhere_says_where() {
        let first = record(5, &subscribe(SHARD));
        let whole = [first.clone(), record(5, b""), record(9, &subscribe(SHARD))].concat();
        assert_eq!(parse(whole.clone().into(), 0).unwrap().len(), 3);
        for length in 0..whole.len() {
            let result = parse(whole[..length].to_vec().into(), 0);
            let boundary = [0, first.len(), first.len() + HEAD_BYTES].contains(&length);
            match result {
                Ok(_) => assert!(boundary, "{length}"),
                Err(Problem::TruncatedHead(at)) => assert_eq!(at, length),
                Err(Problem::TruncatedMessage {
                    offset,
                    expected,
                    found,
                }) => {
                    assert_eq!(offset + found, length);
                    assert!(found < expected);
                }
                Err(problem) => panic!("{length}: {problem}"),
            }
        }
    }

    #[test]
    fn what_is_no_recording_is_refused() {
        let endless = [7_u64.to_le_bytes().as_slice(), &[0xff; 4]].concat();
        assert!(matches!(
            parse(endless.into(), 0),
            Err(Problem::TruncatedMessage { found: 0, .. })
        ));
        assert!(matches!(
            parse(record(1, &[0xff]).into(), 0),
            Err(Problem::Malformed { offset: 12, .. })
        ));
        assert!(matches!(
            parse(record(1, &subscribe("shard")).into(), 0),
            Err(Problem::ShardId { offset: 12, .. })
        ));
        assert!(matches!(
            parse([record(2, b""), record(1, b"")].concat().into(), 0),
            Err(Problem::ClockWentBack(12))
        ));
        let error = Recording::read(Path::new("/nonexistent/recording")).unwrap_err();
        assert!(
            error.to_string().starts_with("/nonexistent/recording: "),
            "{error}"
        );
    }
}
