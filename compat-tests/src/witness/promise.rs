//! The promises that a witness can see to be broken.

use std::fmt;

/// A promise of v1 that can be seen to be broken from what one session
/// receives. The other two, isolation and advisory, are about what does not
/// come to anybody's ears: time, memory, a host that is not held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// Of one subscription, diffs come in strictly increasing seqno.
    Order,
    /// When a diff comes, every seqno between it and the diff before it has
    /// been covered by a gap, or was published by the session itself.
    NoSilentGap,
    /// At the end every subscription has been told of its shard's highest
    /// seqno, by the diff, a gap or the answer to the subscription.
    Convergence,
    /// At the end every seqno above that which `Subscribed` named, or the
    /// client if that is more, has come or is covered by a gap. And nothing
    /// comes before `Subscribed`, nor after `Unsubscribed`.
    Join,
    /// No diff is one that the session published, and no gap covers one that
    /// it had published, while subscribed, before the gap could have been
    /// under way.
    NoEcho,
    /// A diff is the one that was committed, byte for byte, with its time.
    Opaque,
    /// What was never committed does not come as a diff of the shard's run;
    /// see [`Witness::lie`](super::Witness::lie).
    PoisonFree,
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Order => "order",
            Self::NoSilentGap => "no_silent_gap",
            Self::Convergence => "convergence",
            Self::Join => "join",
            Self::NoEcho => "no_echo",
            Self::Opaque => "opaque",
            Self::PoisonFree => "poison_free",
        })
    }
}

/// A promise was broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{promise} is broken for {who}: {how}; it heard {heard}")]
pub struct Broken {
    /// Which.
    pub promise: Promise,
    /// The witness's name.
    pub who: String,
    /// What came, or did not.
    pub how: String,
    /// The last messages before.
    pub heard: String,
}
