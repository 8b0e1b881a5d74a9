//! The way from a server embedded in `environmentd` to the standalone one, and
//! back, process by process, with one of them crashing: every reader gets every
//! diff once and in order, and whatever it is told that it missed has its
//! reason in the crash.
//!
//! One cell is one run: who moves in which order, where the way turns, who
//! crashes, and when. The network is the simulation's, at its ordinary jitter.

mod cell;
mod member;
mod scene;

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use fastrand::Rng;
use persist_pubsub_client::{Client, Config, Home, Io, System};
use persist_pubsub_proto::ShardId;
use persist_pubsub_server::app::{self, Server as Running};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use self::cell::Step;
pub use self::cell::{Cell, Server, Victim, Who};
use self::member::{Member, Order};
pub use self::scene::Told;
use self::scene::{Incarnation, Scene};
use super::clock::{self, SimClock};
use super::net::{Host, Machine, Net, admin_port, data_port};

/// Between two moves. Short of a `scene::SETTLED`, so that some are on their way
/// when the next moves.
const BETWEEN: Duration = Duration::from_millis(200);
/// What an operator leaves between everybody having both homes and the first to
/// leave one: holes of the time before make servers not wait for a while.
const BEFORE_LEAVING: Duration = Duration::from_secs(4);
/// How long who crashed is away.
const AWAY: Duration = Duration::from_millis(700);
/// How long everybody may take to have a session with each of its homes: a
/// client's longest delay, and a look-up's.
const AT_HOME: Duration = Duration::from_secs(30);
/// After the last publications.
const LAST: Duration = Duration::from_secs(10);

/// How a run went.
#[derive(Debug)]
pub struct Outcome {
    /// What hosts were told.
    pub told: Told,
    /// What should not have been; empty if all was well.
    pub violations: Vec<String>,
    /// What happened, line by line, if asked for.
    pub lines: Vec<String>,
}

impl Cell {
    /// Runs it. `keep_lines`: also tells what happened, line by line.
    ///
    /// # Errors
    /// If there is no runtime to be had.
    pub fn run(&self, seed: u64, keep_lines: bool) -> io::Result<Outcome> {
        fastrand::seed(seed);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()?;
        Ok(runtime.block_on(walk(self, seed, keep_lines)))
    }
}

/// What a process has of the simulated world: addresses are their own names.
pub(super) struct Neighbourhood(Machine);

impl System for Neighbourhood {
    fn look_up<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>> {
        let address = host.parse().map(|ip| vec![SocketAddr::new(ip, port)]);
        Box::pin(std::future::ready(address.map_err(io::Error::other)))
    }

    fn connect(
        &self,
        address: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>> {
        self.0.connect(address)
    }

    fn now(&self) -> SystemTime {
        self.0.now()
    }
}

/// All that plays.
struct Stage {
    net: Net,
    scene: Scene,
    shards: Vec<ShardId>,
    rng: Rng,
    embedded: Option<Running>,
    standalone: Option<Running>,
    actors: Vec<Actor>,
    started: u32,
}

struct Actor {
    who: Incarnation,
    step: Step,
    /// None: it has crashed.
    alive: Option<Alive>,
}

struct Alive {
    client: Client,
    orders: mpsc::Sender<Order>,
    task: JoinHandle<Member>,
}

async fn walk(cell: &Cell, seed: u64, keep_lines: bool) -> Outcome {
    clock::start();
    let mut rng = Rng::with_seed(seed);
    let shards: Vec<_> = (1..=3).map(|n| ShardId::new([n; 16])).collect();
    let scene = Scene::new(&shards, keep_lines);
    let mut stage = Stage {
        net: Net::new(rng.fork()),
        scene: scene.clone(),
        shards,
        rng,
        embedded: None,
        standalone: None,
        actors: Vec::new(),
        started: 0,
    };
    stage.serve(Server::Standalone).await;
    let first = match cell.back {
        false => Step::Embedded,
        true => Step::Standalone,
    };
    for who in Who::ALL {
        stage.actors.push(Actor {
            who: (who, 0),
            step: first,
            alive: None,
        });
        stage.start(who).await;
    }
    stage.everybody_at_home().await;
    // A shard's first diff says where it begins, so nobody overtakes it.
    stage.tell(Order::Last, |who| who == Who::Environmentd);
    stage.pass(BETWEEN).await;
    stage.tell(Order::Write, |_| true);
    stage.pass(BETWEEN).await;
    let moves = cell.moves();
    for after in 0..=moves.len() {
        if let Some((victim, at, later)) = cell.crash
            && at == after
        {
            stage.pass(Duration::from_millis(later)).await;
            stage.crash(victim);
            stage.pass(AWAY).await;
            stage.come_back(victim).await;
        }
        stage.pass(BETWEEN).await;
        let Some(&(who, to)) = moves.get(after) else {
            break;
        };
        // Nobody gets two steps ahead of another: they would share no server.
        if to != Step::Both && stage.actors.iter().all(|a| a.step == Step::Both) {
            stage.everybody_at_home().await;
            stage.pass(BEFORE_LEAVING).await;
        }
        stage.send(who, to);
    }
    stage.everybody_at_home().await;
    stage.judge().await;
    let (told, violations, lines) = scene.end();
    Outcome {
        told,
        violations,
        lines,
    }
}

impl Stage {
    fn neighbourhood(&self, host: Host) -> Neighbourhood {
        Neighbourhood(Machine {
            net: self.net.clone(),
            host,
            clock: SimClock::default(),
        })
    }

    /// Starts a server.
    async fn serve(&mut self, server: Server) {
        let host = server.host();
        let data = self.net.listen(data_port(host));
        let admin = self.net.listen(admin_port(host));
        let mut config = persist_pubsub_server::config::Config::default();
        // Well above what the network's jitter turns about.
        config.reorder_window = Duration::from_millis(200);
        let clock = SimClock::default().for_server();
        let started = app::start_on(config, data, admin, clock, std::future::pending()).await;
        let running = started
            .map_err(|error| self.scene.violated(format_args!("no server: {error}")))
            .ok();
        self.scene.serves(server);
        match server {
            Server::Embedded => self.embedded = running,
            Server::Standalone => self.standalone = running,
        }
    }

    fn homes(&self, who: Who, step: Step) -> Vec<Home> {
        let at = |server: Server| Home::at(&server.address().to_string()).ok();
        let embedded = match (who, &self.embedded) {
            (Who::Environmentd, Some(server)) => Some(Home::in_process(server.in_process())),
            _ => at(Server::Embedded),
        };
        let (embedded, standalone) = match step {
            Step::Embedded => (embedded, None),
            Step::Both => (embedded, at(Server::Standalone)),
            Step::Standalone => (None, at(Server::Standalone)),
        };
        embedded.into_iter().chain(standalone).collect()
    }

    /// A process starts, with its homes of the moment.
    async fn start(&mut self, who: Who) {
        if who == Who::Environmentd {
            self.serve(Server::Embedded).await;
        }
        self.started += 1;
        let incarnation = (who, self.started);
        let Some(at) = self.actors.iter().position(|a| a.who.0 == who) else {
            return;
        };
        let homes = self.homes(who, self.actors[at].step);
        self.scene
            .saw(format_args!("{incarnation:?} starts with {homes:?}"));
        let backoff = (Duration::from_millis(50), Duration::from_millis(500));
        let config = Config::with_homes(homes)
            .client_name(&format!("{incarnation:?}"))
            .connect_timeout(Duration::from_secs(1))
            .backoff(backoff.0, backoff.1);
        let Ok(config) = config else {
            return self.scene.violated(format_args!("no config"));
        };
        let member = Member::start(
            incarnation,
            config,
            self.neighbourhood(who.host()),
            &self.scene,
            &self.shards,
            self.rng.fork(),
        );
        let client = member.client();
        let (orders, receiver) = mpsc::channel(4);
        let task = tokio::spawn(member.live(receiver));
        let actor = &mut self.actors[at];
        actor.who = incarnation;
        actor.alive = Some(Alive {
            client,
            orders,
            task,
        });
    }

    /// The one setting is changed. Who has crashed comes back with it.
    fn send(&mut self, who: Who, to: Step) {
        let homes = self.homes(who, to);
        self.scene.saw(format_args!("{who:?} moves to {to:?}"));
        for actor in self.actors.iter_mut().filter(|a| a.who.0 == who) {
            actor.step = to;
            if let Some(alive) = &actor.alive {
                member::set_homes(&alive.client, homes.clone());
            }
        }
    }

    fn crash(&mut self, victim: Victim) {
        self.look();
        self.scene.saw(format_args!("{victim:?} crashes"));
        let (process, server) = match victim {
            Victim::Standalone => (None, Some(Server::Standalone)),
            Victim::Process(who) => {
                let embedded = (who == Who::Environmentd).then_some(Server::Embedded);
                (Some(who), embedded)
            }
        };
        let mut gone = None;
        for actor in &mut self.actors {
            if process == Some(actor.who.0)
                && let Some(alive) = actor.alive.take()
            {
                gone = Some(actor.who);
                alive.task.abort();
            }
        }
        self.scene.crash(gone, server);
        let host = match process {
            Some(who) => who.host(),
            None => Server::Standalone.host(),
        };
        self.net.kill(host);
        match server {
            Some(Server::Embedded) => self.embedded = None,
            Some(Server::Standalone) => self.standalone = None,
            None => {}
        }
    }

    async fn come_back(&mut self, victim: Victim) {
        match victim {
            Victim::Standalone => self.serve(Server::Standalone).await,
            Victim::Process(who) => {
                self.start(who).await;
                self.tell(Order::Write, |other| other == who);
            }
        }
    }

    fn tell(&self, order: Order, whom: impl Fn(Who) -> bool) {
        for actor in self.actors.iter().filter(|a| whom(a.who.0)) {
            if let Some(alive) = &actor.alive
                && alive.orders.try_send(order).is_err()
            {
                self.scene
                    .violated(format_args!("{:?} does not take its orders", actor.who));
            }
        }
    }

    /// Who has a session with whom.
    fn look(&self) {
        for actor in &self.actors {
            if let Some(alive) = &actor.alive {
                // One that is being left, or is about to be, is no home.
                let mut homes = member::sessions(&alive.client, false);
                homes.retain(|server| actor.step.homes().contains(server));
                self.scene.sessions(actor.who, homes);
            }
        }
    }

    /// Lets time pass, and looks.
    async fn pass(&self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            self.look();
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            sleep(left.min(Duration::from_millis(20))).await;
        }
    }

    /// What an operator waits for before the next step: every process has a
    /// session with each of its homes, and with no other server.
    async fn everybody_at_home(&self) {
        let by = Instant::now() + AT_HOME;
        let mut since: Option<Instant> = None;
        loop {
            self.pass(Duration::from_millis(20)).await;
            let now = Instant::now();
            if self.actors.iter().all(Actor::is_at_home) {
                // And a moment more: a session is to have been answered.
                let since = *since.get_or_insert(now);
                if now - since >= Duration::from_millis(400) {
                    return;
                }
            } else if now > by {
                for actor in self.actors.iter().filter(|a| !a.is_at_home()) {
                    let homes = actor.alive.as_ref().map(|alive| alive.client.homes());
                    self.scene
                        .violated(format_args!("{:?} is not at home: {homes:?}", actor.who));
                }
                return;
            } else {
                since = None;
            }
        }
    }

    async fn judge(mut self) {
        for order in [Order::Quiet, Order::Last] {
            self.tell(order, |_| true);
            self.pass(LAST).await;
        }
        for actor in &mut self.actors {
            let Some(alive) = actor.alive.take() else {
                continue;
            };
            drop((alive.orders, alive.client));
            match alive.task.await {
                Ok(member) => member.judge(),
                Err(error) => self
                    .scene
                    .violated(format_args!("{:?} failed: {error}", actor.who)),
            }
        }
    }
}

impl Actor {
    fn is_at_home(&self) -> bool {
        let wanted: BTreeSet<_> = self.step.homes().iter().copied().collect();
        let alive = self.alive.as_ref();
        alive.is_some_and(|alive| member::sessions(&alive.client, true) == wanted)
    }
}
