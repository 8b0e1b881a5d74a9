//! The real server and the real client over a simulated network and clock:
//! one seed, one run, and the same run each time.
//!
//! One thread, one tokio runtime with its clock paused: time moves on when
//! nobody has anything to do, to the next moment at which somebody has. All
//! chance comes from the seed, the libraries' own included (`fastrand` of the
//! thread), and every loop of server and client that waits for several things
//! looks at them in a fixed order. The network is ours rather than turmoil's,
//! because the promises are about what turmoil leaves out: a reader that does
//! not read and the writer that then has to wait, a connection that breaks in
//! the middle of a frame, or dies without telling either end.

mod chaos;
mod clock;
mod fleet;
pub mod migration;
mod net;
mod pipe;
mod process;
mod reader;
mod world;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use world::Counts;

/// How a run went.
#[derive(Debug)]
pub struct Outcome {
    /// What it was made of.
    pub seed: u64,
    /// What happened in it.
    pub counts: Counts,
    /// Promises that were broken; empty if all were kept.
    pub violations: Vec<String>,
    /// A digest of all that the hosts heard, and of every byte that was
    /// written to a connection, with the time and by whom.
    pub digest: (u64, u64),
    /// What happened, line by line, if asked for.
    pub lines: Vec<String>,
}

/// Runs one seed. `keep_lines`: also tells what happened, line by line.
///
/// # Errors
/// If there is no runtime to be had.
pub fn run(seed: u64, keep_lines: bool) -> std::io::Result<Outcome> {
    // Also what the libraries draw from the thread's own generator.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    Ok(runtime.block_on(chaos::run(seed, keep_lines)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
