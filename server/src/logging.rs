//! Log lines: how they look, and how many a peer can cause.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Sends log lines to standard error. Does nothing if somebody has set up
/// logging before.
///
/// # Errors
/// `filter` is not a list of directives such as `info,persist_pubsub_server=debug`.
pub fn init(format: LogFormat, filter: &str) -> Result<(), String> {
    // A line for each message that a full queue drops, and each attempt to
    // connect: what matters of it, the backplane says itself, within a rate.
    let filter = format!("async_nats=off,{filter}");
    let filter = EnvFilter::try_new(filter).map_err(|e| e.to_string())?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let _ = match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// Lets a few lines of one kind through in each interval, and counts the rest.
#[derive(Debug)]
pub(crate) struct LogGate {
    lines: u32,
    interval: Duration,
    state: Mutex<GateState>,
}

#[derive(Debug, Default)]
struct GateState {
    began: Option<Instant>,
    let_through: u32,
    suppressed: u64,
}

impl LogGate {
    pub(crate) fn new(lines: u32, interval: Duration) -> Self {
        Self {
            lines,
            interval,
            state: Mutex::default(),
        }
    }

    /// Whether a line may be written now, and how many were not written since
    /// the last one.
    pub(crate) fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state
            .began
            .is_none_or(|began| now.duration_since(began) >= self.interval)
        {
            state.began = Some(now);
            state.let_through = 0;
        }
        if state.let_through < self.lines {
            state.let_through += 1;
            Some(std::mem::take(&mut state.suppressed))
        } else {
            state.suppressed += 1;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_lines_become_a_few() {
        let gate = LogGate::new(5, Duration::from_secs(60));
        let now = Instant::now();
        assert_eq!((0..1000).filter_map(|_| gate.admit(now)).count(), 5);
        assert_eq!(gate.admit(now + Duration::from_secs(61)), Some(995));
    }
}
