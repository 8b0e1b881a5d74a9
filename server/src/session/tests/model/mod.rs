//! Generated sequences of what sessions do, against a reference of a few
//! lines: the real session, outbox, registry and topics, under a clock that the
//! test holds. What a failure shrank to is kept in [`regressions`].

mod reference;
mod regressions;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use persist_pubsub_proto::MAX_SEQNO;
use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use reference::{Reference, Told};

/// How far the model's server believes a seqno at once.
const JUMP: u64 = 100;
/// Where the seqnos are that nobody can have reached.
const ABSURD: [u64; 3] = [1 << 40, 1 << 50, MAX_SEQNO - 50];
const CLIENTS: usize = 4;
const SHARDS: [ShardId; 2] = [A, B];

/// A seqno: near to the others, or absurd.
#[derive(Clone, Copy, Debug)]
enum Seqno {
    Near(u64),
    Far(usize, u64),
}

impl Seqno {
    fn get(self) -> u64 {
        match self {
            Self::Near(n) => n,
            Self::Far(which, n) => ABSURD[which] + n,
        }
    }
}

/// One step. Clients are named modulo those that there are.
#[derive(Clone, Debug)]
enum Step {
    Connect {
        v1: bool,
    },
    Disconnect {
        who: usize,
    },
    Publish {
        who: usize,
        shard: usize,
        seqno: Seqno,
        announce: bool,
    },
    /// The next few in order, but for one that is left out; `own`: every
    /// second one by the client itself, the others by a stranger.
    Run {
        who: usize,
        shard: usize,
        len: u64,
        without: u64,
        own: bool,
    },
    /// What the last run left out, late.
    Fill {
        who: usize,
        shard: usize,
    },
    Subscribe {
        who: usize,
        shard: usize,
        have: Option<Seqno>,
    },
    Unsubscribe {
        who: usize,
        shard: usize,
    },
    /// Takes one batch.
    Poll {
        who: usize,
    },
    Pass {
        ms: u64,
    },
    Age {
        ms: u64,
    },
}

fn seqno() -> impl Strategy<Value = Seqno> {
    prop_oneof![
        12 => (1_u64..60).prop_map(Seqno::Near),
        1 => (0..ABSURD.len(), 0_u64..6).prop_map(|(which, n)| Seqno::Far(which, n)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0..CLIENTS + 1;
    let shard = || prop_oneof![4 => Just(0_usize), 1 => Just(1_usize)];
    prop_oneof![
        1 => any::<bool>().prop_map(|v1| Step::Connect { v1 }),
        1 => who().prop_map(|who| Step::Disconnect { who }),
        8 => (who(), shard(), seqno(), prop::bool::weighted(0.15))
            .prop_map(|(who, shard, seqno, announce)| Step::Publish { who, shard, seqno, announce }),
        5 => (who(), shard(), 1_u64..8, 0_u64..10, any::<bool>())
            .prop_map(|(who, shard, len, without, own)| Step::Run { who, shard, len, without, own }),
        2 => (who(), shard()).prop_map(|(who, shard)| Step::Fill { who, shard }),
        4 => (who(), shard(), prop::option::of(seqno()))
            .prop_map(|(who, shard, have)| Step::Subscribe { who, shard, have }),
        1 => (who(), shard()).prop_map(|(who, shard)| Step::Unsubscribe { who, shard }),
        6 => who().prop_map(|who| Step::Poll { who }),
        3 => (1_u64..80).prop_map(|ms| Step::Pass { ms }),
        1 => (0_u64..200).prop_map(|ms| Step::Age { ms }),
    ]
}

/// The bounds of a case, small enough to be reached.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    entries: usize,
    bytes: usize,
    bytes_total: usize,
    window_ms: u64,
    confirm_ms: u64,
}

fn bounds() -> impl Strategy<Value = Bounds> {
    let window = prop_oneof![Just(0_u64), Just(50)];
    let confirm = prop_oneof![Just(0_u64), Just(100)];
    (
        2_usize..40,
        2_000_usize..400_000,
        1_000_usize..600_000,
        window,
        confirm,
    )
        .prop_map(
            |(entries, bytes, bytes_total, window_ms, confirm_ms)| Bounds {
                entries,
                bytes,
                bytes_total,
                window_ms,
                confirm_ms,
            },
        )
}

/// A diff, by its seqno alone: some fill a batch by themselves.
fn payload(shard: ShardId, seqno: u64) -> Vec<u8> {
    let sizes = [20, 300, 20_000, 40_000];
    let mut bytes = vec![seqno as u8; sizes[(seqno % 4) as usize]];
    bytes[..8].copy_from_slice(&seqno.to_be_bytes());
    bytes[8] = shard.as_bytes()[0];
    bytes
}

struct Member {
    client: Client,
    /// What it asked for, in the order of the answers that are due.
    asked: VecDeque<Asked>,
    /// By shard, what it is subscribed to at the server.
    subscribed: BTreeMap<ShardId, u64>,
    references: BTreeMap<(ShardId, u64), Reference>,
    /// The last message was the answer to this one's subscription.
    answered: Option<ShardId>,
    /// What it has published, ever.
    published: BTreeMap<ShardId, BTreeSet<u64>>,
    /// The subscription that what comes belongs to.
    current: BTreeMap<ShardId, u64>,
}

enum Asked {
    Subscribe(ShardId, u64),
    Unsubscribe(ShardId),
}

struct World {
    bench: Bench,
    bounds: Bounds,
    stranger: Client,
    members: Vec<Member>,
    names: u64,
    /// All that was ever published.
    said: BTreeSet<(ShardId, u64)>,
    /// The highest near seqno published.
    highest: [u64; 2],
    left_out: [Option<u64>; 2],
}

impl World {
    fn new(bounds: Bounds) -> Self {
        let config = Config {
            reorder_window: Duration::from_millis(bounds.window_ms),
            jump_confirm: Duration::from_millis(bounds.confirm_ms),
            max_seqno_jump: JUMP,
            log_entries_per_shard: bounds.entries,
            log_bytes_per_shard: bounds.bytes,
            log_bytes_total: bounds.bytes_total,
            v0_replay_window: Duration::from_secs(3_600),
            ..Config::default()
        };
        let bench = Bench::with(&config);
        let stranger = bench.connect(Wire::V1);
        let mut world = Self {
            bench,
            bounds,
            stranger,
            members: Vec::new(),
            names: 0,
            said: BTreeSet::new(),
            highest: [0; 2],
            left_out: [None; 2],
        };
        for wire in [Wire::V1, Wire::V0, Wire::V1] {
            world.connect(wire);
        }
        world
    }

    /// Every other v1 member is in the server's process.
    fn connect(&mut self, wire: Wire) {
        let beside = |m: &Member| m.client.session.address == Address::InProcess;
        let in_process = wire == Wire::V1 && !self.members.last().is_some_and(beside);
        self.members.push(Member {
            client: match in_process {
                true => self.bench.connect_in_process(),
                false => self.bench.connect(wire),
            },
            asked: VecDeque::new(),
            subscribed: BTreeMap::new(),
            references: BTreeMap::new(),
            answered: None,
            published: BTreeMap::new(),
            current: BTreeMap::new(),
        });
    }

    fn status(&self, shard: ShardId) -> Option<(crate::topic::TopicStatus, u64)> {
        let mut found = None;
        self.bench.shared.registry.for_each(|topic| {
            if topic.shard == shard {
                found = Some((topic.status(Instant::now()), topic.last_run()));
            }
        });
        found
    }

    fn head(&self, shard: ShardId) -> Option<u64> {
        self.status(shard).and_then(|(status, _)| status.head)
    }

    /// `who` None: the stranger.
    fn publish(&mut self, who: Option<usize>, shard: ShardId, seqno: u64, announce: bool) {
        // What is announced below the head was told, or is nothing to tell; and
        // nobody is told twice.
        let below = self.head(shard).is_some_and(|head| seqno <= head);
        let new = self.said.insert((shard, seqno));
        let news = new && !(announce && below);
        let client = who.map_or(&self.stranger, |who| &self.members[who].client);
        let publish = v1::Publish {
            shard_id: shard.to_bytes(),
            seqno,
            committed_unix_nanos: 5,
            diff: (!announce).then(|| payload(shard, seqno).into()),
        };
        client.session.publish(client.publication(publish)).unwrap();
        for (at, member) in self.members.iter_mut().enumerate() {
            if who == Some(at) {
                member.published.entry(shard).or_default().insert(seqno);
            }
            if let Some(name) = member.subscribed.get(&shard)
                && let Some(reference) = member.references.get_mut(&(shard, *name))
            {
                // Where nothing was known, nothing before the first is owed.
                let owed = news && !(below && reference.from().is_none());
                reference.published(seqno, owed);
                if who == Some(at) {
                    reference.published_itself(seqno, announce);
                }
                // What it announced alone, and another publishes now, is the
                // other's.
                if who != Some(at) && !announce {
                    reference.published_by_another(seqno);
                }
            }
        }
    }

    fn subscribe(&mut self, who: usize, shard: ShardId, have: Option<u64>) {
        let known = self.status(shard);
        let member = &mut self.members[who];
        let wire = member.client.session.wire;
        if member.subscribed.contains_key(&shard) {
            return;
        }
        let head = known.as_ref().and_then(|(status, _)| status.head);
        let from = match (wire, have, head) {
            (Wire::V0, ..) => known.as_ref().and_then(|(status, _)| {
                let next = status.head?.saturating_add(1);
                Some(status.oldest.map_or(next, |oldest| oldest.min(next)))
            }),
            (_, None, head) => head.map(|head| head + 1),
            // Nobody is so far ahead.
            (_, Some(have), None) if have >= ABSURD[0] => None,
            (_, Some(have), Some(head)) if have > head + JUMP => Some(head + 1),
            (_, Some(have), _) => Some(have + 1),
        };
        let start = match (wire, have) {
            (Wire::V0, _) => Start::Replay,
            (Wire::V1, None) => Start::Now,
            (Wire::V1, Some(have)) => Start::After(have),
        };
        member.client.subscribe(shard, start);
        self.names += 1;
        member.subscribed.insert(shard, self.names);
        let published = member.published.get(&shard).into_iter().flatten();
        // What it says that it has, as far as that is believed.
        let has = have.map(|have| have.saturating_sub(JUMP)..=have);
        let has = has.filter(|_| wire == Wire::V1).into_iter().flatten();
        let reference = Reference::new(wire, from, has.chain(published.copied()));
        member.references.insert((shard, self.names), reference);
        if wire == Wire::V1 {
            member.asked.push_back(Asked::Subscribe(shard, self.names));
        } else {
            member.current.insert(shard, self.names);
        }
    }

    fn unsubscribe(&mut self, who: usize, shard: ShardId) {
        let member = &mut self.members[who];
        if member.subscribed.remove(&shard).is_none() {
            return;
        }
        if member.client.session.wire == Wire::V1 {
            member.client.unsubscribe(shard);
            member.asked.push_back(Asked::Unsubscribe(shard));
        } else {
            member.client.session.unsubscribe(&[shard]);
            member.current.remove(&shard);
        }
    }

    /// Takes one batch. False: there was none.
    fn poll(&mut self, who: usize) -> Result<bool, TestCaseError> {
        let member = &mut self.members[who];
        let Some(messages) = member.client.messages() else {
            return Ok(false);
        };
        prop_assert!(!messages.is_empty(), "an empty batch");
        for message in messages {
            member.take(&message)?;
        }
        Ok(true)
    }

    async fn pass(&self, time: Duration) {
        tokio::time::advance(time).await;
        // The tasks that release what is due.
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
    }

    async fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        let count = self.members.len();
        let member = |who: usize| (count > 0).then(|| who % count);
        match step {
            Step::Connect { v1 } => {
                if count < CLIENTS {
                    self.connect(if v1 { Wire::V1 } else { Wire::V0 });
                }
            }
            Step::Disconnect { who } => {
                if let Some(who) = member(who) {
                    self.members.swap_remove(who);
                }
            }
            Step::Publish {
                who,
                shard,
                seqno,
                announce,
            } => {
                let who = Some(who).filter(|&who| who < count);
                if let Seqno::Near(n) = seqno {
                    self.highest[shard] = self.highest[shard].max(n);
                }
                self.publish(who, SHARDS[shard], seqno.get(), announce);
            }
            Step::Run {
                who,
                shard,
                len,
                without,
                own,
            } => {
                let first = self.highest[shard] + 1;
                self.left_out[shard] = (without + 1 < len).then_some(first + without);
                for seqno in (first..first + len).filter(|n| n - first != without) {
                    let who = Some(who).filter(|&who| own && who < count && seqno % 2 == 0);
                    self.publish(who, SHARDS[shard], seqno, false);
                    self.highest[shard] = seqno;
                }
            }
            Step::Fill { who, shard } => {
                let who = Some(who).filter(|&who| who < count);
                if let Some(seqno) = self.left_out[shard].take() {
                    self.publish(who, SHARDS[shard], seqno, false);
                }
            }
            Step::Subscribe { who, shard, have } => {
                if let Some(who) = member(who) {
                    self.subscribe(who, SHARDS[shard], have.map(Seqno::get));
                }
            }
            Step::Unsubscribe { who, shard } => {
                if let Some(who) = member(who) {
                    self.unsubscribe(who, SHARDS[shard]);
                }
            }
            Step::Poll { who } => {
                if let Some(who) = member(who) {
                    self.poll(who)?;
                }
            }
            Step::Pass { ms } => self.pass(Duration::from_millis(ms)).await,
            Step::Age { ms } => {
                let oldest = Instant::now() - Duration::from_millis(ms);
                self.bench.shared.registry.evict_older(oldest);
            }
        }
        self.within_bounds()
    }

    /// isolation: whoever reads or not, memory is bounded.
    fn within_bounds(&self) -> Result<(), TestCaseError> {
        let registry = &self.bench.shared.registry;
        let mut sum = 0;
        let mut logs = Ok(());
        registry.for_each(|topic| {
            let status = topic.status(Instant::now());
            sum += status.bytes;
            if status.entries > self.bounds.entries {
                logs = Err(status);
            }
        });
        prop_assert!(logs.is_ok(), "isolation: {logs:?}");
        prop_assert_eq!(registry.log_bytes(), sum, "isolation: the bytes on record");
        prop_assert!(sum <= self.bounds.bytes_total, "isolation: {sum} bytes");
        Ok(())
    }

    /// Publishing has stopped: what waits is let through, and everybody reads.
    async fn end(mut self) -> Result<(), TestCaseError> {
        self.pass(Duration::from_secs(1)).await;
        for who in 0..self.members.len() {
            let mut polls = 0;
            while self.poll(who)? {
                polls += 1;
                prop_assert!(polls < 10_000, "a reading that does not end");
            }
            let member = &self.members[who];
            prop_assert!(member.asked.is_empty(), "an answer is missing");
            for (&shard, &name) in &member.subscribed {
                let Some((status, run)) = self.status(shard) else {
                    continue;
                };
                prop_assert_eq!(status.held, 0);
                if let Some(head) = status.head {
                    member.references[&(shard, name)].converged(head, run)?;
                }
            }
        }
        self.members.clear();
        drop(self.stranger);
        self.bench.check_empty();
        Ok(())
    }
}

impl Member {
    fn take(&mut self, message: &Bytes) -> Result<(), TestCaseError> {
        use persist_pubsub_proto::v0::proto_pub_sub_message::Message::PushDiff;
        use v1::session_response::Message as M;
        if self.client.session.wire == Wire::V0 {
            let message = persist_pubsub_proto::v0::ProtoPubSubMessage::decode(message.clone());
            let Some(PushDiff(push)) = message.unwrap().message else {
                return Err(TestCaseError::fail("not a push"));
            };
            let shard: ShardId = push.shard_id.parse().unwrap();
            return self.diff(shard, push.seqno, &push.diff);
        }
        let message = v1::SessionResponse::decode(message.clone()).unwrap();
        match message.message {
            Some(M::Diff(m)) => {
                self.diff(ShardId::from_slice(&m.shard_id).unwrap(), m.seqno, &m.diff)
            }
            Some(M::Gap(m)) => {
                let shard = ShardId::from_slice(&m.shard_id).unwrap();
                let gap = Told::Gap(m.from_seqno, m.to_seqno, m.highest_seqno);
                // What the answer named as gone may have been published by the
                // session since.
                if self.answered.take() == Some(shard) {
                    let name = self.current[&shard];
                    let reference = self.references.get_mut(&(shard, name));
                    reference.expect("current").gone(m.from_seqno, m.to_seqno);
                    return Ok(());
                }
                self.told(shard, gap)
            }
            Some(M::Subscribed(_)) => match self.asked.pop_front() {
                Some(Asked::Subscribe(shard, name)) => {
                    self.current.insert(shard, name);
                    self.answered = Some(shard);
                    Ok(())
                }
                _ => Err(TestCaseError::fail("Subscribed was not due")),
            },
            Some(M::Unsubscribed(_)) => match self.asked.pop_front() {
                Some(Asked::Unsubscribe(shard)) => {
                    self.current.remove(&shard);
                    Ok(())
                }
                _ => Err(TestCaseError::fail("Unsubscribed was not due")),
            },
            other => Err(TestCaseError::fail(format!("{other:?}"))),
        }
    }

    fn diff(&mut self, shard: ShardId, seqno: u64, diff: &[u8]) -> Result<(), TestCaseError> {
        prop_assert!(diff == payload(shard, seqno), "opaque: {seqno}");
        self.told(shard, Told::Diff(seqno))
    }

    fn told(&mut self, shard: ShardId, told: Told) -> Result<(), TestCaseError> {
        self.answered = None;
        let Some(&name) = self.current.get(&shard) else {
            return Err(TestCaseError::fail(format!("{told:?} of no subscription")));
        };
        let reference = self.references.get_mut(&(shard, name));
        reference.expect("made when it was asked for").told(told)
    }
}

fn run(bounds: Bounds, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        // So that ages can be subtracted.
        tokio::time::advance(Duration::from_secs(10_000)).await;
        let mut world = World::new(bounds);
        let case = format!("run({bounds:?}, vec!{steps:?})");
        let verdict = async {
            for step in steps {
                world.step(step).await?;
            }
            world.end().await
        };
        // As it is written down in `regressions`.
        verdict
            .await
            .map_err(|error| TestCaseError::fail(format!("{error}\n{case}")))
    })
}

proptest! {
    // More with PROPTEST_CASES.
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(500),
        max_shrink_time: 20_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_promise_holds_on_sessions(bounds in bounds(), steps in prop::collection::vec(step(), 1..90)) {
        run(bounds, steps)?;
    }
}
