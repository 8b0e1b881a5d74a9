//! What a process has used of the machine, as Linux tells it.

use std::time::Duration;
use std::{fs, io};

/// Of the clock in /proc/PID/stat: Linux shows a hundred a second everywhere.
const TICKS_PER_SECOND: u64 = 100;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Of all its threads, in user and kernel mode.
    pub(crate) cpu: Duration,
    /// Memory in use, in bytes.
    pub(crate) resident: u64,
}

impl Usage {
    /// Of the process of this number, or of "self". Fails if there is none, or
    /// no /proc.
    pub(crate) fn of(pid: &str) -> io::Result<Self> {
        let missing = || io::Error::other("its /proc files cannot be read");
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name, in parentheses, may hold anything.
        let (_, fields) = stat.rsplit_once(')').ok_or_else(missing)?;
        let mut times = fields.split_whitespace().skip(11).map(str::parse::<u64>);
        let (Some(Ok(user)), Some(Ok(system))) = (times.next(), times.next()) else {
            return Err(missing());
        };
        let ticks = user.saturating_add(system);
        let ticks = Duration::from_millis(ticks.saturating_mul(1000 / TICKS_PER_SECOND));
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
            .ok_or_else(missing)?;
        Ok(Self {
            // Finer than ticks, but without the threads that have ended.
            cpu: ticks.max(of_threads(pid)),
            resident: kib.saturating_mul(1024),
        })
    }
}

/// The CPU time of its threads, to the nanosecond where the system counts so.
fn of_threads(pid: &str) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let nanos = threads
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok())
        .filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Duration::from_nanos(nanos.fold(0, u64::saturating_add))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_used_something() {
        let usage = Usage::of("self").unwrap();
        assert!(usage.resident > 100_000);
        assert!(Usage::of("0").is_err());
    }
}
