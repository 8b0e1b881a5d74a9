//! Sessions without sockets: commands in, batches out.

mod bounds;
mod fencing;
mod model;
mod output;

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;
use std::task::{Wake, Waker};

use bytes::{Buf, Bytes};
use persist_pubsub_proto::v1;
use prost::Message;

use super::*;
use crate::access::Caller;
use crate::config::Config;
use crate::frame::{self, PREFIX};
use crate::metrics::{SessionMetrics, TopicMetrics};
use crate::registry::Registry;

const A: ShardId = ShardId::new([1; 16]);
const B: ShardId = ShardId::new([2; 16]);

/// Counts how often it was woken.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Shared {
    /// Of a server without sockets.
    pub(crate) fn bare(config: &Config) -> Arc<Self> {
        let metrics = prometheus::Registry::new();
        let registry = Registry::new(
            config.registry_limits(),
            TopicMetrics::new(&metrics).unwrap(),
        );
        Arc::new(Self {
            registry,
            census: Arc::new(config.census()),
            fences: crate::fence::Fences::open(
                None,
                crate::metrics::FenceMetrics::new(&metrics).unwrap(),
            )
            .unwrap(),
            metrics: SessionMetrics::new(&metrics).unwrap(),
            limits: config.session_limits(),
            clock: crate::clock::Clock::system(),
            lines: crate::logging::LogGate::new(u32::MAX, std::time::Duration::from_secs(1)),
        })
    }
}

struct Bench {
    shared: Arc<Shared>,
}

impl Bench {
    fn new() -> Self {
        Self::with(&Config::default())
    }

    fn with(config: &Config) -> Self {
        Self {
            shared: Shared::bare(config),
        }
    }

    fn profile(&self) -> Profile {
        Profile {
            caller_id: "test".to_owned(),
            environment: self.shared.registry.environment("test"),
            generation: None,
            role: String::new(),
            client_version: String::new(),
        }
    }

    fn open(&self, wire: Wire) -> (Arc<Session>, SessionGuard) {
        self.open_at(wire, Address::Network(([127, 0, 0, 1], 1).into()))
    }

    fn open_at(&self, wire: Wire, address: Address) -> (Arc<Session>, SessionGuard) {
        let id = self.shared.census.admit().expect("there is room");
        let shared = Arc::clone(&self.shared);
        let session = Session::of(Caller::anybody(), id, wire, address, shared);
        (Arc::clone(&session), SessionGuard(session))
    }

    fn connect(&self, wire: Wire) -> Client {
        self.client(self.open(wire))
    }

    /// A v1 client in this process.
    fn connect_in_process(&self) -> Client {
        self.client(self.open_at(Wire::V1, Address::InProcess))
    }

    fn client(&self, (session, guard): (Arc<Session>, SessionGuard)) -> Client {
        session.introduce(self.profile(), Mode::ReadWrite, None);
        Client {
            session,
            guard: Some(guard),
            wakes: Arc::default(),
        }
    }

    /// What every session and diff gone leaves behind.
    fn check_empty(&self) {
        self.shared.registry.check_empty();
        assert_eq!(self.shared.census.streams(), 0);
        assert_eq!(self.shared.census.all().len(), 0);
    }
}

struct Client {
    session: Arc<Session>,
    guard: Option<SessionGuard>,
    wakes: Arc<Wakes>,
}

/// What a poll came to.
#[derive(Debug, PartialEq)]
enum Polled {
    Frames(Vec<String>),
    Asleep,
    Ended(&'static str),
}
use Polled::{Asleep, Ended};

fn frames(names: &[&str]) -> Polled {
    Polled::Frames(names.iter().map(|&n| n.to_owned()).collect())
}

impl Client {
    fn publish_diff(&self, shard: ShardId, seqno: u64, diff: Vec<u8>) {
        let publish = v1::Publish {
            shard_id: shard.to_bytes(),
            seqno,
            committed_unix_nanos: 5,
            diff: Some(diff.into()),
        };
        self.session.publish(self.publication(publish)).unwrap();
    }

    /// What the service makes of a `Publish` of this client.
    fn publication(&self, publish: v1::Publish) -> Publication {
        match self.session.address {
            Address::Network(_) => frame::read_publish(publish).unwrap(),
            Address::InProcess => frame::take_publish(publish).unwrap(),
        }
    }

    fn publish(&self, shard: ShardId, seqno: u64) {
        self.publish_diff(shard, seqno, vec![b'x'; 20]);
    }

    /// Subscribes as the service does; in v1 with an answer.
    fn subscribe(&self, shard: ShardId, start: Start) {
        let v1 = self.session.wire == Wire::V1;
        self.session
            .subscribe(&[(shard, start)], |answers| {
                let head = answers.first().and_then(|a| a.head);
                let answer = v1::session_response::Message::Subscribed(v1::Subscribed {
                    request_id: 1,
                    shards: vec![v1::ShardHead {
                        shard_id: shard.to_bytes(),
                        highest_seqno: head,
                    }],
                });
                let gap = answers.first().and_then(|a| a.gap);
                let gap = gap.map(|(from, to)| frame::gap(shard, from, to, head.unwrap_or(to)));
                v1.then_some(answer).into_iter().chain(gap).collect()
            })
            .unwrap();
    }

    fn unsubscribe(&self, shard: ShardId) {
        self.session.unsubscribe(&[shard]);
        let answer = v1::Unsubscribed { request_id: 2 };
        self.session
            .answer(v1::session_response::Message::Unsubscribed(answer));
    }

    fn wakes(&self) -> usize {
        self.wakes.0.swap(0, Ordering::SeqCst)
    }

    fn poll_batch(&self) -> Poll<Output<Frames>> {
        let waker = Waker::from(Arc::clone(&self.wakes));
        self.session.poll_frames(&Context::from_waker(&waker))
    }

    /// What comes next, in whichever form, as the bytes of messages.
    fn poll_any(&self) -> Poll<Result<Vec<Bytes>, EndReason>> {
        if self.session.address != Address::InProcess {
            return self.poll_batch().map(|output| match output {
                Output::Batch(batch) => Ok(messages(batch.told)),
                Output::End(reason) => Err(reason),
            });
        }
        let waker = Waker::from(Arc::clone(&self.wakes));
        let cx = Context::from_waker(&waker);
        self.session.poll_messages(&cx).map(|output| match output {
            Output::Batch(batch) => Ok(batch
                .told
                .into_iter()
                .map(|message| frame::encode(message).slice(PREFIX..))
                .collect()),
            Output::End(reason) => Err(reason),
        })
    }

    fn poll(&self) -> Polled {
        match self.poll_any() {
            Poll::Pending => Asleep,
            Poll::Ready(Err(reason)) => Ended(reason.label()),
            Poll::Ready(Ok(messages)) => {
                let wire = self.session.wire;
                Polled::Frames(messages.iter().map(|m| name(m, wire)).collect())
            }
        }
    }

    /// The messages of one batch, if there is one.
    fn messages(&self) -> Option<Vec<Bytes>> {
        match self.poll_any() {
            Poll::Ready(Ok(messages)) => Some(messages),
            _ => None,
        }
    }

    /// Polls until it sleeps or ends.
    fn drain(&self) -> Vec<String> {
        let mut all = Vec::new();
        while let Polled::Frames(mut names) = self.poll() {
            all.append(&mut names);
        }
        all
    }
}

fn messages(frames: Frames) -> Vec<Bytes> {
    let mut messages = Vec::new();
    for mut bytes in frames.whole.into_iter().chain([frames.rest]) {
        while bytes.has_remaining() {
            let len = bytes.slice(1..PREFIX).get_u32() as usize;
            bytes.advance(PREFIX);
            messages.push(bytes.split_to(len));
        }
    }
    messages
}

/// "A7" for a diff, "A3-4" for a gap, else the kind.
fn name(message: &Bytes, wire: Wire) -> String {
    use persist_pubsub_proto::v0;
    use v1::session_response::Message as M;
    let letter = |shard: &[u8]| if shard == A.as_bytes() { "A" } else { "B" };
    if wire == Wire::V0 {
        let message = v0::ProtoPubSubMessage::decode(message.clone()).unwrap();
        let Some(v0::proto_pub_sub_message::Message::PushDiff(m)) = message.message else {
            panic!("{message:?}")
        };
        let shard: ShardId = m.shard_id.parse().unwrap();
        return format!("{}{}", letter(shard.as_bytes()), m.seqno);
    }
    match v1::SessionResponse::decode(message.clone())
        .unwrap()
        .message
    {
        Some(M::Diff(m)) => format!("{}{}", letter(&m.shard_id), m.seqno),
        Some(M::Gap(m)) => format!("{}{}-{}", letter(&m.shard_id), m.from_seqno, m.to_seqno),
        Some(M::Subscribed(_)) => "subscribed".to_owned(),
        Some(M::Unsubscribed(_)) => "unsubscribed".to_owned(),
        Some(M::Fenced(_)) => "fenced".to_owned(),
        Some(M::Heartbeat(_)) => "heartbeat".to_owned(),
        other => panic!("{other:?}"),
    }
}
