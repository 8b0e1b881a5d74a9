//! A process of the simulated environment: the real client, a host that
//! commits and pushes, and readers that hold what comes against the promises.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use persist_pubsub_client::{
    Client, Config, Event, Events, Home, Subscription, Wire, WirePreference, connect_by,
};
use persist_pubsub_proto::ShardId;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::clock::SimClock;
use super::fleet;
use super::net::{Host, Machine, Net};
use super::reader::{LIES, Own, Reader};
use super::world::World;

/// What a process is told to do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// Do not read events for so long.
    Stall(Duration),
    /// Commit and push so many diffs at once.
    Burst(u32),
    /// Push something absurd.
    Lie,
    /// Subscribe or unsubscribe a shard.
    Churn,
    /// If you publish nothing: go to other homes, or off for a while.
    Move,
    /// Publish nothing more by yourself.
    Quiet,
    /// Commit and push one diff to every shard that you write.
    Last,
}

/// With no event for so long, none waits any more on the way to the host.
const REFILL: Duration = Duration::from_millis(5);

/// How a process behaves.
#[derive(Clone, Debug)]
pub(super) struct Habits {
    pub(super) wire: WirePreference,
    /// 0: it names none.
    pub(super) generation: u64,
    /// How many homes there are.
    pub(super) homes: usize,
    /// Publishes nothing.
    pub(super) reads_only: bool,
    /// The mean pause between two of its commits.
    pub(super) pause: Duration,
    pub(super) push_buffer: (usize, usize),
    pub(super) event_buffer: (usize, usize),
}

pub(super) struct Process {
    name: String,
    world: World,
    rng: Rng,
    shards: Vec<ShardId>,
    habits: Habits,
    client: Client,
    events: Events,
    readers: BTreeMap<ShardId, Reader>,
    /// What it pushed, of each shard.
    own: BTreeMap<ShardId, Own>,
    /// Committed, and pushed a moment later.
    later: Vec<(Instant, ShardId, u64, Bytes)>,
    next_commit: Option<Instant>,
    stalled_until: Instant,
    heard_at: Instant,
    /// At which of the homes it is; none: switched off.
    at: Vec<usize>,
    /// Whether the session speaks v1.
    v1: bool,
    /// It was told that it is fenced out.
    fenced: bool,
}

impl Process {
    pub(super) fn start(
        name: String,
        (net, host, clock): (&Net, Host, &SimClock),
        world: &World,
        mut rng: Rng,
        shards: &[ShardId],
        habits: Habits,
    ) -> Self {
        let at: Vec<_> = (0..habits.homes).collect();
        let config = config(&name, &habits, &mut rng);
        let machine = Machine {
            net: net.clone(),
            host,
            clock: clock.clone(),
        };
        world.saw(format_args!("{name} starts: {habits:?}"));
        let (client, events) = connect_by(config, machine);
        let mut process = Self {
            name,
            world: world.clone(),
            rng,
            shards: shards.to_vec(),
            client,
            events,
            readers: BTreeMap::new(),
            own: BTreeMap::new(),
            later: Vec::new(),
            next_commit: (!habits.reads_only).then(Instant::now),
            stalled_until: Instant::now(),
            heard_at: Instant::now(),
            at,
            v1: false,
            fenced: false,
            habits,
        };
        for &shard in shards {
            if process.rng.u8(0..4) > 0 {
                process.subscribe(shard);
            }
        }
        process
    }

    pub(super) fn is_v0(&self) -> bool {
        self.habits.wire == WirePreference::V0
    }

    fn subscribe(&mut self, shard: ShardId) {
        // The host reads its state, and subscribes a moment later or at once.
        let (token, from): (Subscription, _) = if self.rng.bool() {
            let state = self.world.head(shard);
            (self.client.subscribe_from(&shard, state), Some(state))
        } else {
            (self.client.subscribe(&shard), None)
        };
        self.world.saw(format_args!(
            "{} subscribes to {shard} from {from:?}",
            self.name
        ));
        let reader = Reader::new(&self.name, shard, &self.world, token, from);
        // As an unsubscribe and a new subscription: what it pushed before is
        // its own still.
        self.readers.insert(shard, reader);
    }

    fn churn(&mut self) {
        let shard = self.shards[self.rng.usize(0..self.shards.len())];
        if self.readers.remove(&shard).is_some() {
            self.world
                .saw(format_args!("{} unsubscribes from {shard}", self.name));
            if self.rng.bool() {
                self.subscribe(shard);
            }
        } else {
            self.subscribe(shard);
        }
    }

    fn push(&mut self, shard: ShardId, seqno: u64, diff: Bytes) {
        self.world.count(|c| c.pushes += 1);
        self.world
            .saw(format_args!("{} pushes {shard} {seqno}", self.name));
        self.own.entry(shard).or_default().push(seqno);
        self.client.push_diff(&shard, seqno, diff);
    }

    /// Appends to the store: its seqno, and the diff.
    fn append(&mut self, shard: ShardId, size: usize) -> (u64, Bytes) {
        let (seqno, diff) = self.world.commit(shard, size, &mut self.rng);
        if let Some(reader) = self.readers.get_mut(&shard) {
            reader.committed(seqno);
        }
        (seqno, diff)
    }

    /// Goes somewhere else, if it has nothing to say that others wait for.
    fn go(&mut self) {
        if self.habits.reads_only {
            let at = (0..self.habits.homes).filter(|_| self.rng.u8(0..3) > 0);
            let at = at.collect();
            self.go_to(at);
        }
    }

    fn go_to(&mut self, at: Vec<usize>) {
        self.world.saw(format_args!("{} goes to {at:?}", self.name));
        let settings = self.client.settings().connected(!at.is_empty());
        let settings = if at.is_empty() {
            settings
        } else {
            settings.homes(homes(&at))
        };
        self.client.configure(settings);
        self.at = at;
    }

    pub(super) fn is_at(&self, home: usize) -> bool {
        self.at.contains(&home)
    }

    fn commit(&mut self) {
        let shard = self.shards[self.rng.usize(0..self.shards.len())];
        let size = match self.rng.u8(0..20) {
            0 => 0,
            1 => self.rng.usize(20_000..60_000),
            _ => self.rng.usize(1..1_500),
        };
        let (seqno, diff) = self.append(shard, size);
        match self.rng.u8(0..40) {
            // A writer that does not publish.
            0 => {}
            // Twice.
            1 => {
                self.push(shard, seqno, diff.clone());
                self.push(shard, seqno, diff);
            }
            // Between the commit and the push, the process is busy.
            2..=8 => {
                let busy = Duration::from_millis(self.rng.u64(1..120));
                self.later.push((Instant::now() + busy, shard, seqno, diff));
            }
            _ => self.push(shard, seqno, diff),
        }
    }

    pub(super) fn obey(&mut self, order: Order) {
        self.world
            .saw(format_args!("{} is told: {order:?}", self.name));
        match order {
            Order::Burst(_) | Order::Lie | Order::Last if self.habits.reads_only => {}
            Order::Move => self.go(),
            Order::Stall(time) => self.stalled_until = Instant::now() + time,
            Order::Burst(count) => (0..count).for_each(|_| self.commit()),
            Order::Lie => {
                let shard = self.shards[self.rng.usize(0..self.shards.len())];
                let seqno = LIES + self.rng.u64(0..1 << 40);
                self.push(shard, seqno, Bytes::from_static(b"a lie"));
            }
            Order::Churn => self.churn(),
            Order::Quiet => {
                self.next_commit = None;
                self.stalled_until = Instant::now();
                if self.at.is_empty() {
                    self.go_to(vec![0]);
                }
            }
            Order::Last => {
                for shard in self.shards.clone() {
                    // Small: v0 cannot be told of what does not fit a buffer.
                    let (seqno, diff) = self.append(shard, 100);
                    self.push(shard, seqno, diff);
                }
            }
        }
    }

    /// Lives until told to end: the orders' sender is gone. Returns itself,
    /// for the last judgement.
    pub(super) async fn live(mut self, mut orders: mpsc::Receiver<Order>) -> Self {
        loop {
            let now = Instant::now();
            let never = now + Duration::from_secs(1_000_000);
            let later = self.later.iter().map(|(at, ..)| *at).min().unwrap_or(never);
            let commit = self.next_commit.unwrap_or(never);
            let stalled = self.stalled_until > now;
            if !stalled {
                match ready(&mut self.events).await {
                    Poll::Ready(Some(event)) => {
                        self.hear(event);
                        continue;
                    }
                    Poll::Ready(None) if self.fenced => return self,
                    Poll::Ready(None) => {
                        let what = format_args!("{}: the events ended", self.name);
                        self.world.violated("advisory", what);
                        return self;
                    }
                    Poll::Pending if now >= self.heard_at.max(self.stalled_until) + REFILL => {
                        self.own.values_mut().for_each(Own::settle);
                    }
                    Poll::Pending => {}
                }
            }
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return self,
                },
                () = sleep_until(later) => {
                    let now = Instant::now();
                    let (due, rest) = self.later.drain(..).partition(|(at, ..)| *at <= now);
                    self.later = rest;
                    let due: Vec<_> = due;
                    for (_, shard, seqno, diff) in due {
                        self.push(shard, seqno, diff);
                    }
                }
                () = sleep_until(commit) => {
                    self.commit();
                    let pause = self.habits.pause.mul_f64(2.0 * self.rng.f64());
                    self.next_commit = Some(now + pause);
                }
                () = sleep_until(self.stalled_until), if stalled => {}
                Some(event) = self.events.next(), if !stalled => self.hear(event),
            }
            self.check_bounds();
        }
    }

    fn hear(&mut self, event: Event) {
        self.heard_at = Instant::now();
        self.world
            .saw(format_args!("{} hears {}", self.name, brief(&event)));
        let none = Own::default();
        let (Event::Diff { shard, .. } | Event::Gap { shard, .. } | Event::Resync { shard, .. }) =
            event
        else {
            match event {
                Event::Connected { wire, .. } => {
                    self.v1 = wire == Wire::V1;
                    self.world.count(|c| c.sessions += 1);
                }
                Event::Fenced { generation, .. } => {
                    self.fenced = true;
                    if generation <= self.habits.generation {
                        let what = format_args!("{}: fenced by {generation}", self.name);
                        self.world.violated("fence", what);
                    }
                }
                Event::Disconnected { .. } => self.own.values_mut().for_each(Own::begin_anew),
                _ => {}
            }
            return;
        };
        if let Event::Resync { shard, .. } = event
            && let Some(own) = self.own.get_mut(&shard)
        {
            own.begin_anew();
        }
        let Some(reader) = self.readers.get_mut(&shard) else {
            let what = format_args!("{}: {} without a subscription", self.name, brief(&event));
            return self.world.violated("join", what);
        };
        let own = self.own.get(&shard).unwrap_or(&none);
        let v1 = self.v1;
        match event {
            Event::Diff { seqno, diff, .. } => reader.diff(v1, seqno, &diff, own),
            Event::Gap {
                from, to, highest, ..
            } => reader.gap(v1, from, to, highest, own),
            Event::Resync { highest, .. } => reader.resync(highest),
            _ => {}
        }
    }

    fn check_bounds(&self) {
        let stats = self.client.stats();
        // A single diff larger than the bound may wait alone.
        let bound = self.habits.push_buffer.0 as u64 + 64 * 1024;
        if stats.buffered_bytes > bound {
            self.world.violated(
                "advisory",
                format_args!("{}: {} bytes wait", self.name, stats.buffered_bytes),
            );
        }
    }

    /// The newest seqno that it pushed of each shard.
    pub(super) fn pushed(&self) -> impl Iterator<Item = (ShardId, u64)> + '_ {
        self.own.iter().filter_map(|(&shard, own)| {
            let highest = own.newest()?;
            Some((shard, highest))
        })
    }

    /// Whether every reader knows of these heads.
    pub(super) fn check_knows(&self, heads: &BTreeMap<ShardId, u64>, when: &str) {
        let none = Own::default();
        for (&shard, &head) in heads {
            let own = self.own.get(&shard).unwrap_or(&none);
            if let Some(reader) = self.readers.get(&shard)
                && !own.lied()
                && !reader.knows(head, own)
            {
                self.world.violated(
                    "convergence",
                    format_args!(
                        "{} {shard}: nobody told it of {head} {when} (state {})",
                        self.name, reader.state
                    ),
                );
            }
        }
        if !self.client.stats().connected {
            self.world.violated(
                "convergence",
                format_args!("{}: no session {when}", self.name),
            );
        }
    }

    pub(super) fn generation(&self) -> u64 {
        self.habits.generation
    }

    /// One of a generation that is fenced out was told so, if it can be, and
    /// is not served. (A v0 stream of one that comes back begins before it ends:
    /// that nothing is subscribed on it is seen at the server.)
    pub(super) fn check_fenced(&self) {
        if self.at.is_empty() {
            // Switched off: there is nobody to tell it.
            return;
        }
        let connected = !self.is_v0() && self.client.stats().connected;
        if connected || self.fenced == self.is_v0() {
            let what = format_args!("{}: connected {connected}, told {}", self.name, self.fenced);
            self.world.violated("fence", what);
        }
    }

    pub(super) fn subscriptions(&self) -> usize {
        self.readers.len()
    }
}

/// The next event if it is there already.
async fn ready(events: &mut Events) -> Poll<Option<Event>> {
    let mut next = pin!(events.next());
    poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await
}

fn homes(at: &[usize]) -> Vec<Home> {
    let home = |at: &usize| Home::at(fleet::name(*at));
    // Names that are always taken.
    let home = |at| home(at).unwrap_or_else(|error| unreachable!("{error}"));
    at.iter().map(home).collect()
}

fn config(name: &str, habits: &Habits, rng: &mut Rng) -> Config {
    let millis = Duration::from_millis;
    let backoff = (millis(50), millis(rng.u64(500..3_000)));
    // Constants that are always taken.
    let all: Vec<_> = (0..habits.homes).collect();
    let config = Config::with_homes(homes(&all))
        .backoff(backoff.0, backoff.1)
        .unwrap_or_else(|error| unreachable!("{error}"));
    config
        .client_name(name)
        .deploy_generation(habits.generation)
        .wire(habits.wire)
        .connect_timeout(millis(1_000))
        .handshake_timeout(millis(1_000))
        .keepalive(millis(rng.u64(500..4_000)), millis(1_000))
        .push_buffer(habits.push_buffer.0, habits.push_buffer.1)
        .event_buffer(habits.event_buffer.0, habits.event_buffer.1)
}

/// An event, without a diff's bytes.
fn brief(event: &Event) -> String {
    match event {
        Event::Diff {
            shard, seqno, diff, ..
        } => format!("diff {shard} {seqno} of {}", diff.len()),
        other => format!("{other:?}"),
    }
}
