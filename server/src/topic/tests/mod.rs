//! Topics under a clock that the test holds: no runtime, no sleep.

mod doubt;
mod evict;
mod foreign;
mod join;
mod late;
mod marks;
mod order;
mod own;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use persist_pubsub_proto::{ShardId, v0, v1};
use prost::Message;
use tokio::time::Instant;

use super::*;
use crate::environment::Environments;
use crate::frame::{self, PREFIX, Wire};
use crate::mailbox::Names;

/// Somebody who publishes and does not subscribe.
const STRANGER: SessionId = 1_000;
const SHARD: ShardId = ShardId::new([7; 16]);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn limits() -> TopicLimits {
    TopicLimits {
        reorder_window: ms(50),
        v0_replay_window: ms(10_000),
        log_entries: 1_000,
        log_bytes: 1 << 20,
        max_seqno_jump: 1_000,
        jump_confirm: ms(1_000),
        v0_max_frame_bytes: 4096,
    }
}

/// What a reader was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Diff(u64),
    Gap(u64, u64),
}
use Told::{Diff as D, Gap as G};

/// A topic, its bounds, and what time it is.
struct Bench {
    topic: Topic,
    limits: TopicLimits,
    now: Instant,
    /// What the topic has said it gained and lost: has to be what it holds.
    accounted: isize,
    /// When the timer is to call.
    timer: Option<Instant>,
    /// The payloads published, for comparison.
    payloads: BTreeMap<u64, Bytes>,
}

impl Bench {
    fn new() -> Self {
        Self::with(limits())
    }

    fn with(limits: TopicLimits) -> Self {
        let environment = Arc::new(Environments::default()).get("test");
        Self {
            topic: Topic::new(environment, SHARD),
            limits,
            // Far from the beginning of time, so that ages can be subtracted.
            now: Instant::now() + Duration::from_secs(100_000),
            accounted: 0,
            timer: None,
            payloads: BTreeMap::new(),
        }
    }

    /// Publishes what `session` would, with its own subscription if it has one.
    fn put(
        &mut self,
        seqno: u64,
        bytes: Option<usize>,
        session: SessionId,
        own: Option<u32>,
    ) -> Verdict {
        let diff = bytes.map(|len| {
            let payload = Bytes::from(format!("{seqno:<len$}"));
            self.payloads.insert(seqno, payload.clone());
            let publish = v1::Publish {
                shard_id: SHARD.to_bytes(),
                seqno,
                committed_unix_nanos: 5,
                diff: Some(payload),
            };
            Arc::new(frame::read_publish(publish).unwrap().diff.unwrap())
        });
        let published = self
            .topic
            .publish(seqno, diff, session, own, self.now, &self.limits)
            .expect("open");
        self.accounted += published.grown;
        if let Some(at) = published.arm {
            assert_eq!(self.timer, None, "one timer at a time");
            self.timer = Some(at);
        }
        self.check_accounts();
        published.verdict
    }

    fn publish(&mut self, seqno: u64) -> Verdict {
        self.put(seqno, Some(100), STRANGER, None)
    }

    fn publish_all(&mut self, seqnos: impl IntoIterator<Item = u64>) -> Vec<Verdict> {
        seqnos
            .into_iter()
            .map(|seqno| self.publish(seqno))
            .collect()
    }

    fn announce(&mut self, seqno: u64) -> Verdict {
        self.put(seqno, None, STRANGER, None)
    }

    /// Lets time pass, and the timer call when it is due.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.timer.filter(|&at| at <= until) {
            self.now = self.now.max(at);
            let (_, next) = self.topic.release_due(self.now, &self.limits);
            assert_ne!(next, Some(at), "the timer spins");
            self.timer = next;
        }
        self.now = until;
    }

    /// Evicts what is older than so much.
    fn age(&mut self, time: Duration) -> usize {
        let (evicted, freed, ..) = self.topic.evict(self.now - time, self.now, &self.limits);
        self.accounted -= isize::try_from(freed).unwrap();
        self.check_accounts();
        evicted
    }

    fn check_accounts(&self) {
        assert_eq!(
            self.accounted,
            isize::try_from(self.status().bytes).unwrap()
        );
    }

    fn status(&self) -> TopicStatus {
        self.topic.status(self.now)
    }

    fn join(&self, wire: Wire, session: SessionId, start: Start) -> Subscription {
        let mailbox = Arc::<Mailbox>::default();
        let joined = self
            .topic
            .subscribe(&mailbox, 3, start, self.now, &self.limits)
            .expect("open");
        Subscription {
            mailbox,
            index: joined.index,
            cursor: joined.cursor,
            head: joined.head,
            gap: joined.gap,
            reader: super::Reader { wire, session },
            own: Own::default(),
            missed: 0,
            oversize: 0,
        }
    }

    fn v0(&self) -> Subscription {
        self.join(Wire::V0, 1, Start::Replay)
    }

    fn v1(&self) -> Subscription {
        self.join(Wire::V1, 2, Start::Now)
    }

    /// `who` publishes on its own subscription, as a session does.
    fn publish_own(&mut self, who: &mut Subscription, seqno: u64) -> Verdict {
        let verdict = self.put(seqno, Some(100), who.reader.session, Some(who.index));
        if verdict.was_doubted() {
            who.own.add_doubted(seqno);
        } else if !who.cursor.pass_own(seqno, self.topic.epoch()) || verdict == Verdict::Duplicate {
            who.own.add(seqno);
        }
        verdict
    }

    /// Reads until there is nothing more.
    fn read(&mut self, who: &mut Subscription) -> Vec<Told> {
        let mut told = Vec::new();
        while self.read_some(who, 2, &mut told) {}
        told
    }

    /// Reads with room for so many diffs. True: there is more.
    fn read_some(&mut self, who: &mut Subscription, room: usize, told: &mut Vec<Told>) -> bool {
        let mut sink = TestSink {
            wire: who.reader.wire,
            payloads: &self.payloads,
            room,
            told,
            missed: 0,
            oversize: 0,
        };
        let reading = self.topic.read(
            who.index,
            &mut who.cursor,
            who.reader,
            &mut who.own,
            &self.limits,
            &mut sink,
        );
        who.missed += sink.missed;
        who.oversize += sink.oversize;
        self.accounted += reading.grown;
        self.check_accounts();
        reading.more
    }
}

/// A subscription as a session holds it.
struct Subscription {
    mailbox: Arc<Mailbox>,
    index: u32,
    cursor: Cursor,
    head: Option<u64>,
    gap: Option<(u64, u64)>,
    reader: super::Reader,
    own: Own,
    missed: u64,
    oversize: u64,
}

impl Subscription {
    /// Takes the marks, and tells how many there were.
    fn marks(&self) -> usize {
        let mut names = Names::default();
        self.mailbox
            .take(&mut names, false, &Context::from_waker(Waker::noop()));
        names.len()
    }
}

struct TestSink<'a> {
    wire: Wire,
    payloads: &'a BTreeMap<u64, Bytes>,
    room: usize,
    told: &'a mut Vec<Told>,
    missed: u64,
    oversize: u64,
}

impl Sink for TestSink<'_> {
    fn now_nanos(&self) -> u64 {
        1
    }

    fn diff(&mut self, shard: ShardId, seqno: u64, diff: &Diff) -> ControlFlow<()> {
        if self.room == 0 {
            return ControlFlow::Break(());
        }
        self.room -= 1;
        assert_eq!(diff.committed_unix_nanos(), Some(5));
        let message = &diff.frame(self.wire, shard, seqno, 1)[PREFIX..];
        let (seqno, payload) = match self.wire {
            Wire::V0 => match v0::ProtoPubSubMessage::decode(message).unwrap().message {
                Some(v0::proto_pub_sub_message::Message::PushDiff(m)) => (m.seqno, m.diff),
                other => panic!("{other:?}"),
            },
            Wire::V1 => match v1::SessionResponse::decode(message).unwrap().message {
                Some(v1::session_response::Message::Diff(m)) => (m.seqno, m.diff),
                other => panic!("{other:?}"),
            },
        };
        assert_eq!(self.payloads.get(&seqno), Some(&payload), "bit for bit");
        self.told.push(D(seqno));
        ControlFlow::Continue(())
    }

    fn gap(&mut self, shard: ShardId, from: u64, to: u64, highest: u64) {
        assert_eq!((shard, self.wire), (SHARD, Wire::V1));
        // A doubted seqno is told above the highest that is believed.
        assert!(from <= to && (to <= highest || highest < from));
        self.told.push(G(from, to));
    }

    fn missed(&mut self, diffs: u64) {
        self.missed += diffs;
    }

    fn oversize(&mut self) {
        self.oversize += 1;
    }
}
