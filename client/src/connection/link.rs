//! One session with a server: from the greeting to its end.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use persist_pubsub_proto::{v0 as proto_v0, v1 as proto_v1};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tonic::Streaming;

use super::dial::{self, Line};
use super::gate::{Gate, LinkId, Terms};
use super::outgoing::Outgoing;
use super::wire::{Inbound, Refusal, reason};
use super::{v0, v1};
use crate::config::{Config, Mode, WirePreference};
use crate::event::{Reason, ServerInfo, Wire};
use crate::home::{Inside, Kind, Place, PlaceId};
use crate::in_process::Responses;
use crate::interest::Bounds;
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

enum Incoming {
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
        let (greeted, line) = match (name.home.kind(), name.address) {
            (Kind::At(endpoint), Some(address)) => {
                let system = shared.system.as_ref();
                let line = dial::dial(&config, endpoint, address, system)
                    .await
                    .map_err(Refusal::Failed)?;
                let greeting = greet(&name, &config, &shared, (id, mode), &line);
                let greeted = timeout(most, greeting).await.unwrap_or_else(late)?;
                (greeted, Some(line))
            }
            (Kind::At(endpoint), None) => {
                let why = format!("{} has no address", endpoint.host);
                return Err(Refusal::Failed(Reason::Unreachable(why)));
            }
            (Kind::InProcess(inside), _) => {
                let greeting = greet_in_process(&config, &shared, (id, mode), inside);
                let greeted = timeout(most, greeting).await.unwrap_or_else(late)?;
                (greeted, None)
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
        let link = Box::new(Self {
            id,
            wire: greeted.wire,
            server: greeted.server,
            since: Instant::now(),
            mode,
            place,
            gate: Arc::clone(&greeted.gate),
            shared: Arc::clone(shared),
            incoming: greeted.incoming,
            silence: greeted.terms.heartbeat.map(Silence::new),
            dropped: greeted.dropped,
            given_back: false,
            _line: line,
        });
        // Before it may subscribe, so that nothing pushed after its first
        // subscribe is told to the session before it alone.
        if mode == Mode::ReadWrite {
            let gate = Arc::clone(&greeted.gate);
            lock(&shared.outbox).attach(id, place, gate, link.since);
        }
        let gate = Arc::clone(&greeted.gate);
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

/// A greeting that was answered.
struct Greeted {
    wire: Wire,
    server: ServerInfo,
    terms: Terms,
    bounds: Bounds,
    gate: Arc<Gate>,
    incoming: Incoming,
    dropped: oneshot::Receiver<()>,
}

/// In the wire version that is to be spoken.
async fn greet(
    name: &Place,
    config: &Config,
    shared: &Arc<Shared>,
    (id, mode): (LinkId, Mode),
    line: &Line,
) -> Result<Greeted, Refusal> {
    let auto = config.wire == WirePreference::Auto;
    match config.wire {
        WirePreference::V0 => greet_v0(config, shared, id, line).await,
        _ => match greet_v1(config, shared, (id, mode), line).await {
            Err(Refusal::Unimplemented(_)) if auto => {
                let greeted = greet_v0(config, shared, id, line).await?;
                tracing::info!(
                    server = %name,
                    "the pubsub server does not have v1: speaking v0 to it"
                );
                Ok(greeted)
            }
            greeted => greeted,
        },
    }
}

/// v1, whose messages a server in this process takes as they are.
async fn greet_in_process(
    config: &Config,
    shared: &Arc<Shared>,
    (id, mode): (LinkId, Mode),
    inside: &Inside,
) -> Result<Greeted, Refusal> {
    let gate = Arc::new(Gate::default());
    let (sender, dropped) = oneshot::channel();
    let outgoing = Outgoing::new(
        Arc::clone(shared),
        Arc::clone(&gate),
        id,
        Some(v1::hello(config, mode)),
        v1::encode,
        sender,
    );
    let opened = inside.0.open(Box::pin(outgoing));
    let mut responses = opened.map_err(Refusal::Failed)?;
    let welcome = loop {
        let message = said(&mut responses).await.transpose();
        if let Some(answer) = v1::welcomed(message.map_err(Refusal::Failed)?) {
            break answer?;
        }
    };
    Ok(Greeted {
        wire: Wire::V1,
        server: welcome.server,
        terms: welcome.terms,
        bounds: welcome.bounds,
        gate,
        incoming: Incoming::InProcess(responses),
        dropped,
    })
}

async fn greet_v1(
    config: &Config,
    shared: &Arc<Shared>,
    (id, mode): (LinkId, Mode),
    line: &Line,
) -> Result<Greeted, Refusal> {
    let gate = Arc::new(Gate::default());
    let (sender, dropped) = oneshot::channel();
    let outgoing = Outgoing::new(
        Arc::clone(shared),
        Arc::clone(&gate),
        id,
        Some(v1::hello(config, mode)),
        v1::encode,
        sender,
    );
    let (incoming, welcome) =
        v1::open(line.channel.clone(), line.authorization.clone(), outgoing).await?;
    Ok(Greeted {
        wire: Wire::V1,
        server: welcome.server,
        terms: welcome.terms,
        bounds: welcome.bounds,
        gate,
        incoming: Incoming::V1(incoming),
        dropped,
    })
}

async fn greet_v0(
    config: &Config,
    shared: &Arc<Shared>,
    id: LinkId,
    line: &Line,
) -> Result<Greeted, Refusal> {
    let gate = Arc::new(Gate::default());
    let (sender, dropped) = oneshot::channel();
    let outgoing = Outgoing::new(
        Arc::clone(shared),
        Arc::clone(&gate),
        id,
        None,
        v0::encode,
        sender,
    );
    let incoming = v0::open(
        line.channel.clone(),
        line.authorization.clone(),
        &config.client_name,
        outgoing,
    )
    .await?;
    Ok(Greeted {
        wire: Wire::V0,
        server: ServerInfo::default(),
        terms: v0::TERMS,
        bounds: v0::BOUNDS,
        gate,
        incoming: Incoming::V0(incoming),
        dropped,
    })
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
async fn said(responses: &mut Responses) -> Option<Result<proto_v1::SessionResponse, Reason>> {
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
