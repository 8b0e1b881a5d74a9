//! What a process has used of the machine, as Linux tells it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use std::{fs, io};

use prometheus::{Counter, IntGauge, Registry};

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

/// This process's, under the names that every Prometheus client uses. (That of
/// the library counts CPU time in whole seconds, and brings another library to
/// read /proc.)
#[derive(Clone, Debug)]
pub(crate) struct ProcessMetrics {
    cpu: Counter,
    resident: IntGauge,
}

impl ProcessMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let cpu = Counter::new(
            "process_cpu_seconds_total",
            "CPU time of this process, in user and kernel mode.",
        )?;
        let resident = IntGauge::new(
            "process_resident_memory_bytes",
            "Memory that this process has in use.",
        )?;
        registry.register(Box::new(cpu.clone()))?;
        registry.register(Box::new(resident.clone()))?;
        Ok(Self { cpu, resident })
    }

    /// Looks anew, for a scrape. Where there is no /proc, they stay at 0.
    pub(crate) fn observe(&self) {
        /// Two scrapes at a time would both add what is new.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(usage) = Usage::of("self") {
            self.cpu
                .inc_by((usage.cpu.as_secs_f64() - self.cpu.get()).max(0.0));
            self.resident.set(usage.resident.cast_signed());
        }
    }
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

    #[test]
    fn cpu_time_only_grows() {
        let metrics = ProcessMetrics::new(&Registry::new()).unwrap();
        metrics.observe();
        let before = metrics.cpu.get();
        metrics.observe();
        assert!(metrics.cpu.get() >= before);
        assert!(metrics.resident.get() > 100_000);
    }
}
