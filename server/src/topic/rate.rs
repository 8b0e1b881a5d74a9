//! How often something happens, for people.

use std::time::Duration;

use tokio::time::Instant;

/// The span of one count.
const SPAN: Duration = Duration::from_secs(10);

/// Counts over the span under way and the one before.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    began: Option<Instant>,
    current: u32,
    previous: u32,
}

impl Rate {
    pub(crate) fn count(&mut self, now: Instant) {
        match self.began {
            Some(began) if now.duration_since(began) < SPAN => {}
            Some(began) if now.duration_since(began) < 2 * SPAN => {
                self.began = Some(began + SPAN);
                self.previous = std::mem::take(&mut self.current);
            }
            _ => {
                *self = Self {
                    began: Some(now),
                    ..Self::default()
                }
            }
        }
        self.current = self.current.saturating_add(1);
    }

    /// Counts a second, over the last 10 to 20 seconds.
    pub(crate) fn per_second(&self, now: Instant) -> f64 {
        let Some(began) = self.began else { return 0.0 };
        let age = now.duration_since(began);
        let (previous, current, spent) = if age < SPAN {
            (self.previous, self.current, age)
        } else if age < 2 * SPAN {
            (self.current, 0, age.saturating_sub(SPAN))
        } else {
            return 0.0;
        };
        let share = 1.0 - spent.as_secs_f64() / SPAN.as_secs_f64();
        let spanned = if self.previous == 0 && age < SPAN {
            // Young: what there is, over at least a second.
            age.as_secs_f64().max(1.0)
        } else {
            SPAN.as_secs_f64()
        };
        (f64::from(previous) * share + f64::from(current)) / spanned
    }
}
