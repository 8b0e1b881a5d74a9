//! A shard with subscribers, without sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use persist_pubsub_proto::{ShardId, v0, v1};
use prost::Message as _;
use tokio::time::Instant;

use crate::access::Caller;
use crate::clock::Clock;
use crate::config::Config;
use crate::environment::Environment;
use crate::error::Refusal;
use crate::fence::Fences;
use crate::frame::{self, FromV0, Wire};
use crate::logging::LogGate;
use crate::metrics::{FenceMetrics, SessionMetrics, TopicMetrics};
use crate::outbox::Output;
use crate::registry::Registry;
use crate::session::{Address, Mode, Profile, Session, SessionId, Shared};
use crate::topic::Start;

/// No session's.
const PUBLISHER: SessionId = SessionId::MAX;
const SHARD: ShardId = ShardId::new([7; 16]);

/// One shard, its subscribers' sessions, and one who publishes to it.
#[derive(Debug)]
pub struct Fan {
    shared: Arc<Shared>,
    environment: Arc<Environment>,
    sessions: Vec<Arc<Session>>,
    wire: Wire,
    diff: Bytes,
    seqno: u64,
}

/// Why it cannot be set up; a defect.
pub type Defect = Box<dyn std::error::Error>;

impl Fan {
    /// With so many subscribers of one wire version, and diffs of so many
    /// bytes.
    ///
    /// # Errors
    /// None that a run does not show at once.
    pub fn new(v1: bool, subscribers: usize, diff: usize) -> Result<Self, Defect> {
        let config = Config::default();
        let metrics = prometheus::Registry::new();
        let registry = Registry::new(config.registry_limits(), TopicMetrics::new(&metrics)?);
        let environment = registry.environment("default");
        let wire = if v1 { Wire::V1 } else { Wire::V0 };
        let shared = Arc::new(Shared {
            registry,
            census: Arc::new(config.census()),
            fences: Fences::open(None, FenceMetrics::new(&metrics)?)?,
            metrics: SessionMetrics::new(&metrics)?,
            limits: config.session_limits(),
            clock: Clock::system(),
            lines: LogGate::new(0, Duration::from_secs(60)),
        });
        let sessions = (1..=subscribers as u64)
            .map(|id| {
                let nobody = Address::Network(SocketAddr::from(([127, 0, 0, 1], 0)));
                let session = Session::of(Caller::anybody(), id, wire, nobody, Arc::clone(&shared));
                let profile = Profile {
                    caller_id: String::new(),
                    environment: Arc::clone(&environment),
                    generation: None,
                    role: String::new(),
                    client_version: String::new(),
                };
                session.introduce(profile, Mode::ReadOnly, None);
                session.subscribe(&[(SHARD, Start::Now)], |_| Vec::new())?;
                Ok(session)
            })
            .collect::<Result<_, Refusal>>()
            .map_err(|refusal| refusal.reason)?;
        Ok(Self {
            shared,
            environment,
            sessions,
            wire,
            diff: vec![1; diff].into(),
            seqno: 0,
        })
    }

    /// The message of the next diff, as a client of its wire version sends it.
    #[must_use]
    pub fn message(&mut self) -> Bytes {
        self.seqno += 1;
        let (seqno, diff) = (self.seqno, self.diff.clone());
        match self.wire {
            Wire::V0 => v0::ProtoPubSubMessage {
                timestamp: Some(v0::ProtoDuration { secs: 1, nanos: 1 }),
                message: Some(v0::proto_pub_sub_message::Message::PushDiff(
                    v0::ProtoPushDiff {
                        shard_id: SHARD.to_string(),
                        seqno,
                        diff,
                    },
                )),
            }
            .encode_to_vec(),
            Wire::V1 => v1::SessionRequest {
                message: Some(v1::session_request::Message::Publish(v1::Publish {
                    shard_id: SHARD.to_bytes(),
                    seqno,
                    committed_unix_nanos: 1,
                    diff: Some(diff),
                })),
            }
            .encode_to_vec(),
        }
        .into()
    }

    /// Takes a message that [`Fan::message`] made, puts its diff into the log,
    /// and marks the subscribers. False: it was no such message.
    #[must_use]
    pub fn publish(&self, message: &Bytes) -> bool {
        let publication = match self.wire {
            Wire::V0 => match frame::read_v0(message, || 1) {
                Ok(FromV0::Push(publication)) => Some(publication),
                _ => None,
            },
            Wire::V1 => frame::spelled_v1(message),
        };
        let registry = &self.shared.registry;
        publication.is_some_and(|publication| {
            let now = Instant::now();
            registry
                .publish(&self.environment, publication, PUBLISHER, None, now)
                .is_ok()
        })
    }

    /// Takes what the subscribers' sockets would be given. Returns its bytes.
    #[must_use]
    pub fn drain(&self) -> usize {
        let cx = Context::from_waker(Waker::noop());
        let mut bytes = 0;
        for session in &self.sessions {
            while let Poll::Ready(Output::Batch(batch)) = session.poll_frames(&cx) {
                bytes += batch.bytes;
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subscriber_is_given_every_diff() {
        for v1 in [false, true] {
            let mut fan = Fan::new(v1, 3, 100).unwrap();
            for _ in 0..10 {
                let message = fan.message();
                assert!(fan.publish(&message));
            }
            // A message each, with its prefix.
            let message = fan.message();
            assert_eq!(fan.drain(), 30 * (message.len() + frame::PREFIX));
            assert_eq!(fan.drain(), 0);
        }
    }
}
