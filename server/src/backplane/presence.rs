//! Which other replicas there are.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use persist_pubsub_proto::backplane_v1::Presence;
use tokio::time::Instant;

/// How often a replica says that it is here.
pub(super) const EVERY: Duration = Duration::from_secs(1);
/// A replica that has said nothing for so long is not there: it has missed
/// three.
const LAPSE: Duration = Duration::from_millis(3500);
/// Replicas that are known at a time: whoever can speak on the backplane could
/// make any number of them up.
const MOST: usize = 1024;
/// Bytes of each text of a presence that are kept.
const TEXT: usize = 256;

/// Another replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Names this run of it.
    pub(crate) instance: String,
    /// Its `--replica-name`.
    pub(crate) name: String,
    pub(crate) version: String,
    /// Its sessions, and how many of them can be moved.
    pub(crate) sessions: u64,
    pub(crate) movable_sessions: u64,
    /// Its drain state, as `DrainState::as_str` says it.
    pub(crate) state: String,
}

/// The other replicas, as far as they have said that they are here.
#[derive(Debug, Default)]
pub(super) struct Peers {
    known: Mutex<HashMap<String, Known>>,
    /// The instances that said goodbye, until somebody asks. At most `MOST`.
    left: Mutex<Vec<String>>,
}

#[derive(Debug)]
struct Known {
    peer: Peer,
    heard_at: Instant,
}

/// What a presence tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// A replica is new, or was away.
    Came,
    /// It was here, and is.
    Stays,
    /// It goes.
    Left,
    /// None: it says nothing that can be, or there are too many.
    Nothing,
}

impl Peers {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what another replica says.
    pub(super) fn heard(&self, presence: Presence, now: Instant) -> News {
        let instance = presence.instance;
        let sensible = instance.len() == 16 && instance.bytes().all(|b| b.is_ascii_hexdigit());
        if !sensible {
            return News::Nothing;
        }
        let mut known = self.lock();
        if presence.leaves {
            return match known.remove(&instance) {
                Some(_) => {
                    let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
                    let beyond = (left.len() + 1).saturating_sub(MOST);
                    left.drain(..beyond);
                    left.push(instance);
                    News::Left
                }
                None => News::Nothing,
            };
        }
        if known.len() >= MOST && !known.contains_key(&instance) {
            return News::Nothing;
        }
        let text = |text: &str| printable(text);
        let peer = Peer {
            instance: instance.clone(),
            name: text(&presence.name),
            version: text(&presence.version),
            sessions: presence.sessions,
            movable_sessions: presence.movable_sessions,
            state: text(&presence.state),
        };
        let heard = Known {
            peer,
            heard_at: now,
        };
        match known.insert(instance, heard) {
            None => News::Came,
            // It has lost its connection and knows so: what was said in
            // between, it has not heard.
            Some(_) if presence.begins => News::Came,
            Some(_) => News::Stays,
        }
    }

    /// Forgets those that have been silent for too long; who they were.
    pub(super) fn lapse(&self, now: Instant) -> Vec<Peer> {
        let mut known = self.lock();
        let silent = known.extract_if(|_, k| now.duration_since(k.heard_at) > LAPSE);
        silent.map(|(_, known)| known.peer).collect()
    }

    /// The instances that said goodbye since this was asked last.
    pub(super) fn take_left(&self) -> Vec<String> {
        std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Those that are here, and when each was heard of last.
    pub(super) fn heard_of(&self) -> Vec<(Peer, Instant)> {
        let known = self.lock();
        known
            .values()
            .map(|k| (k.peer.clone(), k.heard_at))
            .collect()
    }

    /// Those that are here, by name.
    pub(super) fn all(&self) -> Vec<Peer> {
        let mut all: Vec<Peer> = self.lock().values().map(|k| k.peer.clone()).collect();
        all.sort_by(|a, b| (&a.name, &a.instance).cmp(&(&b.name, &b.instance)));
        all
    }

    pub(super) fn instances(&self) -> HashSet<String> {
        self.lock().keys().cloned().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }
}

/// A text as people and terminals can bear it.
fn printable(text: &str) -> String {
    let printable = |c: char| if c.is_ascii_graphic() { c } else { '?' };
    text.chars().take(TEXT).map(printable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presence(instance: &str) -> Presence {
        Presence {
            instance: instance.to_owned(),
            name: "a\nb".to_owned(),
            ..Presence::default()
        }
    }

    const A: &str = "00000000000000aa";

    #[test]
    fn a_replica_comes_stays_lapses_and_comes_again() {
        let (peers, now) = (Peers::default(), Instant::now());
        assert_eq!(peers.heard(presence(A), now), News::Came);
        assert_eq!(peers.all()[0].name, "a?b");
        let later = now + LAPSE;
        assert!(peers.lapse(later).is_empty());
        assert_eq!(peers.heard(presence(A), later), News::Stays);
        let begins = Presence {
            begins: true,
            ..presence(A)
        };
        assert_eq!(peers.heard(begins, later), News::Came);
        assert_eq!(peers.lapse(later + LAPSE * 2).len(), 1);
        assert_eq!(peers.heard(presence(A), later), News::Came);
        let leaves = Presence {
            leaves: true,
            ..presence(A)
        };
        assert_eq!(peers.heard(leaves.clone(), later), News::Left);
        assert_eq!(peers.heard(leaves, later), News::Nothing);
        assert_eq!(peers.len(), 0);
    }

    #[test]
    fn nonsense_is_nobody_and_there_are_not_too_many() {
        let (peers, now) = (Peers::default(), Instant::now());
        assert_eq!(peers.heard(presence("a.>"), now), News::Nothing);
        assert_eq!(peers.heard(presence(""), now), News::Nothing);
        for n in 0..2 * MOST {
            peers.heard(presence(&format!("{n:016x}")), now);
        }
        assert_eq!(peers.len(), MOST);
    }
}
