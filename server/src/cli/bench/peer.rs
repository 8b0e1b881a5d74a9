//! One connection: a task that reads what comes, and pushes when it is to.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::Failure;
use super::load::{Arrivals, Load};
use super::pace::Pace;

/// Bytes read at a time.
const READ: usize = 256 * 1024;
/// Bytes that may wait for the socket before a publisher stops.
const AHEAD: usize = 1024 * 1024;
/// A connection says that it is there: a server may want to hear it within 5 s.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How often subscribers are tried that are told of no answer: at first, and
/// at last, after doubling.
const FIRST_MARK: Duration = Duration::from_millis(2);
const LAST_MARK: Duration = Duration::from_millis(64);

/// What all connections do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Connect,
    Subscribe,
    Push,
    /// Receive what is on its way.
    Settle,
}

/// A push, as every protocol is given it.
pub(super) struct Push<'a> {
    pub(super) shard: u64,
    pub(super) seqno: u64,
    /// Nanoseconds since the Unix epoch.
    pub(super) stamp: u64,
    pub(super) diff: &'a bytes::Bytes,
}

/// What a server said, as far as it matters here.
pub(super) enum Heard {
    /// It has answered the first words.
    Ready,
    /// So many subscriptions stand.
    Subscribed(usize),
    Diff {
        shard: u64,
        seqno: u64,
        stamp: u64,
    },
    Gap,
}

/// A protocol, on one connection.
pub(super) trait Speaker {
    /// The first words.
    fn greet(&mut self, out: &mut BytesMut);
    fn subscribe(&mut self, out: &mut BytesMut);
    fn push(&mut self, push: &Push<'_>, out: &mut BytesMut);
    /// Said every [`HEARTBEAT`].
    fn heartbeat(&mut self, _: &mut BytesMut) {}
    /// Says something that only those hear whose subscriptions stand.
    fn mark(&mut self, _: &mut BytesMut) {}
    /// Bytes that wait for the server to allow them.
    fn waiting(&self) -> usize {
        0
    }
    /// Moves to `out` what the server allows.
    fn flush(&mut self, _: &mut BytesMut) {}
    /// Takes what was read.
    fn take(
        &mut self,
        bytes: &[u8],
        out: &mut BytesMut,
        heard: &mut dyn FnMut(Heard),
    ) -> Result<(), Failure>;
}

/// What a connection is there for.
pub(super) enum Job {
    Publisher { index: usize, pace: Pace },
    Subscriber { index: usize },
    Stalled,
}

pub(super) struct Peer<S> {
    load: Rc<Load>,
    speaker: S,
    stream: TcpStream,
    out: BytesMut,
    job: Job,
    /// A publisher's seqnos, or what a subscriber expects, of its shards.
    next: Vec<u64>,
    phase: watch::Receiver<Phase>,
    buffer: Rc<RefCell<Vec<u8>>>,
}

/// The buffer that all connections read into.
pub(super) fn buffer() -> Rc<RefCell<Vec<u8>>> {
    Rc::new(RefCell::new(vec![0; READ]))
}

impl<S: Speaker> Peer<S> {
    pub(super) fn new(
        load: Rc<Load>,
        speaker: S,
        stream: TcpStream,
        job: Job,
        phase: watch::Receiver<Phase>,
        buffer: Rc<RefCell<Vec<u8>>>,
    ) -> Self {
        let plan = &load.plan;
        let shards = match &job {
            Job::Publisher { index, .. } => (plan.shards - index).div_ceil(plan.publishers),
            Job::Subscriber { .. } => plan.each,
            Job::Stalled => 0,
        };
        Self {
            speaker,
            stream,
            out: BytesMut::new(),
            job,
            next: vec![1; shards],
            phase,
            buffer,
            load,
        }
    }

    /// Runs until the load is dropped, or something fails, which it tells.
    pub(super) async fn run(mut self) {
        if let Err(failure) = self.serve().await {
            self.load.fail(failure);
        }
    }

    async fn serve(&mut self) -> Result<(), Failure> {
        self.speaker.greet(&mut self.out);
        self.speaker.flush(&mut self.out);
        let may_push = std::sync::Arc::clone(&self.load.may_push);
        let mut phase = Phase::Connect;
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        let mut mark = FIRST_MARK;
        loop {
            if phase == Phase::Push {
                self.push();
            }
            self.write()?;
            let marks =
                phase == Phase::Subscribe && matches!(self.job, Job::Publisher { index: 0, .. });
            let stalls = phase == Phase::Push && matches!(self.job, Job::Stalled);
            let woken = async {
                match &self.job {
                    Job::Publisher { index, .. } if phase == Phase::Push => {
                        match may_push.get(*index) {
                            Some(notify) => notify.notified().await,
                            None => std::future::pending().await,
                        }
                    }
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                readable = self.stream.readable(), if !stalls => {
                    readable?;
                    self.read()?;
                }
                writable = self.stream.writable(), if !self.out.is_empty() => writable?,
                () = woken => {}
                () = tokio::time::sleep(mark), if marks => {
                    mark = LAST_MARK.min(mark * 2);
                    self.speaker.mark(&mut self.out);
                    self.speaker.flush(&mut self.out);
                }
                _ = heartbeat.tick() => {
                    self.speaker.heartbeat(&mut self.out);
                    self.speaker.flush(&mut self.out);
                }
                changed = self.phase.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    phase = *self.phase.borrow_and_update();
                    if phase == Phase::Push && let Job::Publisher { pace, .. } = &mut self.job {
                        pace.begin();
                    }
                    if phase == Phase::Subscribe && !matches!(self.job, Job::Publisher { .. }) {
                        self.speaker.subscribe(&mut self.out);
                        self.speaker.flush(&mut self.out);
                    }
                }
            }
        }
    }

    fn push(&mut self) {
        let Job::Publisher { index, pace } = &mut self.job else {
            return;
        };
        let load = &self.load;
        let plan = &load.plan;
        while self.out.len() + self.speaker.waiting() < AHEAD && pace.may(load, *index) {
            let place = pace.pushes() % self.next.len().max(1);
            let Some(next) = self.next.get_mut(place) else {
                return;
            };
            let seqno = *next;
            *next += 1;
            let shard = (index.saturating_add(place * plan.publishers)) as u64;
            let diff = plan.diff();
            pace.pushed(load);
            load.pushed(*index, shard, diff.len());
            self.speaker.push(
                &Push {
                    shard,
                    seqno,
                    stamp: load.clock.unix_nanos(),
                    diff: &diff,
                },
                &mut self.out,
            );
        }
        self.speaker.flush(&mut self.out);
    }

    fn write(&mut self) -> Result<(), Failure> {
        while !self.out.is_empty() {
            match self.stream.try_write(&self.out) {
                Ok(written) => {
                    let _ = self.out.split_to(written);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(format!("writing to the server: {e}").into()),
            }
        }
        Ok(())
    }

    fn read(&mut self) -> Result<(), Failure> {
        let buffer = Rc::clone(&self.buffer);
        let mut buffer = buffer.borrow_mut();
        let read = match self.stream.try_read(&mut buffer) {
            Ok(0) => return Err("the server has closed a connection".into()),
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(format!("reading from the server: {e}").into()),
        };
        let bytes = buffer.get(..read).unwrap_or_default();
        let load = &self.load;
        let mut arrivals = load.arrived();
        let (job, next) = (&self.job, &mut self.next);
        let mut heard = |heard| hear(load, job, next, &mut arrivals, &heard);
        self.speaker.take(bytes, &mut self.out, &mut heard)?;
        drop(arrivals);
        if load.is_complete() {
            load.changed.notify_one();
        }
        self.speaker.flush(&mut self.out);
        Ok(())
    }
}

fn hear(load: &Load, job: &Job, next: &mut [u64], arrivals: &mut Arrivals<'_>, heard: &Heard) {
    let plan = &load.plan;
    match *heard {
        Heard::Ready => load.is_ready(),
        Heard::Subscribed(shards) => load.has_subscribed(shards),
        Heard::Gap => arrivals.gap(),
        Heard::Diff {
            shard,
            seqno,
            stamp,
        } => {
            let Job::Subscriber { index } = job else {
                return;
            };
            let shards = plan.shards as u64;
            if shard >= shards {
                return;
            }
            let place = (shard + shards - plan.first_of(*index)) % shards;
            let next = usize::try_from(place).ok().and_then(|p| next.get_mut(p));
            if let Some(next) = next {
                arrivals.diff(next, shard, seqno, stamp);
            }
        }
    }
}
