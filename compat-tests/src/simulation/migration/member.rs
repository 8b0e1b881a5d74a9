//! A process on the way: a host with a state cache that writes, follows every
//! shard, never polls, and holds whatever it is told against the scene.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fastrand::Rng;
use persist_pubsub_client::{
    Client, Config, Event, Events, HomeState, Settings, Subscription, connect_by,
};
use persist_pubsub_proto::ShardId;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::scene::{Incarnation, Scene};
use super::{Neighbourhood, Server};

/// What a process is told to do. When nobody is left to tell it anything, it
/// ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// Write, without end.
    Write,
    /// Write nothing more by yourself.
    Quiet,
    /// Write once more to every shard.
    Last,
}

/// The mean pause between two of its commits.
const PAUSE: Duration = Duration::from_millis(12);

pub(super) struct Member {
    who: Incarnation,
    scene: Scene,
    rng: Rng,
    client: Client,
    events: Events,
    follows: BTreeMap<ShardId, Follows>,
}

/// A shard that it follows.
struct Follows {
    /// What its cache has.
    state: u64,
    /// The highest diff that it was told since the last resync.
    last: u64,
    /// Up to here it has been accounted for everything: told, a gap, its own,
    /// or there when it subscribed.
    whole: u64,
    /// What was accounted for above that.
    above: BTreeSet<u64>,
    /// The answer of the first subscription has come.
    answered: bool,
    _token: Subscription,
}

impl Follows {
    fn account_for(&mut self, seqno: u64) {
        if seqno > self.whole {
            self.above.insert(seqno);
            while self.above.remove(&(self.whole + 1)) {
                self.whole += 1;
            }
        }
    }

    fn has(&self, seqno: u64) -> bool {
        seqno <= self.whole || self.above.contains(&seqno)
    }

    fn fetched(&mut self, head: u64) {
        self.state = self.state.max(head);
        self.whole = self.whole.max(head);
        let whole = self.whole;
        self.above.retain(|&seqno| seqno > whole);
        while self.above.remove(&(self.whole + 1)) {
            self.whole += 1;
        }
    }
}

impl Member {
    /// Starts: reads the state of every shard, and follows it from there.
    pub(super) fn start(
        who: Incarnation,
        config: Config,
        place: Neighbourhood,
        scene: &Scene,
        shards: &[ShardId],
        rng: Rng,
    ) -> Self {
        let (client, events) = connect_by(config, place);
        let follows = shards.iter().map(|&shard| {
            let state = scene.head(shard);
            let follows = Follows {
                state,
                last: state,
                whole: state,
                above: BTreeSet::new(),
                answered: false,
                _token: client.subscribe_from(&shard, state),
            };
            (shard, follows)
        });
        Self {
            who,
            scene: scene.clone(),
            rng,
            follows: follows.collect(),
            client,
            events,
        }
    }

    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Listens, and writes when it is told to, until nobody tells it anything. Returns itself, for the last
    /// judgement.
    pub(super) async fn live(mut self, mut orders: mpsc::Receiver<Order>) -> Self {
        let mut next = None;
        loop {
            let never = Instant::now() + Duration::from_secs(1_000_000);
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Order::Write) => next = Some(Instant::now()),
                    Some(Order::Quiet) => next = None,
                    Some(Order::Last) => {
                        let shards: Vec<_> = self.follows.keys().copied().collect();
                        shards.into_iter().for_each(|shard| self.write(shard));
                    }
                    None => return self,
                },
                event = self.events.next() => match event {
                    Some(event) => self.hear(event),
                    None => {
                        let who = self.who;
                        self.scene.violated(format_args!("{who:?}: the events ended"));
                        return self;
                    }
                },
                () = sleep_until(next.unwrap_or(never)) => {
                    let shards = self.follows.len();
                    let shard = self.follows.keys().nth(self.rng.usize(0..shards)).copied();
                    if let Some(shard) = shard {
                        self.write(shard);
                    }
                    next = Some(Instant::now() + PAUSE.mul_f64(2.0 * self.rng.f64()));
                }
            }
        }
    }

    /// Publishing has stopped: everything has to be accounted for.
    pub(super) fn judge(&self) {
        for (&shard, follows) in &self.follows {
            let head = self.scene.head(shard);
            if follows.whole < head {
                let (who, whole) = (self.who, follows.whole);
                self.scene.violated(format_args!(
                    "{who:?}: nobody told it of {shard} {}, the head is {head}",
                    whole + 1
                ));
            }
        }
    }

    fn write(&mut self, shard: ShardId) {
        let (seqno, diff) = self.scene.commit(self.who, shard);
        let who = self.who;
        self.scene
            .saw(format_args!("{who:?} writes {shard} {seqno}"));
        if let Some(follows) = self.follows.get_mut(&shard) {
            // Compare-and-set told it what came before.
            follows.state = seqno;
            follows.account_for(seqno);
        }
        self.client.push_diff(&shard, seqno, diff);
    }

    fn hear(&mut self, event: Event) {
        let (who, scene) = (self.who, &self.scene);
        match event {
            Event::Diff {
                shard, seqno, diff, ..
            } => {
                scene.count(|told| told.diffs += 1);
                scene.saw(format_args!("{who:?} hears diff {shard} {seqno}"));
                let Some(follows) = self.follows.get_mut(&shard) else {
                    return;
                };
                follows.answered = true;
                match scene.diff(shard, seqno) {
                    Some((bytes, _)) if bytes != diff => {
                        scene.violated(format_args!("{who:?}: {shard} {seqno} is not the diff"));
                    }
                    None => scene.violated(format_args!("{who:?}: {shard} {seqno} never was")),
                    Some(_) => {}
                }
                if seqno <= follows.last {
                    let last = follows.last;
                    scene.violated(format_args!(
                        "{who:?}: {shard} {seqno} again or out of order, after {last}"
                    ));
                }
                let missing = (follows.whole + 1..seqno).find(|&n| !follows.has(n));
                if let Some(missing) = missing {
                    scene.violated(format_args!(
                        "{who:?}: {shard} {seqno} before {missing}, which is missing in silence"
                    ));
                    follows.fetched(seqno);
                }
                follows.last = follows.last.max(seqno);
                follows.account_for(seqno);
                follows.state = follows.state.max(seqno);
            }
            Event::Gap {
                shard, from, to, ..
            } => {
                scene.count(|told| told.gaps += 1);
                scene.saw(format_args!("{who:?} hears gap {shard} {from} to {to}"));
                let Some(follows) = self.follows.get_mut(&shard) else {
                    return;
                };
                for seqno in from.max(1)..=to {
                    if follows.has(seqno) {
                        continue;
                    }
                    match scene.excuse(who, shard, seqno) {
                        Some(why) => scene.saw(format_args!("  {seqno}: {why}")),
                        None => scene.violated(format_args!(
                            "{who:?}: a gap of {shard} {seqno} without a reason"
                        )),
                    }
                    follows.account_for(seqno);
                }
                let head = scene.head(shard);
                follows.state = follows.state.max(head);
            }
            Event::Resync { shard, highest } => {
                scene.saw(format_args!("{who:?} hears resync {shard} {highest:?}"));
                let Some(follows) = self.follows.get_mut(&shard) else {
                    return;
                };
                if std::mem::replace(&mut follows.answered, true) {
                    scene.count(|told| told.resyncs += 1);
                    if !scene.may_be_alone(who) {
                        scene.violated(format_args!("{who:?}: a resync of {shard}"));
                    }
                }
                let head = scene.head(shard);
                follows.fetched(head);
                follows.last = highest.unwrap_or(0);
            }
            Event::Disconnected { reason } => {
                scene.count(|told| told.losses += 1);
                scene.saw(format_args!("{who:?} is disconnected: {reason}"));
                if !scene.may_be_alone(who) {
                    scene.violated(format_args!("{who:?} is disconnected: {reason}"));
                }
            }
            other => scene.saw(format_args!("{who:?} hears {other:?}")),
        }
    }
}

/// The servers that a client has a session with; those that it is leaving, too,
/// or not.
pub(super) fn sessions(client: &Client, with_leaving: bool) -> BTreeSet<Server> {
    let counts = |state: &HomeState| match state {
        HomeState::Connected { leaving, .. } => with_leaving || !leaving,
        _ => false,
    };
    let connected = client
        .homes()
        .into_iter()
        .filter(|home| counts(&home.state));
    connected
        .map(|home| match home.address {
            Some(address) if address == Server::Standalone.address() => Server::Standalone,
            _ => Server::Embedded,
        })
        .collect()
}

/// Swaps the homes, and nothing else.
pub(super) fn set_homes(client: &Client, homes: Vec<persist_pubsub_client::Home>) {
    let settings: Settings = client.settings();
    client.configure(settings.homes(homes));
}
