//! Which servers of all that there are.

use std::collections::BTreeMap;

use crate::home::{Home, Place};

/// A place that has a task.
pub(super) struct Held {
    pub(super) place: Place,
    pub(super) standing: Standing,
}

/// How it stands with a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// There is a session.
    Connected,
    /// There is one, and its server is about to go.
    Draining,
    /// There was no attempt yet.
    Connecting,
    /// The last session or attempt came to an end.
    Failing,
}

/// The places to keep, of the homes and the addresses that their names have: at
/// most `most`, at least one of each home while that is enough. Who is kept
/// stays kept; of the others the choice is random. With `exchange` one that
/// fails gives way to one that has not been tried.
///
/// A place whose server drains is kept besides, until that ends it. One with a
/// session that its name does not have any more is kept while there is room.
pub(super) fn pick(
    found: Vec<(Home, Vec<Place>)>,
    held: &[Held],
    most: usize,
    exchange: bool,
) -> Vec<Place> {
    let mut picked = Vec::new();
    let mut homes = Vec::with_capacity(found.len());
    for (home, mut places) in found {
        fastrand::shuffle(&mut places);
        // By rank; those of the same rank in random order.
        let mut ranked: BTreeMap<u8, Vec<Place>> = BTreeMap::new();
        let mine = held.iter().filter(|held| held.place.home == home);
        for Held { place, standing } in mine {
            let named = places.iter().position(|known| known == place);
            if let Some(at) = named {
                places.swap_remove(at);
            }
            let rank = match (standing, named.is_some()) {
                (Standing::Draining, _) => {
                    picked.push(place.clone());
                    continue;
                }
                (Standing::Connected, true) => 0,
                (Standing::Connecting, true) => 1,
                (Standing::Failing, true) if exchange => 3,
                (Standing::Failing, true) => 1,
                (Standing::Connected, false) => 4,
                (Standing::Connecting | Standing::Failing, false) => continue,
            };
            ranked.entry(rank).or_default().push(place.clone());
        }
        ranked.entry(2).or_default().extend(places);
        let best = ranked.iter().find(|(_, places)| !places.is_empty());
        let best = best.map_or(u8::MAX, |(rank, _)| *rank);
        let candidates: Vec<_> = ranked.into_values().flatten().collect();
        homes.push((best, candidates.into_iter()));
    }
    fastrand::shuffle(&mut homes);
    homes.sort_by_key(|(best, _)| *best);
    let most = picked.len().saturating_add(most);
    loop {
        let before = picked.len();
        for (_, candidates) in &mut homes {
            if picked.len() < most {
                picked.extend(candidates.next());
            }
        }
        if picked.len() == before {
            return picked;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn home(name: &str) -> Home {
        Home::at(name).unwrap()
    }

    fn place(name: &str, n: u8) -> Place {
        Place {
            home: home(name),
            address: Some(([127, 0, 0, n], 6879).into()),
        }
    }

    fn places(name: &str, all: impl IntoIterator<Item = u8>) -> (Home, Vec<Place>) {
        (
            home(name),
            all.into_iter().map(|n| place(name, n)).collect(),
        )
    }

    fn held(name: &str, n: u8, standing: Standing) -> Held {
        Held {
            place: place(name, n),
            standing,
        }
    }

    #[test]
    fn each_home_has_its_share_and_nobody_too_many() {
        for _ in 0..100 {
            let found = vec![places("a", 1..=9), places("b", 1..=1), places("c", None)];
            let picked = pick(found, &[], 3, true);
            assert_eq!(picked.len(), 3);
            let of_a = picked.iter().filter(|place| place.home == home("a"));
            assert_eq!(of_a.count(), 2);
        }
        let homes = || {
            ["a", "b", "c", "d"]
                .map(|name| places(name, 1..=2))
                .to_vec()
        };
        assert_eq!(pick(homes(), &[], 2, true).len(), 2);
        assert_eq!(pick(homes(), &[], 99, true).len(), 8);
        assert_eq!(pick(Vec::new(), &[], 3, true), []);
    }

    #[test]
    fn clients_spread() {
        let first = || pick(vec![places("a", 1..=9)], &[], 1, true).remove(0);
        let all: BTreeSet<_> = (0..1_000).filter_map(|_| first().address).collect();
        assert_eq!(all.len(), 9);
    }

    #[test]
    fn who_is_kept_stays_and_who_fails_gives_way() {
        for _ in 0..100 {
            let held = [
                held("a", 1, Standing::Connected),
                held("a", 2, Standing::Failing),
            ];
            let both = [place("a", 1), place("a", 2)];
            // Nothing new is known.
            assert_eq!(pick(vec![places("a", 1..=5)], &held, 2, false), both);
            let picked = pick(vec![places("a", 1..=5)], &held, 2, true);
            assert!(picked.contains(&both[0]) && !picked.contains(&both[1]));
            // There is nobody to give way to.
            assert_eq!(pick(vec![places("a", 1..=2)], &held, 2, true), both);
        }
    }

    /// The name of a server that is being replaced has the old and the new
    /// one, then the new one alone.
    #[test]
    fn a_replaced_server_is_left_when_it_has_gone() {
        let draining = [held("a", 1, Standing::Draining)];
        let two = [place("a", 1), place("a", 2)];
        assert_eq!(pick(vec![places("a", 1..=2)], &draining, 1, true), two);
        assert_eq!(pick(vec![places("a", 2..=2)], &draining, 1, true), two);
        for standing in [Standing::Failing, Standing::Connecting] {
            let gone = [held("a", 1, standing)];
            assert_eq!(
                pick(vec![places("a", 2..=2)], &gone, 3, true),
                [place("a", 2)]
            );
        }
        // A session is worth more than what a name has.
        let alive = [held("a", 1, Standing::Connected)];
        assert_eq!(
            pick(vec![places("a", 2..=2)], &alive, 2, true),
            [place("a", 2), place("a", 1)]
        );
        assert_eq!(
            pick(vec![places("a", 2..=2)], &alive, 1, true),
            [place("a", 2)]
        );
        // Another home's.
        assert_eq!(
            pick(vec![places("b", 1..=1)], &draining, 3, true),
            [place("b", 1)]
        );
    }
}
