//! Settings: the server's command line, and what the client is given.
//!
//! The first byte says which. A command line is lines of text, one argument
//! each; where a line is no flag, one is put before it, so that mutations meet
//! the readers of values.

use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser};
use persist_pubsub_client as client;
use persist_pubsub_server::cli::Cli;
use persist_pubsub_server::config::Config;

use super::byte;

/// The longest that any setting of time may be.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// The server's settings alone, so that they can be looked at.
#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    config: Config,
}

/// Runs the target.
///
/// # Panics
/// When something does not hold.
pub fn run(mut data: &[u8]) {
    let kind = byte(&mut data);
    match kind % 3 {
        0 => settings(&String::from_utf8_lossy(data)),
        1 => command_line(&String::from_utf8_lossy(data)),
        _ => endpoint(data),
    }
}

/// Settings that are taken are within what every clock and counter bears; of
/// those that are not, the message says something.
fn settings(text: &str) {
    let command = Settings::command();
    let flags: Vec<String> = command
        .get_arguments()
        .filter_map(|arg| arg.get_long())
        .filter(|flag| !matches!(*flag, "help" | "version"))
        .map(|flag| format!("--{flag}"))
        .collect();
    let mut args = vec!["persist-pubsub".to_owned()];
    for line in text.lines().take(16) {
        if line.starts_with("--") {
            args.push(line.to_owned());
        } else {
            // The line's first character chooses the flag.
            let mut rest = line.chars();
            let which = rest.next().map_or(0, |c| c as usize);
            let flag = flags.get(which % flags.len()).map_or("", String::as_str);
            args.push(format!("{flag}={}", rest.as_str()));
        }
    }
    // The settings of whoever runs this are not the target's.
    let command = command.mut_args(|arg| arg.env(clap::builder::Resettable::Reset));
    let parsed = command
        .try_get_matches_from(args)
        .and_then(|matches| Settings::from_arg_matches(&matches));
    let config = match parsed {
        Ok(settings) => settings.config,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    if let Err(error) = config.validate() {
        let text = error.to_string();
        assert!(flags.iter().any(|flag| flag == error.flag), "{text}");
        assert!(
            text.contains(error.flag) && !error.allowed.is_empty(),
            "{text}"
        );
        return;
    }
    for time in [
        config.reorder_window,
        config.v0_replay_window,
        config.jump_confirm,
        config.log_age,
        config.heartbeat_interval,
        config.handshake_timeout,
        config.idle_timeout,
        config.keepalive,
        config.keepalive_timeout,
        config.drain_window,
        config.drain_timeout,
    ] {
        assert!(time <= LONGEST, "{config:?}");
    }
    // Clocks that tick at a part of these must tick at all.
    assert!(!config.handshake_timeout.is_zero() && !config.heartbeat_interval.is_zero());
    assert!(config.max_diff_bytes < config.max_message_bytes);
    assert!(config.log_bytes_per_shard <= config.log_bytes_total);
    assert!(config.max_connections > 0 && config.max_sessions > 0 && config.max_shards > 0);
}

/// No command line panics.
fn command_line(text: &str) {
    let args = std::iter::once("persist-pubsub").chain(text.lines().take(16));
    if let Err(error) = Cli::try_parse_from(args) {
        assert!(!error.to_string().is_empty());
    }
}

/// What a host gives its client: numbers, then the endpoint.
fn endpoint(mut data: &[u8]) {
    let mut number = || {
        let mut bytes = [0; 8];
        for byte in &mut bytes {
            *byte = super::byte(&mut data);
        }
        u64::from_le_bytes(bytes)
    };
    let (first, second, size) = (number(), number(), number());
    let (first, second) = (Duration::from_nanos(first), Duration::from_secs(second));
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let text = String::from_utf8_lossy(data);
    let config = match client::Config::new(&text) {
        Ok(config) => config,
        Err(error) => {
            let said = error.to_string();
            return assert!(said.contains("expected http://host:port"), "{said}");
        }
    };
    let config = config
        .client_name(&text)
        .client_version(&text)
        .client_build(&text)
        .environment_id(&text)
        .role(&text)
        .stable_after(second)
        .connect_timeout(first)
        .handshake_timeout(second)
        .keepalive(first, second)
        .push_buffer(size, size)
        .reannounce(second, size)
        .event_buffer(size, size);
    let possible = !first.is_zero() && first <= second;
    assert_eq!(config.backoff(first, second).is_ok(), possible);
}
