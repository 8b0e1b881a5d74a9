//! Waits with an end. A test that hangs tells nothing; one that gives up says
//! what it was waiting for.

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

/// How long a test waits for what should come at once. Long, because a
/// loaded machine stalls a process for seconds; it is never waited out when
/// all is well.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// [`PATIENCE`], or the seconds that `PATIENCE_SECONDS` says: less where tests
/// are to fail, as under `mutants.sh`.
fn patience() -> Duration {
    static SECONDS: OnceLock<Option<u64>> = OnceLock::new();
    let read = || std::env::var("PATIENCE_SECONDS").ok()?.parse().ok();
    SECONDS
        .get_or_init(read)
        .map_or(PATIENCE, Duration::from_secs)
}

/// How often [`until`] looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What was awaited did not come.
#[derive(Debug, thiserror::Error)]
#[error("waited {} s in vain for {what}", after.as_secs())]
pub struct TimedOut {
    what: String,
    after: Duration,
}

impl TimedOut {
    /// Adds what was seen instead.
    #[must_use]
    pub fn but(mut self, seen: &str) -> Self {
        self.what.push_str(", but ");
        self.what.push_str(seen);
        self
    }
}

/// Awaits `future` for at most [`PATIENCE`].
///
/// # Errors
/// [`TimedOut`] with `what`, a noun phrase: "the first diff of shard A".
pub async fn within<F: Future>(what: &str, future: F) -> Result<F::Output, TimedOut> {
    within_time(what, patience(), future).await
}

/// Looks again and again, for at most [`PATIENCE`], until there is something
/// to see: for what tells nobody when it happens.
///
/// # Errors
/// [`TimedOut`] with `what`.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> Result<T, TimedOut> {
    // Boxed: a look may be as large as a whole connect.
    let seen = Box::pin(async {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        loop {
            looks.tick().await;
            if let Some(seen) = look().await {
                return seen;
            }
        }
    });
    within(what, seen).await
}

/// Awaits `future` for at most `time`.
///
/// # Errors
/// [`TimedOut`] with `what`.
pub async fn within_time<F: Future>(
    what: &str,
    time: Duration,
    future: F,
) -> Result<F::Output, TimedOut> {
    tokio::time::timeout(time, future)
        .await
        .map_err(|_| TimedOut {
            what: what.to_owned(),
            after: time,
        })
}
