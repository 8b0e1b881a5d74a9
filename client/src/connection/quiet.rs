//! Log lines that a peer can cause many of.

use std::time::Duration;

use tokio::time::Instant;

/// Between two lines of one kind, at least.
const EVERY: Duration = Duration::from_secs(60);

/// Lets one line of a kind through, and counts the others until the next.
#[derive(Default)]
pub(crate) struct Quiet {
    last: Option<Instant>,
    withheld: u64,
}

impl Quiet {
    /// Whether to log now, and how many lines were withheld before.
    pub(crate) fn allows(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < EVERY)
        {
            self.withheld = self.withheld.saturating_add(1);
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.withheld))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_thousand_bad_messages_are_one_line() {
        let mut quiet = Quiet::default();
        assert_eq!(quiet.allows(), Some(0));
        for _ in 0..999 {
            assert_eq!(quiet.allows(), None);
        }
        tokio::time::advance(EVERY).await;
        assert_eq!(quiet.allows(), Some(999));
    }
}
