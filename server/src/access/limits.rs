//! What one identity may take of the server; without identities, one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::ops::Add;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

use crate::error::{Refusal, RefusalCode};
use crate::metrics::AccessMetrics;

/// How long an account without sessions is kept, so that nobody gets a full
/// allowance by coming back.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Accounts without sessions, at most: some hundred bytes each. With more,
/// all of them are forgotten.
const MAX_REMEMBERED: usize = 65_536;
/// When a subscription may be asked for again: others are given back at any
/// moment.
const SUBSCRIPTION_RETRY: Duration = Duration::from_secs(5);

/// What one may take. None: as much as the server has.
#[derive(Clone, Debug, Default)]
pub(crate) struct IdentityLimits {
    pub(crate) sessions: Option<usize>,
    pub(crate) subscriptions: Option<usize>,
    pub(crate) publishes_per_second: Option<NonZeroU32>,
    /// Bytes of diffs.
    pub(crate) bytes_per_second: Option<NonZeroU32>,
    /// The largest diff that comes: so many bytes may be taken at once, or it
    /// would never be.
    pub(crate) largest: usize,
}

/// Whom an account is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Holder {
    Name(Arc<str>),
    /// Of IPv6 the first 64 bits: the rest is each host's to choose.
    Address(IpAddr),
}

/// All accounts: of those who have sessions, and of those who had some lately.
#[derive(Debug)]
pub(super) struct Accounts {
    limits: IdentityLimits,
    inner: Mutex<Inner>,
    metrics: AccessMetrics,
}

#[derive(Debug)]
struct Inner {
    by_holder: HashMap<Holder, Entry>,
    /// With so many, those are looked for that can go.
    sweep_at: usize,
}

#[derive(Debug)]
struct Entry {
    account: Arc<Account>,
    sessions: usize,
    /// When the last session ended; means nothing while there is one.
    left_at: Instant,
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, Tokio, NoOpMiddleware<Moment>>;

#[derive(Debug)]
struct Account {
    subscriptions: AtomicUsize,
    publishes: Option<Limiter>,
    bytes: Option<Limiter>,
}

/// One session's part in its holder's account. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Lease {
    holder: Holder,
    account: Arc<Account>,
    accounts: Arc<Accounts>,
}

impl Accounts {
    /// None: nothing is limited.
    pub(super) fn new(limits: IdentityLimits, metrics: AccessMetrics) -> Option<Arc<Self>> {
        let any = limits.sessions.is_some()
            || limits.subscriptions.is_some()
            || limits.publishes_per_second.is_some()
            || limits.bytes_per_second.is_some();
        any.then(|| {
            Arc::new(Self {
                limits,
                inner: Mutex::new(Inner {
                    by_holder: HashMap::new(),
                    sweep_at: MAX_REMEMBERED,
                }),
                metrics,
            })
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more session of a name, or of an address. Err: so many are allowed,
    /// and open.
    pub(super) fn admit(
        all: &Arc<Self>,
        name: Option<&Arc<str>>,
        address: IpAddr,
    ) -> Result<Lease, usize> {
        let holder = match name {
            Some(name) => Holder::Name(Arc::clone(name)),
            None => Holder::Address(network(address)),
        };
        let now = Instant::now();
        let mut inner = all.lock();
        inner.sweep(now);
        let entry = inner
            .by_holder
            .entry(holder.clone())
            .or_insert_with(|| Entry {
                account: Arc::new(Account::new(&all.limits)),
                sessions: 0,
                left_at: now,
            });
        if let Some(max) = all.limits.sessions
            && entry.sessions >= max
        {
            all.metrics.limited_sessions.inc();
            return Err(max);
        }
        entry.sessions += 1;
        Ok(Lease {
            holder,
            account: Arc::clone(&entry.account),
            accounts: Arc::clone(all),
        })
    }
}

impl Inner {
    fn sweep(&mut self, now: Instant) {
        if self.by_holder.len() < self.sweep_at {
            return;
        }
        self.by_holder.retain(|_, entry| {
            entry.sessions > 0 || now.duration_since(entry.left_at) < REMEMBERED
        });
        let live = self.by_holder.values().filter(|e| e.sessions > 0).count();
        if self.by_holder.len() - live > MAX_REMEMBERED / 2 {
            self.by_holder.retain(|_, entry| entry.sessions > 0);
        }
        self.sweep_at = self.by_holder.len() + MAX_REMEMBERED / 2;
    }
}

impl Account {
    fn new(limits: &IdentityLimits) -> Self {
        let limiter = |quota| RateLimiter::direct_with_clock(quota, Tokio);
        let bytes = limits.bytes_per_second.map(|per_second| {
            let largest = u32::try_from(limits.largest).unwrap_or(u32::MAX);
            let burst = NonZeroU32::new(largest).map_or(per_second, |l| l.max(per_second));
            limiter(Quota::per_second(per_second).allow_burst(burst))
        });
        Self {
            subscriptions: AtomicUsize::new(0),
            publishes: limits
                .publishes_per_second
                .map(|n| limiter(Quota::per_second(n))),
            bytes,
        }
    }
}

impl Lease {
    fn too_many_subscriptions(&self, max: usize) -> Refusal {
        self.accounts.metrics.limited_subscriptions.inc();
        Refusal::new(
            RefusalCode::ResourceExhausted,
            format!("this identity or address would have more than {max} subscriptions (--max-subscriptions-per-identity)"),
        )
        .retry_after(SUBSCRIPTION_RETRY)
    }

    /// Fails if so many subscriptions more would be too many.
    pub(super) fn room_for(&self, shards: usize) -> Result<(), Refusal> {
        let have = self.account.subscriptions.load(Ordering::Relaxed);
        match self.accounts.limits.subscriptions {
            Some(max) if have.saturating_add(shards) > max => Err(self.too_many_subscriptions(max)),
            _ => Ok(()),
        }
    }

    /// Counts one subscription.
    pub(super) fn subscribe(&self) -> Result<(), Refusal> {
        let max = self.accounts.limits.subscriptions.unwrap_or(usize::MAX);
        self.account
            .subscriptions
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < max).then_some(n + 1)
            })
            .map(|_| ())
            .map_err(|_| self.too_many_subscriptions(max))
    }

    pub(super) fn unsubscribe(&self, shards: usize) {
        // As many as were counted by `subscribe`.
        self.account
            .subscriptions
            .fetch_sub(shards, Ordering::Relaxed);
    }

    /// Counts a publication, or refuses it until later.
    pub(super) fn pay(&self, bytes: usize) -> Result<(), Refusal> {
        let Some(mut payment) = self.payment(bytes) else {
            return Ok(());
        };
        match payment.advance() {
            None => Ok(()),
            Some((until, flag)) => Err(Refusal::new(
                RefusalCode::ResourceExhausted,
                format!("this identity or address publishes too much ({flag})"),
            )
            .retry_after(until.saturating_duration_since(Instant::now()))),
        }
    }

    /// None: it costs nothing.
    pub(super) fn payment(&self, bytes: usize) -> Option<Payment<'_>> {
        let account = &self.account;
        if account.publishes.is_none() && account.bytes.is_none() {
            return None;
        }
        let bytes = NonZeroU32::new(u32::try_from(bytes).unwrap_or(u32::MAX));
        Some(Payment {
            publish: account.publishes.as_ref(),
            bytes: account.bytes.as_ref().zip(bytes),
            metrics: &self.accounts.metrics,
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut inner = self.accounts.lock();
        if let Some(entry) = inner.by_holder.get_mut(&self.holder) {
            entry.sessions = entry.sessions.saturating_sub(1);
            entry.left_at = Instant::now();
        }
    }
}

/// What a publication still costs.
#[derive(Debug)]
pub(crate) struct Payment<'a> {
    publish: Option<&'a Limiter>,
    bytes: Option<(&'a Limiter, NonZeroU32)>,
    metrics: &'a AccessMetrics,
}

impl Payment<'_> {
    /// Pays what can be paid now. None: all; or when to go on, and whose flag
    /// the limit is.
    pub(crate) fn advance(&mut self) -> Option<(Instant, &'static str)> {
        let now = Tokio.now();
        if let Some((limiter, bytes)) = self.bytes {
            // More than fits the allowance has been refused as too large.
            if let Ok(Err(not)) = limiter.check_n(bytes) {
                self.metrics.limited_bytes.inc();
                return Some((
                    now.0 + not.wait_time_from(now),
                    "--max-publish-bytes-per-second",
                ));
            }
            self.bytes = None;
        }
        if let Some(limiter) = self.publish {
            if let Err(not) = limiter.check() {
                self.metrics.limited_publishes.inc();
                return Some((
                    now.0 + not.wait_time_from(now),
                    "--max-publishes-per-second",
                ));
            }
            self.publish = None;
        }
        None
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

/// tokio's clock, which tests and simulations steer.
#[derive(Clone, Copy, Debug)]
struct Tokio;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Moment(Instant);

impl Clock for Tokio {
    type Instant = Moment;

    fn now(&self) -> Moment {
        Moment(Instant::now())
    }
}

impl Add<Nanos> for Moment {
    type Output = Self;

    fn add(self, nanos: Nanos) -> Self {
        Self(self.0 + Duration::from(nanos))
    }
}

impl Reference for Moment {
    fn duration_since(&self, earlier: Self) -> Nanos {
        self.0.saturating_duration_since(earlier.0).into()
    }

    fn saturating_sub(&self, duration: Nanos) -> Self {
        Self(self.0.checked_sub(duration.into()).unwrap_or(self.0))
    }
}

#[cfg(test)]
mod tests;
