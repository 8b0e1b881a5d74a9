//! Random hosts against a model server: whatever is subscribed, dropped, lost
//! and published in whatever order, nothing of an earlier subscription is told
//! as a later one's, every diff comes once and in order, and in the end nobody
//! is deaf.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::*;
use crate::event::Event;

const SHARDS: u8 = 4;

enum Answer {
    Subscribed(u64, Head),
    /// Of the subscription that this request began.
    Diff(u64, ShardId, u64),
}

struct World {
    interest: Interest,
    link: u64,
    to_server: VecDeque<Frame>,
    to_client: VecDeque<Answer>,
    /// The server's: the request that subscribed each shard, and its head.
    subscribed: BTreeMap<ShardId, u64>,
    heads: BTreeMap<ShardId, u64>,
    /// The host's: tokens, the request of the subscription of now, and the
    /// state it has reached.
    tokens: BTreeMap<ShardId, usize>,
    requests: BTreeMap<ShardId, u64>,
    states: BTreeMap<ShardId, Option<u64>>,
    told: usize,
}

impl World {
    fn new() -> Self {
        Self {
            interest: Interest::new(&Config::new("h").unwrap()),
            link: 0,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            subscribed: BTreeMap::new(),
            heads: BTreeMap::new(),
            tokens: BTreeMap::new(),
            requests: BTreeMap::new(),
            states: BTreeMap::new(),
            told: 0,
        }
    }

    fn link(&self) -> LinkId {
        LinkId::new(self.link)
    }

    fn head(&self, shard: ShardId) -> u64 {
        self.heads.get(&shard).copied().unwrap_or(0)
    }

    fn reconnect(&mut self) {
        self.interest.leaves(self.link());
        self.link += 1;
        let bounds = Bounds {
            batch: 2,
            subscriptions: usize::MAX,
        };
        let link = self.link();
        self.interest.attach(link, Wire::V1, bounds, Arc::default());
        self.to_server.clear();
        self.to_client.clear();
        self.subscribed.clear();
        self.requests.clear();
    }

    fn subscribe(&mut self, shard: ShardId, have: Option<u64>) {
        self.interest.subscribe(shard, have);
        let tokens = self.tokens.entry(shard).or_default();
        *tokens += 1;
        if *tokens == 1 {
            self.states.insert(shard, have);
            self.requests.remove(&shard);
        }
    }

    fn release(&mut self, shard: ShardId) {
        if let Some(tokens) = self.tokens.get_mut(&shard)
            && *tokens > 0
        {
            *tokens -= 1;
            self.interest.release(shard);
        }
    }

    fn pull(&mut self) -> bool {
        let Some(frame) = self.interest.next_frame(self.link(), Instant::now()) else {
            return false;
        };
        if let Frame::Subscribe { request, shards } = &frame {
            for (shard, _) in shards {
                self.requests.insert(*shard, *request);
            }
        }
        self.to_server.push_back(frame);
        true
    }

    fn serve(&mut self) -> bool {
        match self.to_server.pop_front() {
            None => return false,
            Some(Frame::Unsubscribe { shards, .. }) => {
                for shard in shards {
                    assert!(self.subscribed.remove(&shard).is_some());
                }
            }
            Some(Frame::Subscribe { request, shards }) => {
                for (shard, have) in shards {
                    let before = self.subscribed.insert(shard, request);
                    assert_eq!(before, None, "given back before it is asked for again");
                    let head = self.head(shard);
                    let answer = Head {
                        shard,
                        highest: Some(head),
                    };
                    self.to_client
                        .push_back(Answer::Subscribed(request, answer));
                    for seqno in have.unwrap_or(head) + 1..=head {
                        self.to_client
                            .push_back(Answer::Diff(request, shard, seqno));
                    }
                }
            }
            Some(other) => panic!("{other:?}"),
        }
        true
    }

    fn publish(&mut self, shard: ShardId) {
        let head = self.head(shard) + 1;
        self.heads.insert(shard, head);
        if let Some(request) = self.subscribed.get(&shard) {
            self.to_client
                .push_back(Answer::Diff(*request, shard, head));
        }
    }

    fn receive(&mut self) -> bool {
        let link = self.link();
        let mut out = Told::default();
        match self.to_client.pop_front() {
            None => return false,
            Some(Answer::Subscribed(request, head)) => {
                self.interest
                    .subscribed(link, request, &[head], Instant::now(), &mut out);
            }
            Some(Answer::Diff(request, shard, seqno)) => {
                let diff = Diff {
                    shard,
                    seqno,
                    committed: 0,
                    diff: Bytes::new(),
                };
                let outcome = self.interest.diff(link, diff, Instant::now(), &mut out);
                if outcome == Outcome::Told {
                    assert_eq!(self.requests.get(&shard), Some(&request));
                }
            }
        }
        for queued in out.events {
            self.host(queued.event());
        }
        true
    }

    /// The host: applies state + 1, and fetches on a resync.
    fn host(&mut self, event: &Event) {
        self.told += 1;
        match event {
            Event::Diff { shard, seqno, .. } => {
                let state = self.states.get_mut(shard).unwrap();
                assert_eq!(state.map(|state| state + 1), Some(*seqno));
                *state = Some(*seqno);
            }
            Event::Resync { shard, highest } => {
                let state = self.states.get_mut(shard).unwrap();
                assert_eq!(*state, None, "resumed, and yet sent to fetch");
                *state = *highest;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn whatever_the_host_does_nobody_ends_deaf() {
    let mut told = 0;
    for seed in 0..300 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut world = World::new();
        world.reconnect();
        for _ in 0..400 {
            let shard = ShardId::new([rng.u8(0..SHARDS); 16]);
            match rng.u8(0..40) {
                0..4 => {
                    let have = rng.bool().then(|| rng.u64(0..=world.head(shard)));
                    world.subscribe(shard, have);
                }
                4..9 => world.release(shard),
                9..17 => drop(world.pull()),
                17..25 => drop(world.serve()),
                25..31 => world.publish(shard),
                31..39 => drop(world.receive()),
                _ => world.reconnect(),
            }
        }
        while world.pull() || world.serve() || world.receive() {}
        assert_eq!(world.interest.next_due(), None, "seed {seed}");
        for n in 0..SHARDS {
            let shard = ShardId::new([n; 16]);
            let wanted = world.tokens.get(&shard).is_some_and(|tokens| *tokens > 0);
            let subscribed = world.subscribed.contains_key(&shard);
            assert_eq!(subscribed, wanted, "seed {seed}");
            if wanted {
                let state = world.states.get(&shard).copied().flatten();
                assert_eq!(state, Some(world.head(shard)), "seed {seed}");
            }
        }
        told += world.told;
    }
    assert!(told > 3_000, "{told} events prove little");
}
