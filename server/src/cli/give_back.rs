//! Gives memory back to the system when much of what it held has gone.
//!
//! glibc keeps what is freed for whoever comes next, unless it lies at the end
//! of its heap: when hundreds of sessions have gone, more than half of their
//! memory is left to a process that has no use for it. (jemalloc and mimalloc
//! give it back by themselves, later, and take a tenth more before that:
//! measured.) An embedding host looks after its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::session::Shared;

/// How often it is looked at what there is.
const LOOK: Duration = Duration::from_secs(1);
/// What a session and a shard hold, about.
const SESSION_BYTES: usize = 64 * 1024;
const SHARD_BYTES: usize = 1024;
/// Less than this is not worth a walk over the free memory, for which whoever
/// allocates may have to wait: milliseconds.
const LEAST_BYTES: usize = 4 * 1024 * 1024;

/// Watches what there is, for ever.
pub(super) async fn watch(shared: Arc<Shared>) {
    let mut most = [0; 3];
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let now = [
            shared.census.streams().saturating_mul(SESSION_BYTES),
            shared.registry.topics().saturating_mul(SHARD_BYTES),
            shared.registry.log_bytes(),
        ];
        if has_fallen(&mut most, now) {
            // Fails when the runtime ends.
            let _ = tokio::task::spawn_blocking(give_back).await;
        }
    }
}

/// Whether anything has fallen to half of the most that there was, or less: so
/// a walk over much memory is paid for by much that has gone. Counts anew then.
fn has_fallen(most: &mut [usize; 3], now: [usize; 3]) -> bool {
    let fallen = most
        .iter()
        .zip(now)
        .any(|(&most, now)| most / 2 >= now && most - now >= LEAST_BYTES);
    for (most, now) in most.iter_mut().zip(now) {
        *most = if fallen { now } else { now.max(*most) };
    }
    fallen
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn give_back() {
    // The only foreign function here. It is safe to call at any time: it takes
    // no pointer, and the allocator's locks.
    #[expect(unsafe_code, reason = "glibc has this, and no safe crate shows it")]
    unsafe extern "C" {
        safe fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    let gave = malloc_trim(0) != 0;
    tracing::debug!(gave, "gave free memory back to the system");
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_back() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_done_once_when_half_has_gone() {
        const M: usize = 1024 * 1024;
        let mut most = [0; 3];
        assert!(!has_fallen(&mut most, [0, 0, 3 * M]));
        assert!(!has_fallen(&mut most, [0; 3]), "too little");
        assert!(!has_fallen(&mut most, [32 * M, M, 100 * M]));
        assert!(!has_fallen(&mut most, [17 * M, M, 51 * M]), "not half");
        assert!(has_fallen(&mut most, [16 * M, M, 100 * M]));
        assert!(!has_fallen(&mut most, [16 * M, M, 100 * M]), "once");
        assert!(has_fallen(&mut most, [0, M, 100 * M]));
        assert!(has_fallen(&mut most, [0, M, 0]));
    }

    /// What is freed in the middle of the heap comes back. Nothing else of this
    /// process frees so much.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn what_is_freed_comes_back() {
        let resident = || crate::process::Usage::of("self").unwrap().resident;
        // Below the size that glibc takes from the system by itself.
        let mut held: Vec<Vec<u8>> = (0..2_000).map(|_| vec![1; 64 * 1024]).collect();
        let last = held.pop();
        let with = resident();
        drop(held);
        give_back();
        let without = resident();
        assert!(without + 100_000_000 < with, "{with}, then {without}");
        drop(last);
    }
}
