//! A run: processes at work, trouble for a while, then peace, and judgement.

mod judgement;

use std::time::Duration;

use fastrand::Rng;
use persist_pubsub_client::WirePreference;
use persist_pubsub_proto::ShardId;
use persist_pubsub_server::config::{Config, V0Generation};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::Outcome;
use super::clock::{self, SimClock};
use super::fleet::Fleet;
use super::net::{Host, Net};
use super::process::{Habits, Order, Process};
use super::world::World;

/// How long the trouble lasts.
const TROUBLE: Duration = Duration::from_secs(15);

/// The host of the first process.
const FIRST: Host = 10;

pub(super) async fn run(seed: u64, keep_lines: bool) -> Outcome {
    clock::start();
    let mut rng = Rng::with_seed(seed);
    let shards: Vec<_> = (0..rng.u8(1..6))
        .map(|n| ShardId::new([n + 1; 16]))
        .collect();
    let world = World::new(&shards, keep_lines);
    let net = Net::new(rng.fork());
    // One home, or two, which whoever publishes has both of.
    let homes = if rng.u8(0..3) == 0 { 2 } else { 1 };
    // The other seeds are as they would be without.
    let upgrade = seed % 8 == 7;
    let mut fleets = Vec::new();
    for home in 0..homes {
        let mut config = server_config(&mut rng);
        if upgrade {
            config.v0_generation = v0_generations();
        }
        let mut fleet = Fleet::new(&net, &world, config, home);
        fleet.start().await;
        fleets.push(fleet);
    }
    let processes = rng.u8(2..7);
    let mut stage = Stage {
        clocks: (0..processes).map(|_| SimClock::default()).collect(),
        rng,
        world: world.clone(),
        net: net.clone(),
        fleets,
        shards,
        cast: Vec::new(),
        started: 0,
        healings: Vec::new(),
        upgrade,
    };
    for at in 0..processes {
        stage.cast.push(None);
        stage.enter(usize::from(at));
    }
    stage.trouble().await;
    stage.judge().await;
    let (mut counts, violations, seen, lines) = world.end();
    let (written, bytes) = net.digest();
    counts.bytes = bytes;
    Outcome {
        seed,
        counts,
        violations,
        digest: (seen, written),
        lines,
    }
}

fn server_config(rng: &mut Rng) -> Config {
    let millis = |rng: &mut Rng, from, to| Duration::from_millis(rng.u64(from..to));
    let mut config = Config::default();
    config.reorder_window = millis(rng, 0, 200);
    config.log_age = millis(rng, 2_000, 20_000);
    config.v0_replay_window = millis(rng, 1_000, 10_000).min(config.log_age);
    config.heartbeat_interval = millis(rng, 500, 3_000);
    config.keepalive = millis(rng, 1_000, 4_000);
    config.keepalive_timeout = millis(rng, 500, 2_000);
    config.handshake_timeout = millis(rng, 1_000, 3_000);
    config.drain_window = millis(rng, 200, 4_000);
    config.drain_timeout = config.drain_window * 2 + Duration::from_secs(1);
    config.idle_timeout = millis(rng, 1_000, 5_000);
    config.max_control_frames = rng.usize(2..40);
    // Now and then so small that readers who stall miss something.
    if rng.bool() {
        config.log_entries_per_shard = rng.usize(2..100);
        config.log_bytes_per_shard = rng.usize(64 * 1024..256 * 1024);
        config.log_bytes_total = rng.usize(256 * 1024..512 * 1024);
        config.max_diff_bytes = 64 * 1024;
        config.max_message_bytes = 128 * 1024;
    }
    config
}

/// The newer of two generations.
const NEW: u64 = 2;

/// The generation of the processes in a place.
fn generation(at: usize) -> u64 {
    if at.is_multiple_of(2) { NEW - 1 } else { NEW }
}

/// The same, for who cannot say so: by the caller ids `p0.1`, `p1.2`.
fn v0_generations() -> Vec<V0Generation> {
    let rules = (0..10).map(|at| format!("p{at}.*={}", generation(at)));
    rules.filter_map(|rule| rule.parse().ok()).collect()
}

/// All that plays.
struct Stage {
    rng: Rng,
    world: World,
    net: Net,
    fleets: Vec<Fleet>,
    shards: Vec<ShardId>,
    cast: Vec<Option<Actor>>,
    clocks: Vec<SimClock>,
    started: u32,
    /// When a partition ends.
    healings: Vec<(Instant, Host, Host)>,
    /// Processes are of two generations, and the older one is fenced out.
    upgrade: bool,
}

struct Actor {
    orders: mpsc::Sender<Order>,
    task: JoinHandle<Process>,
}

impl Stage {
    fn host(at: usize) -> Host {
        // At most some processes.
        FIRST + u8::try_from(at).unwrap_or(0)
    }

    /// A process starts in a place that is free.
    fn enter(&mut self, at: usize) {
        self.started += 1;
        let (rng, host) = (&mut self.rng, Self::host(at));
        let wire = match rng.u8(0..4) {
            0 => WirePreference::V0,
            1 => WirePreference::V1,
            _ => WirePreference::Auto,
        };
        let small = rng.u8(0..4) == 0;
        let homes = self.fleets.len();
        // Somebody publishes, whatever the others like: of each generation, for
        // the older one may be fenced out.
        let may_publish = homes == 1 || at == 0 || rng.u8(0..3) != 0;
        let reads_only = !may_publish && at > usize::from(self.upgrade);
        let habits = Habits {
            wire,
            generation: if self.upgrade { generation(at) } else { 0 },
            homes,
            reads_only,
            pause: Duration::from_millis(rng.u64(10..400)),
            push_buffer: if small {
                (64 * 1024, 20)
            } else {
                (16 << 20, 65_536)
            },
            event_buffer: if rng.u8(0..4) == 0 {
                (64 * 1024, 8)
            } else {
                (64 << 20, 16_384)
            },
        };
        let process = Process::start(
            format!("p{at}.{}", self.started),
            (&self.net, host, &self.clocks[at]),
            &self.world,
            rng.fork(),
            &self.shards,
            habits,
        );
        let (orders, receiver) = mpsc::channel(64);
        let task = tokio::spawn(process.live(receiver));
        self.cast[at] = Some(Actor { orders, task });
    }

    /// `kill -9` of a process.
    fn kill(&mut self, at: usize) {
        if let Some(actor) = self.cast[at].take() {
            self.world.saw(format_args!("p{at} is killed"));
            self.net.kill(Self::host(at));
            actor.task.abort();
        }
    }

    fn any(&mut self) -> usize {
        self.rng.usize(0..self.cast.len())
    }

    fn tell(&mut self, at: usize, order: Order) {
        if let Some(actor) = &self.cast[at] {
            // One that cannot take more orders has enough to do.
            let _ = actor.orders.try_send(order);
        }
    }

    async fn trouble(&mut self) {
        let end = Instant::now() + TROUBLE;
        // At one of the moments between two troubles.
        let mut until_fence = self.upgrade.then(|| self.rng.u8(0..12));
        while Instant::now() < end {
            until_fence = match until_fence {
                Some(0) => {
                    self.fence();
                    None
                }
                other => other.map(|n| n - 1),
            };
            let pause = Duration::from_millis(self.rng.u64(20..1_200));
            self.wait(pause).await;
            self.world.count(|c| c.faults += 1);
            self.strike().await;
            if self.rng.u8(0..4) == 0 {
                for fleet in &self.fleets {
                    fleet.check_bounds().await;
                }
            }
        }
    }

    /// Each server has a fence of its own: it is set at each.
    fn fence(&mut self) {
        for fleet in &mut self.fleets {
            fleet.fence(NEW);
        }
    }

    /// Waits, and ends partitions that are over.
    async fn wait(&mut self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            self.healings.sort_unstable();
            match self.healings.first().copied() {
                Some((at, from, to)) if at <= until => {
                    sleep_until(at).await;
                    self.healings.remove(0);
                    self.net.block(from, to, false);
                    self.world.saw(format_args!("{from} reaches {to} again"));
                }
                _ => break,
            }
        }
        sleep_until(until).await;
    }

    /// One trouble, drawn.
    async fn strike(&mut self) {
        let at = self.any();
        let home = self.rng.usize(0..self.fleets.len());
        match self.rng.u8(0..26) {
            0..=2 => self.partition(at, home),
            3 => self.net.reset_one(),
            4 | 5 => {
                let (bytes, back) = (self.rng.usize(0..4_000), self.rng.bool());
                self.world
                    .saw(format_args!("a connection is cut after {bytes} bytes"));
                self.net.cut_one(bytes, back);
            }
            6 => self.net.lose_one(),
            7 => {
                let slow = Duration::from_millis(self.rng.u64(20..600));
                self.net.change_one(|w| w.latency = slow);
            }
            8 => self.net.change_one(|w| w.trickle = true),
            9 => {
                self.fleets[home].kill();
                if self.rng.bool() {
                    let down = Duration::from_millis(self.rng.u64(0..3_000));
                    self.wait(down).await;
                }
                self.fleets[home].start().await;
            }
            // The next server is there before the old one goes.
            10 | 11 => {
                self.fleets[home].drain();
                self.fleets[home].start().await;
            }
            // Nobody is there for a while.
            12 => {
                self.fleets[home].drain();
                let down = Duration::from_millis(self.rng.u64(0..5_000));
                self.wait(down).await;
                self.fleets[home].start().await;
            }
            13 => {
                self.kill(at);
                self.enter(at);
            }
            14 => {
                // In good order.
                if let Some(actor) = self.cast[at].take() {
                    drop(actor.orders);
                    let _ = actor.task.await;
                }
                self.enter(at);
            }
            15 | 16 => {
                let time = Duration::from_millis(self.rng.u64(100..8_000));
                self.tell(at, Order::Stall(time));
            }
            17 => {
                let count = self.rng.u32(20..200);
                self.tell(at, Order::Burst(count));
            }
            18 => self.tell(at, Order::Lie),
            19 => {
                let seconds = self.rng.i64(-100_000..100_000);
                self.clocks[at].jump(seconds);
                self.fleets[home].clock.jump(-seconds);
            }
            20 | 21 => self.tell(at, Order::Move),
            _ => self.tell(at, Order::Churn),
        }
    }

    fn partition(&mut self, at: usize, home: usize) {
        let Some(server) = self.fleets[home].host() else {
            return;
        };
        let host = Self::host(at);
        let until = Instant::now() + Duration::from_millis(self.rng.u64(50..6_000));
        // One way, the other, or both.
        let ways = self.rng.u8(1..4);
        for (way, from, to) in [(1, host, server), (2, server, host)] {
            if ways & way != 0 {
                self.world.saw(format_args!("{from} does not reach {to}"));
                self.net.block(from, to, true);
                self.healings.push((until, from, to));
            }
        }
    }
}
