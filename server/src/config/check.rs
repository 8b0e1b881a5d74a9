//! Checks what no single flag can tell.

use std::time::Duration;

use super::{Config, InvalidConfig};

impl Config {
    /// Checks what no single flag can tell.
    ///
    /// # Errors
    /// The first setting that cannot be, with what is allowed.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let ms = Duration::from_millis;
        let secs = Duration::from_secs;
        let hour = secs(3600);
        within("--log-age", self.log_age, ms(100), 24 * hour)?;
        within("--reorder-window", self.reorder_window, ms(0), secs(10))?;
        within(
            "--v0-replay-window",
            self.v0_replay_window,
            ms(0),
            self.log_age,
        )?;
        within("--jump-confirm", self.jump_confirm, ms(0), hour)?;
        within(
            "--heartbeat-interval",
            self.heartbeat_interval,
            ms(50),
            hour,
        )?;
        within("--handshake-timeout", self.handshake_timeout, ms(50), hour)?;
        within("--idle-timeout", self.idle_timeout, secs(1), 24 * hour)?;
        within("--keepalive", self.keepalive, ms(100), hour)?;
        within("--keepalive-timeout", self.keepalive_timeout, ms(100), hour)?;
        within("--drain-timeout", self.drain_timeout, ms(0), hour)?;
        within(
            "--drain-window",
            self.drain_window,
            ms(0),
            self.drain_timeout,
        )?;
        // A connection's beginning alone has a handful.
        let frames = self.max_empty_frames_per_second.into();
        range("--max-empty-frames-per-second", frames, 100, 1 << 30)?;
        range("--max-seqno-jump", self.max_seqno_jump, 1, 1 << 40)?;
        let counts = [
            ("--log-entries-per-shard", self.log_entries_per_shard),
            ("--max-shards", self.max_shards),
            ("--max-sessions", self.max_sessions),
            (
                "--max-subscriptions-per-session",
                self.max_subscriptions_per_session,
            ),
            ("--max-shards-per-request", self.max_shards_per_request),
            ("--max-control-frames", self.max_control_frames),
            (
                "--max-own-ranges-per-session",
                self.max_own_ranges_per_session,
            ),
            ("--max-connections", self.max_connections),
            ("--max-handshakes", self.max_handshakes),
            (
                "--max-streams-per-connection",
                self.max_streams_per_connection as usize,
            ),
        ];
        for (flag, count) in counts {
            range(flag, count as u64, 1, 1 << 30)?;
        }
        let kib = 1024;
        bytes(
            "--max-message-bytes",
            self.max_message_bytes,
            2 * kib,
            1 << 30,
        )?;
        // A message is its diff and at most this much beside it.
        let most = self.max_message_bytes - kib;
        bytes("--max-diff-bytes", self.max_diff_bytes, 1, most)?;
        bytes(
            "--log-bytes-per-shard",
            self.log_bytes_per_shard,
            self.max_diff_bytes,
            1 << 40,
        )?;
        bytes(
            "--log-bytes-total",
            self.log_bytes_total,
            self.log_bytes_per_shard,
            1 << 50,
        )?;
        bytes("--max-header-bytes", self.max_header_bytes, kib, 1 << 20)?;
        // Each is tried for each v0 session that comes.
        let rules = self.v0_generation.len();
        range("--v0-generation (rules)", rules as u64, 0, 100)?;
        if self.v0_environment.is_empty() || self.v0_environment.len() > 256 {
            return Err(InvalidConfig {
                flag: "--v0-environment",
                value: self.v0_environment.clone(),
                allowed: "1 to 256 bytes".to_owned(),
            });
        }
        self.access.validate()?;
        self.backplane.validate()
    }
}

pub(super) fn within(
    flag: &'static str,
    value: Duration,
    min: Duration,
    max: Duration,
) -> Result<(), InvalidConfig> {
    let text = humantime::format_duration;
    check(flag, value, min, max, |v| text(v).to_string())
}

pub(super) fn range(
    flag: &'static str,
    value: u64,
    min: u64,
    max: u64,
) -> Result<(), InvalidConfig> {
    check(flag, value, min, max, |v| v.to_string())
}

pub(super) fn bytes(
    flag: &'static str,
    value: usize,
    min: usize,
    max: usize,
) -> Result<(), InvalidConfig> {
    check(flag, value, min, max, crate::units::show_size)
}

fn check<T: PartialOrd + Copy>(
    flag: &'static str,
    value: T,
    min: T,
    max: T,
    show: impl Fn(T) -> String,
) -> Result<(), InvalidConfig> {
    if min <= value && value <= max {
        return Ok(());
    }
    Err(InvalidConfig {
        flag,
        value: show(value),
        allowed: format!("{} to {} is allowed here", show(min), show(max)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Config::default().validate(), Ok(()));
    }

    #[test]
    fn what_cannot_be_names_the_flag_the_value_and_what_is_allowed() {
        let mut config = Config::default();
        config.v0_replay_window = config.log_age * 2;
        let error = config.validate().unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid value '2m' for '--v0-replay-window': 0s to 1m is allowed here"
        );
        let mut config = Config::default();
        config.max_diff_bytes = config.max_message_bytes;
        let error = config.validate().unwrap_err();
        assert_eq!(error.flag, "--max-diff-bytes");
    }
}
