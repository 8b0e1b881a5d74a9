//! The task that keeps the homes: it follows the settings and the names, has a
//! task of its own for each place that is wanted, and ends them when they are
//! not.
//!
//! It looks at what is, not at what happened: whatever changes nudges it, and
//! then it brings about what should be.

mod names;
mod pick;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet, coop};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::config::Config;
use crate::connection::gate::LinkId;
use crate::connection::quiet::Quiet;
use crate::connection::{Connection, Finish, LINGER, Order};
use crate::home::{Place, PlaceId};
use crate::merge::Told;
use crate::settings::Settings;
use crate::shared::{Shared, lock};
use names::Names;
use pick::{Held, Standing};

/// How long a place that the settings do not name any more is kept while no
/// other brings what is subscribed. Then the host has waited long enough for
/// what it asked for. (That another, which does, comes to where this one is, is
/// waited for within `Settings::merge_grace`.)
const LEAVE_WITHIN: Duration = Duration::from_secs(60);

/// How often it is looked whether the others have come to where a place is that
/// is to be left.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

type Timer = Pin<Box<Sleep>>;

/// Runs until the host has dropped its events or all its handles, or until
/// the generation is fenced out. Dropped before that, and be it before it has
/// begun, it tells the handles that nobody sends any more.
pub(crate) fn run(
    config: Config,
    shared: Arc<Shared>,
) -> impl Future<Output = ()> + Send + 'static {
    Homes::new(Arc::new(config), shared).run()
}

struct Homes {
    config: Arc<Config>,
    shared: Arc<Shared>,
    /// As they were last acted upon.
    settings: Arc<Settings>,
    names: Names,
    seats: Vec<Seat>,
    /// The places' tasks: dropped with this.
    tasks: JoinSet<()>,
    last_place: u64,
    /// When something comes by itself: a resync, a gap, the end of a session.
    alarm: Option<(Instant, Timer)>,
    /// When a place is left whatever the others bring.
    leave: Option<(Instant, Timer)>,
    /// The handles are gone; when the sessions have to have ended.
    finishing: Option<Timer>,
    /// A place's task has panicked: no place is opened until then, for it may
    /// panic as soon as it is opened again.
    paused: Option<Timer>,
    /// Events of the work at hand; empty between.
    told: Told,
    refused: Quiet,
    panicked: Quiet,
}

/// A place with a task of its own.
struct Seat {
    id: PlaceId,
    place: Place,
    orders: watch::Sender<Order>,
    /// Not wanted any more, since then.
    leaving: Option<Instant>,
    /// Since when another has been answered for all that is subscribed.
    replaced: Option<Instant>,
}

impl Homes {
    fn new(config: Arc<Config>, shared: Arc<Shared>) -> Self {
        let settings = shared.settings();
        Self {
            names: Names::new(&config),
            config,
            shared,
            settings,
            seats: Vec::new(),
            tasks: JoinSet::new(),
            last_place: 0,
            alarm: None,
            leave: None,
            finishing: None,
            paused: None,
            told: Told::default(),
            refused: Quiet::default(),
            panicked: Quiet::default(),
        }
    }

    async fn run(mut self) {
        loop {
            let shared = Arc::clone(&self.shared);
            // Before it is looked at whether there is room.
            let room = shared.queue.room();
            let Some(full) = self.look() else { return };
            let Self {
                names,
                tasks,
                alarm,
                leave,
                finishing,
                paused,
                ..
            } = &mut self;
            tokio::select! {
                biased;
                () = maybe(finishing.as_mut()) => return,
                () = maybe(paused.as_mut()) => self.paused = None,
                () = room, if full => {}
                () = until(alarm.as_mut()), if !full => {}
                () = until(leave.as_mut()) => {}
                () = names.work(&shared) => {}
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                    if self.is_over(ended) {
                        return;
                    }
                }
                // Last, for it may come again and again without a pause.
                () = shared.nudge.notified() => {}
            }
            // Nor has the thread's other tasks to wait for that.
            coop::consume_budget().await;
        }
    }

    /// Brings about what should be. Returns whether the host has to read
    /// before more can be told; `None`: it is over.
    fn look(&mut self) -> Option<bool> {
        if self.shared.queue.is_abandoned() || lock(&self.shared.board).fenced {
            return None;
        }
        // Not left to the wait: a place that ends nudges first.
        while let Some(ended) = self.tasks.try_join_next() {
            if self.is_over(ended) {
                return None;
            }
        }
        self.see_who_is_left();
        if self.shared.is_released() && self.finishing.is_none() {
            for seat in &self.seats {
                finish(seat, Finish::HandlesGone);
            }
            // A little more than the places take, each for itself.
            self.finishing = Some(Box::pin(sleep(LINGER + LINGER / 10)));
        }
        if self.finishing.is_some() {
            if self.seats.is_empty() {
                return None;
            }
        } else {
            self.follow_settings();
            self.follow_names();
            self.leave_who_can_be_left();
        }
        Some(self.tell())
    }

    /// A place's task has ended. Whether all is over: nobody cancels one but a
    /// runtime that shuts down, and that would cancel as fast whatever is opened
    /// instead.
    fn is_over(&mut self, ended: Result<(), JoinError>) -> bool {
        let Err(why) = ended else { return false };
        if why.is_panic() {
            // Of a server in this process, of the host's `System`, or of ours.
            let pause = self.settings.backoff_cap;
            if let Some(withheld) = self.panicked.allows() {
                tracing::error!(
                    error = %why,
                    ?pause,
                    withheld,
                    "a task of the pubsub client panicked: no server is tried for a while"
                );
            }
            self.paused = Some(Box::pin(sleep(pause)));
        }
        why.is_cancelled()
    }

    fn follow_settings(&mut self) {
        let settings = self.shared.settings();
        if Arc::ptr_eq(&settings, &self.settings) && !self.names.is_new() {
            return;
        }
        self.shared.queue.configure(&settings);
        lock(&self.shared.interest).configure(&settings);
        lock(&self.shared.outbox).configure(&settings, &self.shared.stats);
        for seat in &self.seats {
            seat.orders
                .send_modify(|order| order.settings = Arc::clone(&settings));
        }
        self.names.follow(&settings, self.config.stable_after);
        self.settings = settings;
    }

    /// Tasks that have ended are not there any more.
    fn see_who_is_left(&mut self) {
        let board = lock(&self.shared.board);
        self.seats.retain(|seat| board.line(seat.id).is_some());
    }

    /// Opens places that are wanted, and marks those that are not.
    fn follow_names(&mut self) {
        let asked = std::mem::take(&mut lock(&self.shared.board).look_up);
        if asked {
            self.names.ask();
        }
        let fresh = self.names.take_fresh();
        let held: Vec<_> = self
            .seats
            .iter()
            .filter(|seat| !is_finishing(seat))
            .map(|seat| Held {
                place: seat.place.clone(),
                standing: self.standing(seat.id),
            })
            .collect();
        let wanted = if self.settings.connected {
            // Who fails is exchanged when there is news alone, so at the pace
            // of look-ups.
            pick::pick(self.names.found(), &held, self.settings.max_homes, fresh)
        } else {
            Vec::new()
        };
        self.shared.stats.homes_wanted.set(wanted.len());
        let now = Instant::now();
        for seat in &mut self.seats {
            if is_finishing(seat) {
                continue;
            }
            let is_wanted = wanted.contains(&seat.place);
            if is_wanted == seat.leaving.is_some() {
                seat.leaving = (!is_wanted).then_some(now);
                if let Some(line) = lock(&self.shared.board).line_mut(seat.id) {
                    line.leaving = !is_wanted;
                }
            }
        }
        let new: Vec<_> = wanted
            .into_iter()
            .filter(|_| self.paused.is_none())
            .filter(|place| {
                let mut seats = self.seats.iter().filter(|seat| !is_finishing(seat));
                seats.all(|seat| seat.place != *place)
            })
            .collect();
        self.open(new);
        if self.seats.is_empty() {
            self.shared.clear_if_off();
        }
    }

    fn open(&mut self, places: Vec<Place>) {
        let first = self.last_place + 1;
        self.last_place += places.len() as u64;
        let ids: Vec<_> = (first..=self.last_place).map(PlaceId::new).collect();
        lock(&self.shared.outbox).enlist(&ids);
        for (id, place) in ids.into_iter().zip(places) {
            let (orders, obeyed) = watch::channel(Order {
                settings: Arc::clone(&self.settings),
                finish: None,
                settled: None,
            });
            lock(&self.shared.board).open(id, place.clone());
            let (config, shared) = (Arc::clone(&self.config), Arc::clone(&self.shared));
            let connection = Connection::new(id, place.clone(), config, shared, obeyed);
            self.tasks.spawn(connection.run());
            self.seats.push(Seat {
                id,
                place,
                orders,
                leaving: None,
                replaced: None,
            });
        }
    }

    /// Ends what is not wanted any more, when others bring what is subscribed;
    /// and says which sessions have been answered.
    fn leave_who_can_be_left(&mut self) {
        let mut settled = Vec::new();
        for seat in &self.seats {
            let answered = self
                .session(seat.id)
                .filter(|&link| lock(&self.shared.interest).is_settled(link));
            seat.orders.send_if_modified(|order| {
                std::mem::replace(&mut order.settled, answered) != answered
            });
            if seat.leaving.is_none() && !is_finishing(seat) {
                settled.extend(answered);
            }
        }
        // Whether or not its places are known yet.
        let one_is_wanted = self.settings.connected && !self.settings.homes.is_empty();
        let now = Instant::now();
        let mut look_again: Option<Instant> = None;
        for at in 0..self.seats.len() {
            let Some(seat) = self.seats.get_mut(at) else {
                break;
            };
            let Some(since) = seat.leaving.filter(|_| !is_finishing(seat)) else {
                continue;
            };
            if settled.is_empty() {
                seat.replaced = None;
            }
            let mut wait_until = since + LEAVE_WITHIN;
            if !settled.is_empty() {
                let replaced = *seat.replaced.get_or_insert(now);
                wait_until = wait_until.min(replaced + self.settings.merge_grace);
            }
            let id = seat.id;
            let is_needed = self.session(id).is_some_and(|link| {
                settled.is_empty() || lock(&self.shared.interest).lags(link, &settled)
            });
            let Some(seat) = self.seats.get(at) else {
                break;
            };
            if one_is_wanted && is_needed && now < wait_until {
                let next = if settled.is_empty() {
                    wait_until
                } else {
                    wait_until.min(now + LOOK_AGAIN)
                };
                look_again = Some(look_again.map_or(next, |at| at.min(next)));
            } else {
                finish(seat, Finish::NotWanted);
            }
        }
        set(&mut self.leave, look_again);
    }

    /// The newest session with a place.
    fn session(&self, id: PlaceId) -> Option<LinkId> {
        let board = lock(&self.shared.board);
        let session = board.line(id)?.session.as_ref()?;
        Some(session.link)
    }

    /// Tells what comes by itself, and sets the timer for the next. Returns
    /// whether the host has to read before.
    fn tell(&mut self) -> bool {
        let now = Instant::now();
        let full = self.shared.queue.is_full();
        let (refused, overdue, alarm) = self.shared.change(&mut self.told, |interest, told| {
            let mut overdue = false;
            if !full {
                interest.take_all_unanswerable(now, told);
                interest.work(now, told);
                overdue = interest.find_overdue(now);
            }
            (interest.refused(), overdue, interest.alarm())
        });
        set(&mut self.alarm, alarm);
        if overdue {
            for seat in &self.seats {
                // They look whether it is one of theirs.
                seat.orders.send_modify(|_| {});
            }
        }
        self.shared.stats.refused_shards.set(refused);
        if refused > 0
            && let Some(withheld) = self.refused.allows()
        {
            tracing::warn!(
                refused,
                withheld,
                "a pubsub server does not take all subscriptions"
            );
        }
        full
    }

    fn standing(&self, id: PlaceId) -> Standing {
        let board = lock(&self.shared.board);
        match board.line(id) {
            Some(line) if line.session.is_some() && line.draining => Standing::Draining,
            Some(line) if line.session.is_some() => Standing::Connected,
            Some(line) if line.has_failed() => Standing::Failing,
            _ => Standing::Connecting,
        }
    }
}

fn finish(seat: &Seat, why: Finish) {
    seat.orders.send_modify(|order| order.finish = Some(why));
}

fn is_finishing(seat: &Seat) -> bool {
    seat.orders.borrow().finish.is_some()
}

fn set(timer: &mut Option<(Instant, Timer)>, at: Option<Instant>) {
    if at != timer.as_ref().map(|(at, _)| *at) {
        *timer = at.map(|at| (at, Box::pin(sleep_until(at)) as Timer));
    }
}

async fn maybe(timer: Option<&mut Timer>) {
    match timer {
        Some(timer) => timer.as_mut().await,
        None => std::future::pending().await,
    }
}

async fn until(timer: Option<&mut (Instant, Timer)>) {
    maybe(timer.map(|(_, timer)| timer)).await;
}

/// However the task ends (the runtime may drop it), the handles know.
impl Drop for Homes {
    fn drop(&mut self) {
        self.shared.close(None);
    }
}
