//! A fence as a value: whom it keeps out, what an order makes of it, and what
//! two of them come to.

use std::cmp::Ordering;
use std::fmt;

use super::FenceError;
use crate::frame::Wire;

/// What an environment's fence stands at. Set and read as one value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Token {
    /// The lowest generation that is let in. 0: all are.
    pub(crate) generation: u64,
    /// Counts the changes, and only rises.
    pub(crate) epoch: u64,
    /// v0 sessions of unknown generation are kept out, too. Those of v1 never
    /// are: operators' tools name none.
    pub(crate) unknown_v0: bool,
    /// The epoch in which it was last forced. 0: it never was.
    pub(crate) forced: u64,
}

impl Token {
    /// What two replicas come to that hold different tokens of one environment.
    /// The one that was forced later stands: only who knew where it stood can
    /// have forced it. If both were in the same epoch, or neither, nobody is
    /// let in whom one of them keeps out: that holds of raises that did not
    /// know of each other, also where their epochs are the same.
    ///
    /// In whatever order replicas meet, they come to the same: it is
    /// commutative, associative and idempotent.
    pub(crate) fn join(self, other: Self) -> Self {
        let stands = match self.forced.cmp(&other.forced) {
            Ordering::Less => other,
            Ordering::Greater => self,
            Ordering::Equal => Self {
                generation: self.generation.max(other.generation),
                unknown_v0: self.unknown_v0 || other.unknown_v0,
                ..self
            },
        };
        Self {
            epoch: self.epoch.max(other.epoch),
            ..stands
        }
    }

    /// Whether who holds this has taken `other` in.
    pub(crate) fn covers(self, other: Self) -> bool {
        self.join(other) == self
    }

    /// Whether a session stays outside.
    pub(crate) fn bars(&self, wire: Wire, generation: Option<u64>) -> bool {
        match generation {
            Some(generation) => generation < self.generation,
            None => self.unknown_v0 && wire == Wire::V0,
        }
    }
}

/// What those who are fenced out are told.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "fenced out by generation {} (epoch {} of the fence)",
            self.generation, self.epoch
        )
    }
}

/// Where somebody wants a fence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) generation: u64,
    pub(crate) unknown_v0: bool,
    /// Lower or not: where it stands now. None: it can only rise.
    pub(crate) force_was: Option<u64>,
}

impl Order {
    /// What the token becomes. The same if there is nothing to change.
    pub(crate) fn over(self, current: Token) -> Result<Token, FenceError> {
        let wanted = Token {
            generation: self.generation,
            epoch: current.epoch,
            unknown_v0: self.unknown_v0,
            forced: current.forced,
        };
        let wanted = match self.force_was {
            Some(was) if was != current.generation => {
                return Err(FenceError::NotThere {
                    named: was,
                    stands: current.generation,
                });
            }
            Some(_) => wanted,
            None if self.generation == 0 => return Err(FenceError::NoGeneration),
            None if self.generation < current.generation => {
                return Err(FenceError::Lower {
                    asked: self.generation,
                    stands: current.generation,
                    epoch: current.epoch,
                });
            }
            None => Token {
                unknown_v0: wanted.unknown_v0 || current.unknown_v0,
                ..wanted
            },
        };
        if wanted == current {
            return Ok(current);
        }
        // One change a nanosecond would take it 500 years.
        let epoch = current.epoch.saturating_add(1);
        let forced = self.force_was.map_or(current.forced, |_| epoch);
        Ok(Token {
            epoch,
            forced,
            ..wanted
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> impl Strategy<Value = Token> {
        (0..4_u64, 0..4_u64, any::<bool>(), 0..3_u64).prop_map(
            |(generation, epoch, unknown_v0, forced)| Token {
                generation,
                epoch,
                unknown_v0,
                forced,
            },
        )
    }

    proptest! {
        /// In whatever order replicas meet, and however often.
        #[test]
        fn replicas_come_to_the_same(a in token(), b in token(), c in token()) {
            prop_assert_eq!(a.join(b), b.join(a));
            prop_assert_eq!(a.join(b).join(c), a.join(b.join(c)));
            prop_assert_eq!(a.join(a), a);
            prop_assert!(a.join(b).covers(a) && a.join(b).covers(b));
        }

        /// Who knows nothing of a force lets nobody in whom the other keeps out.
        #[test]
        fn raises_that_were_made_apart_both_hold(a in token(), b in token()) {
            let b = Token { forced: a.forced, ..b };
            let both = a.join(b);
            for generation in (0..4).map(Some).chain([None]) {
                for wire in [Wire::V0, Wire::V1] {
                    let barred = a.bars(wire, generation) || b.bars(wire, generation);
                    prop_assert_eq!(both.bars(wire, generation), barred);
                }
            }
        }

        /// An order that is carried out stands against what it was made of.
        #[test]
        fn an_order_is_not_lost(current in token(), generation in 0..5_u64, force in any::<bool>()) {
            let current = Token { forced: current.forced.min(current.epoch), ..current };
            let order = Order {
                generation,
                unknown_v0: false,
                force_was: force.then_some(current.generation),
            };
            if let Ok(ordered) = order.over(current) {
                prop_assert!(ordered.covers(current));
                prop_assert_eq!(current.join(ordered), ordered);
                prop_assert_eq!(ordered.generation, generation);
            }
        }
    }
}
