//! Golden transcripts: what a client of a release said, byte for byte, and
//! what the server of that release answered. A later server has to answer the
//! same.
//!
//! A line each: `b < 0a12` is a message that `b` hears, `b > 0a12` one that it
//! says; `b open`, `b close`, `b end 7` (with this gRPC status) are its stream;
//! `! fence 8` and the like is what happens to the server. Peers whose name
//! begins with `v0` speak v0.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use persist_pubsub_proto::v1::session_response::Message as Response;
use persist_pubsub_proto::v1::{self};
use prost::Message as _;

use super::server::{Failure, Server, ServerKind, Wait};
use crate::v0_peer::PeerError;
use crate::wait::within;
use crate::{v0_peer, v1_peer};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A peer opens a stream.
    Open(String),
    /// It leaves.
    Close(String),
    /// It says this.
    Say(String, Bytes),
    /// It hears this.
    Hear(String, Bytes),
    /// Its stream ends, with this status.
    End(String, i32),
    /// The server is told to go.
    Drain,
    /// The server is killed, and another one started.
    Restart,
    /// Generations below this are fenced out.
    Fence(u64),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = |bytes: &Bytes| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        match self {
            Self::Open(peer) => write!(f, "{peer} open"),
            Self::Close(peer) => write!(f, "{peer} close"),
            Self::Say(peer, bytes) => write!(f, "{peer} > {}", hex(bytes)),
            Self::Hear(peer, bytes) => write!(f, "{peer} < {}", hex(bytes)),
            Self::End(peer, code) => write!(f, "{peer} end {code}"),
            Self::Drain => f.write_str("! drain"),
            Self::Restart => f.write_str("! restart"),
            Self::Fence(below) => write!(f, "! fence {below}"),
        }
    }
}

impl FromStr for Line {
    type Err = Failure;

    fn from_str(line: &str) -> Result<Self, Failure> {
        parse(line).ok_or_else(|| format!("no line of a transcript: {line:?}").into())
    }
}

fn parse(line: &str) -> Option<Line> {
    let mut words = line.split(' ');
    let (peer, what) = (words.next()?.to_owned(), words.next()?);
    let bytes = |hex: Option<&str>| -> Option<Bytes> {
        let hex = hex.unwrap_or_default();
        let pairs = (0..hex.len()).step_by(2);
        let byte = |at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
        Some(pairs.map(byte).collect::<Option<Vec<_>>>()?.into())
    };
    Some(match (peer.as_str(), what) {
        ("!", "drain") => Line::Drain,
        ("!", "restart") => Line::Restart,
        ("!", "fence") => Line::Fence(words.next()?.parse().ok()?),
        (_, "open") => Line::Open(peer),
        (_, "close") => Line::Close(peer),
        (_, "end") => Line::End(peer, words.next()?.parse().ok()?),
        (_, ">") => Line::Say(peer, bytes(words.next())?),
        (_, "<") => Line::Hear(peer, bytes(words.next())?),
        _ => return None,
    })
}

#[expect(clippy::large_enum_variant, reason = "a scenario has a few of them")]
enum Peer {
    V0(v0_peer::Sender, v0_peer::Receiver),
    V1(v1_peer::Sender, v1_peer::Receiver),
}

impl Peer {
    async fn open(name: &str, url: &str) -> Result<Self, Failure> {
        if name.starts_with("v0") {
            let (sender, receiver) = v0_peer::Peer::connect(url, name).await?.split();
            return Ok(Self::V0(sender, receiver));
        }
        let (sender, receiver) = v1_peer::open(url).await?;
        Ok(Self::V1(sender, receiver))
    }

    async fn say(&self, bytes: Bytes) -> Result<(), PeerError> {
        match self {
            Self::V0(sender, _) => sender.send(bytes).await,
            Self::V1(sender, _) => sender.send(bytes).await,
        }
    }

    /// The next message; or how the stream ends.
    async fn hear(&mut self, what: &str) -> Result<Result<Bytes, i32>, Failure> {
        let heard = within(what, async {
            match self {
                Self::V0(_, receiver) => Ok(receiver.receive().await?.map(|it| it.raw)),
                Self::V1(_, receiver) => Ok(receiver.receive().await?.map(|it| it.raw)),
            }
        });
        match heard.await? {
            Ok(Some(bytes)) => Ok(Ok(bytes)),
            Ok(None) => Ok(Err(0)),
            Err(PeerError::Status(status)) => Ok(Err(status.code().into())),
            Err(other) => Err(other.into()),
        }
    }
}

/// Plays a transcript to a server of its own, and returns what was heard in
/// the place of what was to be heard: the same lines, if the server answers
/// as the one before it did.
///
/// # Errors
/// It does not answer.
pub async fn play(kind: &ServerKind, lines: &[Line]) -> Result<Vec<Line>, Failure> {
    let mut server = Server::start(kind, Wait::Shortly).await?;
    let mut peers: BTreeMap<String, Peer> = BTreeMap::new();
    let mut came = Vec::new();
    for line in lines {
        match line {
            Line::Open(name) => {
                peers.insert(name.clone(), Peer::open(name, &server.direct_url()).await?);
            }
            Line::Close(name) => {
                peers.remove(name);
            }
            Line::Say(name, bytes) => {
                let peer = peers
                    .get(name)
                    .ok_or_else(|| format!("{name} is not there"))?;
                peer.say(bytes.clone()).await?;
            }
            Line::Hear(name, _) | Line::End(name, _) => {
                let peer = peers.get_mut(name);
                let peer = peer.ok_or_else(|| format!("{name} is not there"))?;
                let heard = peer.hear(&format!("what {name} hears for {line}")).await?;
                came.push(match heard {
                    Ok(bytes) => Line::Hear(name.clone(), bytes),
                    Err(code) => Line::End(name.clone(), code),
                });
                continue;
            }
            Line::Drain => server.terminate().await?,
            Line::Restart => server.kill().await?,
            Line::Fence(below) => server.fence(*below).await?,
        }
        came.push(line.clone());
    }
    Ok(came)
}

/// A line without what differs from run to run, or is for people alone.
#[must_use]
pub fn constant(line: &Line) -> Line {
    let Line::Hear(name, bytes) = line else {
        return line.clone();
    };
    if name.starts_with("v0") {
        return line.clone();
    }
    let Ok(mut response) = v1::SessionResponse::decode(bytes.clone()) else {
        return line.clone();
    };
    match &mut response.message {
        Some(Response::Welcome(welcome)) => {
            // Revision and heartbeats are kept.
            *welcome = v1::Welcome {
                revision: welcome.revision,
                heartbeat_interval_millis: welcome.heartbeat_interval_millis,
                ..v1::Welcome::default()
            };
        }
        Some(Response::Rejected(rejected)) => rejected.reason.clear(),
        Some(Response::Fenced(fenced)) => fenced.reason.clear(),
        Some(Response::Draining(draining)) => *draining = v1::Draining::default(),
        // Bit for bit, with fields that are not known here.
        _ => return line.clone(),
    }
    Line::Hear(name.clone(), response.encode_to_vec().into())
}
