//! Random drains against a model: publishers and the host's sessions move at
//! random moments from an old server to a new one that has forgotten all, and
//! whatever the interleaving, the host is told each seqno once, in order, and
//! of a gap only where no session of its brought the diff.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use persist_pubsub_proto::ShardId;

use super::*;
use crate::event::Event;

const PUBLISHERS: usize = 3;
const SHARD: ShardId = ShardId::new([1; 16]);

/// What a server holds of the shard, and what is under way to the host.
#[derive(Default)]
struct Server {
    /// By seqno: whether the host published it here itself.
    log: BTreeMap<u64, bool>,
    /// How far the host's session was told. `None`: there is none.
    cursor: Option<u64>,
    to_host: VecDeque<Message>,
}

enum Message {
    Diff(u64),
    Gap(u64, u64),
}

impl Server {
    /// Takes a publication; of an earlier one that comes late, nothing.
    fn take(&mut self, seqno: u64, own: bool) {
        self.log.insert(seqno, own);
        let Some(cursor) = self.cursor else { return };
        if seqno <= cursor {
            return;
        }
        if seqno - cursor > 1 {
            self.to_host.push_back(Message::Gap(cursor + 1, seqno - 1));
        }
        if !own {
            self.to_host.push_back(Message::Diff(seqno));
        }
        self.cursor = Some(seqno);
    }
}

struct World {
    rng: fastrand::Rng,
    run: Run,
    told: Told,
    servers: [Server; 2],
    /// Which servers each publisher tells; the last publisher is the host.
    tells: [[bool; 2]; PUBLISHERS],
    /// Publications under way, per publisher and server.
    under_way: BTreeMap<(usize, usize), VecDeque<u64>>,
    head: u64,
    own: BTreeSet<u64>,
    brought: BTreeSet<u64>,
    diffs: Vec<u64>,
    gaps: BTreeSet<u64>,
    /// Of the gaps, those told while both sessions lived.
    agreed: BTreeSet<u64>,
}

fn link(server: usize) -> LinkId {
    LinkId::new(server as u64)
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            rng: fastrand::Rng::with_seed(seed),
            run: Run::new(Some(0)),
            told: Told::default(),
            servers: Default::default(),
            tells: [[true, false]; PUBLISHERS],
            under_way: BTreeMap::new(),
            head: 0,
            own: BTreeSet::new(),
            brought: BTreeSet::new(),
            diffs: Vec::new(),
            gaps: BTreeSet::new(),
            agreed: BTreeSet::new(),
        };
        world.servers[0].log.insert(0, false);
        world.subscribe(0);
        world
    }

    fn with<T>(&mut self, change: impl FnOnce(&mut Run, &mut Tell) -> T) -> T {
        let mut tell = Tell {
            shard: SHARD,
            incarnation: 1,
            told: &mut self.told,
        };
        let changed = change(&mut self.run, &mut tell);
        let both = self.servers.iter().all(|server| server.cursor.is_some());
        for queued in self.told.events.drain(..) {
            match queued.event() {
                Event::Diff { seqno, .. } => self.diffs.push(*seqno),
                Event::Gap { from, to, .. } => {
                    self.gaps.extend(*from..=*to);
                    self.agreed.extend((*from..=*to).filter(|_| both));
                }
                other => panic!("{other:?}"),
            }
        }
        changed
    }

    fn clock() -> Clock {
        Clock {
            now: Instant::now(),
            spread: Duration::ZERO,
        }
    }

    fn subscribe(&mut self, at: usize) {
        let mut asked = self.run.position();
        loop {
            let server = &mut self.servers[at];
            server.to_host.clear();
            let head = server.log.last_key_value().map(|(seqno, _)| *seqno);
            let have = asked.have.unwrap();
            server.cursor = Some(have);
            let later: Vec<_> = server.log.range(have + 1..).collect();
            let later: Vec<_> = later.into_iter().map(|(s, own)| (*s, *own)).collect();
            for (seqno, own) in later {
                server.take(seqno, own);
            }
            let clock = World::clock();
            let again = self.with(|run, tell| run.answered(link(at), asked, head, clock, tell));
            if again.is_none() {
                return;
            }
            asked = Position {
                have: again,
                sure: again,
            };
        }
    }

    fn publish(&mut self, publisher: usize) {
        self.head += 1;
        if publisher == PUBLISHERS - 1 {
            self.own.insert(self.head);
            let pushed = self.run.pushed(self.head);
            if pushed.frees {
                self.with(Run::advance);
            }
        }
        for server in 0..2 {
            if self.tells[publisher][server] {
                let queue = self.under_way.entry((publisher, server)).or_default();
                queue.push_back(self.head);
            }
        }
    }

    /// Something that is under way arrives. False: nothing is.
    fn arrive(&mut self) -> bool {
        let queues: Vec<_> = self
            .under_way
            .iter()
            .filter(|(_, queue)| !queue.is_empty())
            .map(|(key, _)| *key)
            .collect();
        let choice = self.rng.usize(0..queues.len() + 2);
        if let Some(&(publisher, server)) = queues.get(choice) {
            let seqno = self
                .under_way
                .get_mut(&(publisher, server))
                .and_then(VecDeque::pop_front)
                .unwrap();
            self.servers[server].take(seqno, publisher == PUBLISHERS - 1);
            return true;
        }
        let at = (choice - queues.len()) % 2;
        let at = if self.servers[at].to_host.is_empty() {
            1 - at
        } else {
            at
        };
        match self.servers[at].to_host.pop_front() {
            None => return !queues.is_empty(),
            Some(Message::Diff(seqno)) => {
                self.brought.insert(seqno);
                let diff = Diff {
                    shard: SHARD,
                    seqno,
                    committed: 0,
                    diff: Bytes::new(),
                };
                self.with(|run, tell| run.diff(link(at), diff, Instant::now(), tell));
            }
            Some(Message::Gap(from, to)) => {
                // no_echo: what this session published itself is left out.
                let log = &self.servers[at].log;
                let own = |seqno: &u64| log.get(seqno).copied().unwrap_or(false);
                for seqno in (from..=to).filter(|seqno| !own(seqno)).collect::<Vec<_>>() {
                    let gap = Gap {
                        shard: SHARD,
                        from: seqno,
                        to: seqno,
                        highest: to + 1,
                    };
                    self.with(|run, tell| run.gap(link(at), &gap, Instant::now(), tell));
                }
            }
        }
        true
    }
}

#[tokio::test]
async fn whatever_the_moments_a_drain_is_one_run() {
    let (mut told, mut agreed) = (0, 0);
    for seed in 0..2_000 {
        // In every other run sessions are given up on, as after the grace.
        let impatient = seed % 2 == 1;
        let mut world = World::new(seed);
        let (mut moved, mut gone) = (false, false);
        for step in 0..300 {
            match world.rng.u8(0..40) {
                0..8 => {
                    let publisher = world.rng.usize(0..PUBLISHERS);
                    world.publish(publisher);
                }
                8..36 => drop(world.arrive()),
                36 if impatient => world.with(Run::give_up),
                37 => {
                    // A publisher moves: first both, then the new one alone.
                    let publisher = world.rng.usize(0..PUBLISHERS - 1);
                    let tells = &mut world.tells[publisher];
                    *tells = [!tells[1], true];
                }
                38 if !moved && step > 50 => {
                    world.subscribe(1);
                    world.tells[PUBLISHERS - 1][1] = true;
                    moved = true;
                }
                _ => {}
            }
            if moved && !gone && step > 250 {
                // What the old server has, it tells before it ends.
                while !world.servers[0].to_host.is_empty() {
                    world.arrive();
                }
                world.with(|run, tell| run.left(link(0), End::Complete, World::clock(), tell));
                world
                    .tells
                    .iter_mut()
                    .for_each(|tells| *tells = [false, true]);
                world.servers[0].cursor = None;
                gone = true;
            }
        }
        while world.arrive() {}
        assert!(world.diffs.is_sorted_by(|a, b| a < b), "{seed}: order");
        for seqno in &world.diffs {
            assert!(!world.own.contains(seqno), "{seed}: {seqno} is an echo");
        }
        let own: Vec<_> = world.own.intersection(&world.gaps).collect();
        assert_eq!(own, [] as [&u64; 0], "{seed}: own pushes are no gaps");
        if !impatient {
            let false_gaps: Vec<_> = world.agreed.intersection(&world.brought).collect();
            assert_eq!(false_gaps, [] as [&u64; 0], "{seed}: these are no gaps");
            agreed += world.agreed.len();
        }
        let waits = world.run.waits().1;
        if gone || !moved {
            assert_eq!(waits, 0, "{seed}: something waits for nobody");
        } else {
            world.with(Run::give_up);
        }
        let have = world.run.position().have.unwrap();
        let diffs: BTreeSet<_> = world.diffs.iter().copied().collect();
        for seqno in 1..=have {
            let known =
                diffs.contains(&seqno) || world.gaps.contains(&seqno) || world.own.contains(&seqno);
            assert!(known, "{seed}: {seqno} is missing in silence");
        }
        let brought = world.brought.last().copied().unwrap_or(0);
        assert!(have >= brought, "{seed}: {brought} was not told");
        told += diffs.len();
    }
    println!("{told} diffs told, {agreed} gaps agreed");
    assert!(
        told > 20_000 && agreed > 1_000,
        "{told} and {agreed} prove little"
    );
}
