//! One session with a server, and its reading half.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use persist_pubsub_proto::{v0 as proto_v0, v1 as proto_v1};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tonic::Streaming;

use super::dial::{self, Line};
use super::gate::{Gate, LinkId};
use super::greet::{Greeted, Greeting, Writing};
use super::wire::{Inbound, Refusal, reason};
use super::{v0, v1};
use crate::config::{Config, Mode};
use crate::event::{Reason, ServerInfo, Wire};
use crate::home::{Kind, Place, PlaceId};
use crate::in_process::Responses;
use crate::merge::{End, Told};
use crate::shared::{Shared, lock};

/// After so many intervals without a sign the server is given up
/// (`Heartbeat` of the protocol).
const SILENT_INTERVALS: u32 = 3;

/// An open session. Dropping it cuts the stream, and what it holds of the
/// interest and of the outbox is given back, as lost.
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) wire: Wire,
    pub(super) server: ServerInfo,
    pub(super) since: Instant,
    /// What its server was told, and has said to be so.
    pub(super) mode: Mode,
    place: PlaceId,
    pub(super) gate: Arc<Gate>,
    shared: Arc<Shared>,
    incoming: Incoming,
    silence: Option<Silence>,
    dropped: oneshot::Receiver<()>,
    given_back: bool,
    /// None in process.
    _line: Option<Line>,
}

pub(super) enum Incoming {
    V0(Streaming<proto_v0::ProtoPubSubMessage>),
    V1(Streaming<proto_v1::SessionResponse>),
    InProcess(Responses),
}

/// Watches for a server that says nothing.
struct Silence {
    most: Duration,
    until: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Link {
    /// Connects and greets. One attempt, bounded in time.
    pub(super) async fn open(
        place: (PlaceId, Place),
        config: Arc<Config>,
        shared: Arc<Shared>,
        mode: Mode,
    ) -> Result<Box<Self>, Refusal> {
        let (place, name) = place;
        let id = shared.next_link();
        let most = config.handshake_timeout;
        let late = |_| Err(Refusal::Failed(Reason::HandshakeTimeout(most)));
        let greeting = Greeting {
            config: &config,
            shared: &shared,
            link: id,
            mode,
        };
        let (greeted, line) = match (name.home.kind(), name.address) {
            (Kind::At(endpoint), Some(address)) => {
                let system = shared.system.as_ref();
                let line = dial::dial(&config, endpoint, address, system)
                    .await
                    .map_err(Refusal::Failed)?;
                let greeted = timeout(most, greeting.say(&name, &line)).await;
                (greeted.unwrap_or_else(late)?, Some(line))
            }
            (Kind::At(endpoint), None) => {
                let why = format!("{} has no address", endpoint.host);
                return Err(Refusal::Failed(Reason::Unreachable(why)));
            }
            (Kind::InProcess(inside), _) => {
                let greeted = timeout(most, greeting.say_in_process(inside)).await;
                (greeted.unwrap_or_else(late)?, None)
            }
        };
        Self::begin(place, &shared, (id, mode), greeted, line)
    }

    /// From here on it may subscribe and publish.
    fn begin(
        place: PlaceId,
        shared: &Arc<Shared>,
        (id, mode): (LinkId, Mode),
        greeted: Greeted,
        line: Option<Line>,
    ) -> Result<Box<Self>, Refusal> {
        let instance = &greeted.server.instance_id;
        if lock(&shared.board).has_instance(place, instance) {
            return Err(Refusal::Failed(Reason::SameServer(instance.clone())));
        }
        let Writing { gate, dropped } = greeted.writing;
        let link = Box::new(Self {
            id,
            wire: greeted.wire,
            server: greeted.server,
            since: Instant::now(),
            mode,
            place,
            gate: Arc::clone(&gate),
            shared: Arc::clone(shared),
            incoming: greeted.incoming,
            silence: greeted.terms.heartbeat.map(Silence::new),
            dropped,
            given_back: false,
            _line: line,
        });
        // Before it may subscribe, so that nothing pushed after its first
        // subscribe is told to the session before it alone.
        if mode == Mode::ReadWrite {
            lock(&shared.outbox).attach(id, place, Arc::clone(&gate), link.since);
        }
        lock(&shared.interest).attach(id, link.wire, greeted.bounds, gate);
        link.gate.open(greeted.terms, mode);
        Ok(link)
    }

    /// What the server says next, or why nothing will come any more.
    /// Cancelling it loses nothing.
    pub(super) async fn next(&mut self) -> Result<Inbound, Reason> {
        let Self {
            incoming, silence, ..
        } = self;
        tokio::select! {
            biased;
            message = incoming.next() => {
                if let Some(silence) = silence {
                    silence.heard();
                }
                message
            }
            reason = watch(silence.as_mut()) => Err(reason),
        }
    }

    /// It has another mode now. What was pushed since it was asked for goes out.
    pub(super) fn set_mode(&mut self, mode: Mode) {
        if std::mem::replace(&mut self.mode, mode) == mode {
            return;
        }
        let (now, shared) = (Instant::now(), &self.shared);
        let mut outbox = lock(&shared.outbox);
        match mode {
            Mode::ReadWrite => outbox.attach(self.id, self.place, Arc::clone(&self.gate), now),
            Mode::ReadOnly => outbox.release(self.id, false, now, &shared.stats),
        }
    }

    /// Ends it, and says what becomes of what it has brought.
    pub(super) fn end(mut self, end: End, told: &mut Told) {
        self.give_back(end, told);
    }

    /// Changes nothing when it is done once more.
    fn give_back(&mut self, end: End, told: &mut Told) {
        if std::mem::replace(&mut self.given_back, true) {
            return;
        }
        let shared = &self.shared;
        let now = Instant::now();
        lock(&shared.outbox).release(self.id, end == End::Lost, now, &shared.stats);
        let mut after = None;
        loop {
            after = shared.change(told, |interest, told| {
                interest.detach(self.id, end, after, now, told)
            });
            if after.is_none() {
                break;
            }
        }
    }

    /// The host made us wait: the server is not to be blamed for it.
    pub(super) fn excuse(&mut self) {
        if let Some(silence) = &mut self.silence {
            silence.heard();
        }
    }

    /// Resolves when the network has let go of the writing half, which also
    /// shows while nothing is read. To be polled until then, not after.
    pub(super) async fn broken(&mut self) {
        let _ = (&mut self.dropped).await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.give_back(End::Lost, &mut Told::default());
    }
}

impl Incoming {
    async fn next(&mut self) -> Result<Inbound, Reason> {
        let inbound = match self {
            Self::V0(stream) => stream.message().await.map(|m| m.map(v0::decode)),
            Self::V1(stream) => stream.message().await.map(|m| m.map(v1::decode)),
            Self::InProcess(stream) => {
                let said = said(stream).await;
                return said.map_or(Err(Reason::Ended), |said| said.map(v1::decode));
            }
        };
        match inbound {
            Ok(Some(inbound)) => Ok(inbound),
            Ok(None) => Err(Reason::Ended),
            Err(status) => Err(reason(&status)),
        }
    }
}

/// What a server in this process says next.
pub(super) async fn said(
    responses: &mut Responses,
) -> Option<Result<proto_v1::SessionResponse, Reason>> {
    poll_fn(|cx| responses.as_mut().poll_next(cx)).await
}

impl Silence {
    fn new(interval: Duration) -> Self {
        let most = interval.saturating_mul(SILENT_INTERVALS);
        let until = Instant::now() + most;
        Self {
            most,
            until,
            timer: Box::pin(sleep_until(until)),
        }
    }

    fn heard(&mut self) {
        self.until = Instant::now() + self.most;
    }
}

/// Resolves when the server was silent for too long. The timer is not moved
/// with every message: when it goes off, it is set for the rest.
async fn watch(silence: Option<&mut Silence>) -> Reason {
    let Some(silence) = silence else {
        return std::future::pending().await;
    };
    poll_fn(|cx| {
        while silence.timer.as_mut().poll(cx).is_ready() {
            if silence.until <= Instant::now() {
                return std::task::Poll::Ready(());
            }
            silence.timer.as_mut().reset(silence.until);
        }
        std::task::Poll::Pending
    })
    .await;
    Reason::Silent(silence.most)
}
