//! Who there is, and who was there a moment ago.

use std::collections::BTreeMap;
use std::time::Duration;

use persist_pubsub_proto::admin_v1::Replica;
use tokio::time::Instant;

use super::show_replica;

/// How long a replica that fell silent without a goodbye is named: it may have
/// been killed, or it may serve its sessions on, cut off from the others.
pub(crate) const REMEMBERED: Duration = Duration::from_secs(10 * 60);
/// Replicas that are remembered so.
const MAX_REMEMBERED: usize = 1000;

/// A replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// For people: --replica-name, or with its instance where several have the
    /// same.
    pub(crate) name: String,
    /// Names its run.
    pub(crate) instance: String,
}

impl Peer {
    pub(crate) fn new(name: &str, instance: &str) -> Self {
        Self {
            name: name.to_owned(),
            instance: instance.to_owned(),
        }
    }

    /// Whether somebody means it. `name` may have its instance behind it.
    pub(super) fn is(&self, named: &str) -> bool {
        let name = self.name.strip_suffix(&self.instance);
        let name = name.and_then(|name| name.strip_suffix('/'));
        self.instance == named || self.name == named || name == Some(named)
    }
}

/// The replicas but this one, as this one knows them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roll {
    /// Whether this one has a connection to the backplane. Without, nobody is
    /// present.
    pub(crate) connected: bool,
    /// By instance.
    pub(crate) present: Vec<Peer>,
    /// Those that fell silent, and for how long they have been.
    pub(crate) lost: Vec<(Peer, Duration)>,
}

impl Roll {
    /// Who cannot be asked.
    pub(super) fn missing(&self) -> impl Iterator<Item = Replica> + '_ {
        let cut_off = (!self.connected).then(|| {
            let others = Peer::new("others", "");
            let why = "the backplane is not connected: nobody else could be asked";
            show_replica(&others, why)
        });
        let lost = self.lost.iter().map(|(peer, silent)| {
            let why = format!(
                "not heard of for {} s, without a goodbye: it may serve on, cut off",
                silent.as_secs()
            );
            Replica {
                silent: true,
                ..show_replica(peer, why)
            }
        });
        cut_off.into_iter().chain(lost)
    }

    /// With instances in the names that several have.
    fn told_apart(mut self, me: &str) -> Self {
        let mut names: BTreeMap<&str, usize> = BTreeMap::from([(me, 1)]);
        for peer in &self.present {
            *names.entry(&peer.name).or_default() += 1;
        }
        let shared: Vec<String> = names
            .into_iter()
            .filter_map(|(name, n)| (n > 1).then(|| name.to_owned()))
            .collect();
        for peer in &mut self.present {
            if shared.contains(&peer.name) {
                peer.name = format!("{}/{}", peer.name, peer.instance);
            }
        }
        self
    }
}

/// Remembers who was there.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// By instance.
    heard: BTreeMap<String, Heard>,
}

/// A replica, and when it was heard of first and last.
#[derive(Debug)]
struct Heard {
    peer: Peer,
    first: Instant,
    last: Instant,
}

impl Memory {
    /// Who there is now, with the time when each was heard of last, and who of
    /// those that are gone said no goodbye (`left` did). A replica that begins
    /// under the name of one that has fallen silent is a new run of it: the old
    /// one is over.
    pub(crate) fn look(
        &mut self,
        me: &Peer,
        connected: bool,
        present: Vec<(Peer, Instant)>,
        left: &[String],
        now: Instant,
    ) -> Roll {
        let mut here = BTreeMap::new();
        for (peer, last) in present {
            let instance = peer.instance.clone();
            let heard = self.heard.remove(&instance);
            let first = heard.map_or(last, |heard| heard.first);
            here.insert(instance, Heard { peer, first, last });
        }
        for instance in left {
            self.heard.remove(instance);
        }
        self.heard.retain(|_, lost| {
            let begins_again =
                |new: &Heard| new.peer.name == lost.peer.name && new.first >= lost.last;
            now.duration_since(lost.last) < REMEMBERED && !here.values().any(begins_again)
        });
        while self.heard.len() > MAX_REMEMBERED {
            let oldest = self.heard.iter().min_by_key(|(_, lost)| lost.last);
            let Some(oldest) = oldest.map(|(instance, _)| instance.clone()) else {
                break;
            };
            self.heard.remove(&oldest);
        }
        let lost = self.heard.values();
        let roll = Roll {
            connected,
            present: here.values().map(|heard| heard.peer.clone()).collect(),
            lost: lost
                .map(|lost| (lost.peer.clone(), now.duration_since(lost.last)))
                .collect(),
        };
        self.heard.append(&mut here);
        roll.told_apart(&me.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(names: &[&str], at: Instant) -> Vec<(Peer, Instant)> {
        let one = |name: &&str| (Peer::new(name, &format!("{name}-run")), at);
        names.iter().map(one).collect()
    }

    fn lost(roll: &Roll) -> Vec<&str> {
        roll.lost.iter().map(|(peer, _)| &*peer.name).collect()
    }

    #[test]
    fn who_falls_silent_is_named_for_a_while() {
        let (mut memory, me, began) = (Memory::default(), Peer::new("me", "0"), Instant::now());
        let after = |seconds| began + Duration::from_secs(seconds);
        let mut look = |names: &[&str], left: &[String], at| {
            memory.look(&me, true, peers(names, after(at)), left, after(at))
        };
        assert!(lost(&look(&["a", "b", "c", "d"], &[], 0)).is_empty());
        let left = ["d-run".to_owned()];
        let roll = look(&["a", "b"], &left, 5);
        assert_eq!(lost(&roll), ["c"], "d has said goodbye");
        assert_eq!(roll.lost[0].1, Duration::from_secs(5));
        assert_eq!(lost(&look(&["a"], &[], 100)), ["b", "c"]);
        assert_eq!(lost(&look(&["a", "c"], &[], 101)), ["b"], "c is back");
        assert_eq!(lost(&look(&["a", "c"], &[], 604)), ["b"]);
        assert!(lost(&look(&["a", "c"], &[], 606)).is_empty());
    }

    #[test]
    fn a_new_run_is_the_same_replica() {
        let (mut memory, me, began) = (Memory::default(), Peer::new("me", "0"), Instant::now());
        let later = began + Duration::from_secs(1);
        let (old, new) = (Peer::new("a", "1"), Peer::new("a", "2"));
        memory.look(&me, true, vec![(old.clone(), began)], &[], began);
        // The old one is taken for present for a while.
        let both = vec![(old, began), (new.clone(), later)];
        assert_eq!(memory.look(&me, true, both, &[], later).present.len(), 2);
        let one = vec![(new.clone(), later)];
        let roll = memory.look(&me, true, one, &[], later);
        assert_eq!(roll.present, [new]);
        assert!(roll.lost.is_empty());
    }

    /// Two that are called the same by mistake: the one says nothing of the other.
    #[test]
    fn one_of_the_same_name_is_another_replica() {
        let (mut memory, me, began) = (Memory::default(), Peer::new("me", "0"), Instant::now());
        let later = began + Duration::from_secs(1);
        let (one, other) = (Peer::new("a", "1"), Peer::new("a", "2"));
        let both = vec![(one.clone(), began), (other.clone(), began)];
        memory.look(&me, true, both.clone(), &[], began);
        let both = both.into_iter().map(|(peer, _)| (peer, later)).collect();
        memory.look(&me, true, both, &[], later);
        let roll = memory.look(&me, true, vec![(other, later)], &[], later);
        assert_eq!(lost(&roll), ["a"]);
    }

    #[test]
    fn those_of_one_name_are_told_apart() {
        let (mut memory, me, now) = (Memory::default(), Peer::new("a", "0"), Instant::now());
        let all = [("b", "2"), ("a", "1"), ("b", "3")];
        let all = all.map(|(name, instance)| (Peer::new(name, instance), now));
        let roll = memory.look(&me, true, all.to_vec(), &[], now);
        let names: Vec<_> = roll.present.iter().map(|peer| &*peer.name).collect();
        assert_eq!(names, ["a/1", "b/2", "b/3"]);
        assert!(roll.present[1].is("b") && roll.present[1].is("2"));
        assert!(roll.present[1].is("b/2") && !roll.present[1].is("b/3"));
    }

    #[test]
    fn it_remembers_no_more_than_it_may() {
        let (mut memory, me, began) = (Memory::default(), Peer::new("me", "0"), Instant::now());
        for i in 0..2 * MAX_REMEMBERED {
            let now = began + Duration::from_millis(i as u64);
            memory.look(&me, true, peers(&[&format!("{i}")], now), &[], now);
        }
        assert_eq!(memory.heard.len(), MAX_REMEMBERED + 1);
    }
}
