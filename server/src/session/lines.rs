//! One line when a session connects, and one when it ends.

use std::sync::atomic::Ordering::Relaxed;

use tokio::time::Instant;

use super::{Profile, Session};
use crate::error::EndReason;

impl Session {
    pub(super) fn log_connected(&self, profile: &Profile) {
        let Some(unlogged) = self.shared.lines.admit(Instant::now()) else {
            return;
        };
        tracing::info!(
            session = self.id,
            wire = self.wire.as_str(),
            address = %self.address,
            caller = profile.caller_id,
            identity = self.caller.name(),
            environment = profile.environment.name(),
            generation = profile.generation,
            unlogged = Some(unlogged).filter(|&n| n > 0),
            "session connected"
        );
    }

    pub(super) fn log_ended(&self, profile: &Profile, reason: &EndReason, subscriptions: usize) {
        let Some(unlogged) = self.shared.lines.admit(Instant::now()) else {
            return;
        };
        tracing::info!(
            session = self.id,
            wire = self.wire.as_str(),
            address = %self.address,
            caller = profile.caller_id,
            reason = reason.label(),
            detail = reason.detail(),
            subscriptions,
            diffs_in = self.traffic.diffs_in.load(Relaxed),
            diffs_out = self.traffic.diffs_out.load(Relaxed),
            missed = self.traffic.missed.load(Relaxed),
            unlogged = Some(unlogged).filter(|&n| n > 0),
            "session ended"
        );
    }
}
