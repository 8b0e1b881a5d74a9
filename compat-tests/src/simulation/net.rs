//! The simulated network: hosts, connections between them, and trouble.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use fastrand::Rng;
use persist_pubsub_client::{Io, System};
use persist_pubsub_server::Accept;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep};

use super::clock::{SimClock, since_start};
use super::lock;
use super::pipe::{Pipe, Weather, Written};

/// Connections that wait to be accepted; more are refused.
const BACKLOG: usize = 64;

/// A machine. Servers have an address made of it.
pub(super) type Host = u8;

/// Where the operator sits: nothing is ever wrong with that network, and nothing
/// takes any time there, so that the run does not depend on how much is read.
/// (`/metrics` says what the real process uses.)
pub(super) const OPERATOR: Host = 250;

/// The data port of a host.
pub(super) fn data_port(host: Host) -> SocketAddr {
    ([10, 0, 0, host], 6879).into()
}

/// The operators' port of a host.
pub(super) fn admin_port(host: Host) -> SocketAddr {
    ([10, 0, 0, host], 6880).into()
}

fn host_of(address: SocketAddr) -> Host {
    match address {
        SocketAddr::V4(v4) => v4.ip().octets()[3],
        SocketAddr::V6(_) => 0,
    }
}

/// The network. A clone is the same one.
#[derive(Clone)]
pub(super) struct Net(Arc<Mutex<State>>);

struct State {
    rng: Rng,
    listeners: BTreeMap<SocketAddr, mpsc::Sender<(Socket, SocketAddr)>>,
    /// Where the names that clients know lead.
    names: BTreeMap<&'static str, Vec<SocketAddr>>,
    /// Pairs between which nothing passes, in this direction.
    blocked: BTreeSet<(Host, Host)>,
    connections: BTreeMap<u64, Connection>,
    opened: u64,
    /// Of every byte that was written, by whom and when.
    written: DefaultHasher,
    bytes: u64,
}

struct Connection {
    from: Host,
    to: Host,
    there: Arc<Pipe>,
    back: Arc<Pipe>,
    /// How many of its two ends are held by somebody.
    ends: u8,
}

impl Net {
    pub(super) fn new(rng: Rng) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng,
            listeners: BTreeMap::new(),
            names: BTreeMap::new(),
            blocked: BTreeSet::new(),
            connections: BTreeMap::new(),
            opened: 0,
            written: DefaultHasher::new(),
            bytes: 0,
        })))
    }

    /// Listens; whoever listened there before does not any more.
    pub(super) fn listen(&self, address: SocketAddr) -> Listener {
        let (sender, incoming) = mpsc::channel(BACKLOG);
        lock(&self.0).listeners.insert(address, sender);
        Listener { address, incoming }
    }

    /// Makes the name lead to these hosts' data ports.
    pub(super) fn point(&self, name: &'static str, hosts: &[Host]) {
        let ports = hosts.iter().map(|&host| data_port(host)).collect();
        lock(&self.0).names.insert(name, ports);
    }

    /// Connects, after the time that takes.
    pub(super) async fn connect(&self, from: Host, to: SocketAddr) -> io::Result<Socket> {
        if from != OPERATOR {
            let there_and_back = Duration::from_millis(lock(&self.0).rng.u64(0..4));
            sleep(there_and_back).await;
        }
        let target = host_of(to);
        // Whoever cannot reach the other hears nothing: the caller gives up.
        if lock(&self.0).is_blocked(from, target) || lock(&self.0).is_blocked(target, from) {
            return std::future::pending().await;
        }
        let (ours, theirs, place) = {
            let mut state = lock(&self.0);
            let sender = state.listeners.get(&to).cloned();
            let place = sender.and_then(|sender| sender.try_reserve_owned().ok());
            let Some(place) = place else {
                return Err(io::ErrorKind::ConnectionRefused.into());
            };
            let (ours, theirs) = state.pair(self, from, target);
            (ours, theirs, place)
        };
        let peer = ([10, 0, 0, from], 40_000).into();
        place.send((theirs, peer));
        Ok(ours)
    }

    /// Stops what passes from one host to the other, or lets it pass.
    pub(super) fn block(&self, from: Host, to: Host, blocked: bool) {
        let mut state = lock(&self.0);
        if blocked {
            state.blocked.insert((from, to));
        } else {
            state.blocked.remove(&(from, to));
        }
        for connection in state.connections.values() {
            if (connection.from, connection.to) == (from, to) {
                connection.there.change(|w| w.blocked = blocked);
            }
            if (connection.to, connection.from) == (from, to) {
                connection.back.change(|w| w.blocked = blocked);
            }
        }
    }

    /// Ends every trouble that lasts.
    pub(super) fn heal(&self) {
        let blocked = lock(&self.0).blocked.clone();
        for (from, to) in blocked {
            self.block(from, to, false);
        }
        for connection in lock(&self.0).connections.values() {
            for pipe in [&connection.there, &connection.back] {
                pipe.spare();
                pipe.change(|w| {
                    w.trickle = false;
                    w.latency = Duration::from_millis(1);
                    w.jitter = Duration::from_millis(1);
                });
            }
        }
    }

    /// A host is gone at once: its connections break, nobody listens there.
    pub(super) fn kill(&self, host: Host) {
        let mut state = lock(&self.0);
        state
            .listeners
            .retain(|address, _| host_of(*address) != host);
        for connection in state.connections.values() {
            if connection.from == host || connection.to == host {
                connection.there.break_off(true);
                connection.back.break_off(true);
            }
        }
    }

    /// Some connection, drawn.
    fn any(&self) -> Option<(Arc<Pipe>, Arc<Pipe>)> {
        let mut state = lock(&self.0);
        let State {
            rng, connections, ..
        } = &mut *state;
        let open: Vec<_> = connections
            .values()
            .filter(|connection| connection.from != OPERATOR)
            .collect();
        let connection = rng.choice(open)?;
        Some((Arc::clone(&connection.there), Arc::clone(&connection.back)))
    }

    /// Breaks some connection at once.
    pub(super) fn reset_one(&self) {
        if let Some((there, back)) = self.any() {
            there.break_off(true);
            back.break_off(true);
        }
    }

    /// Breaks some connection after so many more bytes in one direction: in
    /// the middle of whatever they are.
    pub(super) fn cut_one(&self, bytes: usize, back: bool) {
        if let Some(pipes) = self.any() {
            let pipe = if back { pipes.1 } else { pipes.0 };
            pipe.cut_after(bytes);
        }
    }

    /// Loses some connection without a word to either end.
    pub(super) fn lose_one(&self) {
        if let Some((there, back)) = self.any() {
            there.lose();
            back.lose();
        }
    }

    /// Changes how bytes travel over some connection, both ways.
    pub(super) fn change_one(&self, change: impl Fn(&mut Weather)) {
        if let Some((there, back)) = self.any() {
            there.change(&change);
            back.change(&change);
        }
    }

    /// A digest of every byte written so far, by whom and when; and how many
    /// there were.
    pub(super) fn digest(&self) -> (u64, u64) {
        let state = lock(&self.0);
        (state.written.finish(), state.bytes)
    }
}

impl State {
    fn is_blocked(&self, from: Host, to: Host) -> bool {
        self.blocked.contains(&(from, to))
    }

    fn weather(&mut self, from: Host, to: Host) -> Weather {
        let mut millis = |below| match [from, to].contains(&OPERATOR) {
            true => Duration::ZERO,
            false => Duration::from_millis(self.rng.u64(0..below)),
        };
        Weather {
            latency: millis(6),
            jitter: millis(10),
            trickle: false,
            blocked: self.is_blocked(from, to),
        }
    }

    fn pair(&mut self, net: &Net, from: Host, to: Host) -> (Socket, Socket) {
        self.opened += 1;
        let id = self.opened;
        let mut pipe = |from, to| {
            let weather = self.weather(from, to);
            Pipe::new(weather, self.rng.fork())
        };
        let (there, back) = (pipe(from, to), pipe(to, from));
        let connection = Connection {
            from,
            to,
            there: Arc::clone(&there),
            back: Arc::clone(&back),
            ends: 2,
        };
        self.connections.insert(id, connection);
        let socket = |name, writes: &Arc<Pipe>, reads: &Arc<Pipe>| Socket {
            net: net.clone(),
            id,
            name,
            digested: from != OPERATOR,
            writes: Arc::clone(writes),
            reads: Arc::clone(reads),
            timer: None,
        };
        (
            socket("client", &there, &back),
            socket("server", &back, &there),
        )
    }
}

/// One end of a connection. Dropping it closes it.
pub(super) struct Socket {
    net: Net,
    id: u64,
    name: &'static str,
    digested: bool,
    writes: Arc<Pipe>,
    reads: Arc<Pipe>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.writes.finish();
        self.reads.break_off(true);
        let mut state = lock(&self.net.0);
        if let Some(connection) = state.connections.get_mut(&self.id) {
            connection.ends -= 1;
            if connection.ends == 0 {
                state.connections.remove(&self.id);
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.reads.read(cx, &mut this.timer, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = std::task::ready!(self.writes.write(cx, buf))?;
        let len = match written {
            Written::Some(len) => len,
            Written::Last(len) => {
                self.writes.break_off(false);
                self.reads.break_off(false);
                len
            }
        };
        let mut state = lock(&self.net.0);
        // The operators' port says the true date, too.
        if self.digested {
            (self.id, self.name, since_start(), &buf[..len]).hash(&mut state.written);
        }
        state.bytes += len as u64;
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writes.finish();
        Poll::Ready(Ok(()))
    }
}

/// Where a server accepts.
pub(super) struct Listener {
    address: SocketAddr,
    incoming: mpsc::Receiver<(Socket, SocketAddr)>,
}

impl Accept for Listener {
    type Io = Socket;

    async fn accept(&mut self) -> io::Result<(Socket, SocketAddr)> {
        match self.incoming.recv().await {
            Some(accepted) => Ok(accepted),
            // Somebody else listens here now.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// What a client process has of the simulated world.
pub(super) struct Machine {
    pub(super) net: Net,
    pub(super) host: Host,
    pub(super) clock: SimClock,
}

impl System for Machine {
    fn look_up<'a>(
        &'a self,
        name: &'a str,
        _: u16,
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>> {
        let found = lock(&self.net.0).names.get(name).cloned();
        Box::pin(std::future::ready(Ok(found.unwrap_or_default())))
    }

    fn connect(
        &self,
        address: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>> {
        let (net, host) = (self.net.clone(), self.host);
        Box::pin(async move {
            let socket = net.connect(host, address).await?;
            Ok(Box::new(socket) as Box<dyn Io>)
        })
    }

    fn now(&self) -> SystemTime {
        self.clock.now()
    }
}
