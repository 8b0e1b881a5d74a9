//! The addresses of the homes' names.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep, timeout};

use crate::backoff::Backoff;
use crate::config::Config;
use crate::connection::quiet::Quiet;
use crate::home::{Home, Place};
use crate::settings::Settings;
use crate::shared::Shared;

/// Each name is looked up by itself: one that hangs delays no other.
pub(super) struct Names {
    names: Vec<Name>,
    interval: Duration,
    timeout: Duration,
    /// Nothing was followed yet.
    new: bool,
    /// A look-up has ended.
    fresh: bool,
    failed: Quiet,
}

struct Name {
    home: Home,
    /// As the last look-up that found any has it.
    addresses: Vec<SocketAddr>,
    /// Begun when the name was looked up last.
    since: Option<Instant>,
    backoff: Backoff,
    next: Next,
}

enum Next {
    Look,
    Looking(LookUp),
    Wait {
        timer: Pin<Box<Sleep>>,
        /// Because the interval is over, and not because somebody asks.
        regular: bool,
    },
    /// It is no name.
    Never,
}

type LookUp = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

impl Names {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            names: Vec::new(),
            interval: config.look_up_interval,
            timeout: config.connect_timeout,
            new: true,
            fresh: false,
            failed: Quiet::default(),
        }
    }

    pub(super) fn is_new(&self) -> bool {
        self.new
    }

    /// The homes are these now, and the delays.
    pub(super) fn follow(&mut self, settings: &Settings, stable_after: Duration) {
        self.new = false;
        let homes: &[Home] = if settings.connected {
            &settings.homes
        } else {
            &[]
        };
        let mut names = Vec::with_capacity(homes.len());
        for home in homes {
            let known = self.names.iter().position(|name| name.home == *home);
            let mut name = known.map_or_else(
                || Name {
                    home: home.clone(),
                    addresses: Vec::new(),
                    since: None,
                    backoff: Backoff::new(settings, stable_after),
                    next: home.name().map_or(Next::Never, |_| Next::Look),
                },
                |at| self.names.swap_remove(at),
            );
            if known.is_some() {
                name.backoff = Backoff::new(settings, stable_after);
            }
            names.push(name);
        }
        self.names = names;
    }

    /// Somebody thinks that names have other addresses now: they are looked
    /// up, after a delay, so that not all clients ask at once, and longer when
    /// they have been asked often.
    pub(super) fn ask(&mut self) {
        for name in &mut self.names {
            if let Next::Wait { regular: true, .. } = name.next {
                name.wait_for_next();
            }
        }
    }

    /// Each home, with its places.
    pub(super) fn found(&self) -> Vec<(Home, Vec<Place>)> {
        let places = |name: &Name| {
            let home = &name.home;
            let place = |address| Place {
                home: home.clone(),
                address,
            };
            match name.next {
                Next::Never => vec![place(None)],
                _ => name.addresses.iter().map(|at| place(Some(*at))).collect(),
            }
        };
        let found = self.names.iter();
        found
            .map(|name| (name.home.clone(), places(name)))
            .collect()
    }

    /// Whether a look-up has ended since the last call.
    pub(super) fn take_fresh(&mut self) -> bool {
        std::mem::take(&mut self.fresh)
    }

    /// Looks up what is due, until a look-up ends. Cancelling it loses nothing.
    pub(super) async fn work(&mut self, shared: &Shared) {
        poll_fn(|cx| self.poll(shared, cx)).await;
    }

    fn poll(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Poll<()> {
        for at in 0..self.names.len() {
            let Some(name) = self.names.get_mut(at) else {
                break;
            };
            if let Next::Wait { timer, regular } = &mut name.next
                && timer.as_mut().poll(cx).is_ready()
            {
                if let (true, Some(since)) = (*regular, name.since) {
                    name.backoff.lived(since.elapsed());
                }
                name.next = Next::Look;
            }
            if let (Next::Look, Some(endpoint)) = (&name.next, name.home.name()) {
                let (system, endpoint) = (Arc::clone(&shared.system), Arc::clone(endpoint));
                let most = self.timeout;
                name.since = Some(Instant::now());
                name.next = Next::Looking(Box::pin(async move {
                    let look_up = system.look_up(&endpoint.host, endpoint.port);
                    let late = |_| Err(io::ErrorKind::TimedOut.into());
                    timeout(most, look_up).await.unwrap_or_else(late)
                }));
            }
            if let Next::Looking(look_up) = &mut name.next
                && let Poll::Ready(found) = look_up.as_mut().poll(cx)
            {
                self.fresh = true;
                self.take(at, found, shared);
            }
        }
        if self.fresh {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn take(&mut self, at: usize, found: io::Result<Vec<SocketAddr>>, shared: &Shared) {
        let interval = self.interval;
        let Some(name) = self.names.get_mut(at) else {
            return;
        };
        let why = match found {
            Ok(mut found) if !found.is_empty() => {
                found.sort_unstable();
                found.dedup();
                name.addresses = found;
                // Not all clients in step.
                let wait = interval.mul_f64(0.75 + fastrand::f64() / 4.0);
                name.wait(wait, true);
                return;
            }
            Ok(_) => "it has no address".to_owned(),
            Err(error) => error.to_string(),
        };
        if name.addresses.is_empty() {
            shared.stats.attempts.one();
        }
        name.wait_for_next();
        if let Some(withheld) = self.failed.allows() {
            tracing::warn!(
                home = %name.home,
                error = %why,
                withheld,
                "cannot look up where the pubsub server is, trying again"
            );
        }
    }
}

impl Name {
    fn wait_for_next(&mut self) {
        let delay = self.backoff.next();
        self.wait(delay, false);
    }

    fn wait(&mut self, delay: Duration, regular: bool) {
        self.next = Next::Wait {
            timer: Box::pin(sleep(delay)),
            regular,
        };
    }
}
