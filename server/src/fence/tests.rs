use std::sync::Arc;

use super::*;

fn fences() -> Fences {
    let registry = prometheus::Registry::new();
    Fences::open(None, FenceMetrics::new(&registry).unwrap()).unwrap()
}

fn order(generation: u64, unknown_v0: bool) -> Order {
    Order {
        generation,
        unknown_v0,
        force_was: None,
    }
}

fn token(generation: u64, epoch: u64, unknown_v0: bool) -> Token {
    Token {
        generation,
        epoch,
        unknown_v0,
        forced: 0,
    }
}

#[test]
fn it_rises_and_the_same_again_changes_nothing() {
    let none = Token::default();
    assert_eq!(order(2, false).over(none).unwrap(), token(2, 1, false));
    let two = token(2, 1, false);
    assert_eq!(order(2, false).over(two).unwrap(), two);
    assert_eq!(order(3, false).over(two).unwrap(), token(3, 2, false));
    assert_eq!(order(2, true).over(two).unwrap(), token(2, 2, true));
    // Whom it keeps out it keeps out also when it rises without a word of them.
    let all = token(2, 2, true);
    assert_eq!(order(2, false).over(all).unwrap(), all);
    assert_eq!(order(3, false).over(all).unwrap(), token(3, 3, true));
}

#[test]
fn it_falls_by_force_alone_and_by_who_knows_where_it_stands() {
    let three = token(3, 4, true);
    let lower = order(2, true).over(three).unwrap_err();
    assert!(matches!(
        lower,
        FenceError::Lower {
            asked: 2,
            stands: 3,
            epoch: 4
        }
    ));
    assert!(matches!(
        order(0, false).over(Token::default()).unwrap_err(),
        FenceError::NoGeneration
    ));
    let forced = |generation, was| Order {
        force_was: Some(was),
        ..order(generation, false)
    };
    assert!(matches!(
        forced(2, 2).over(three).unwrap_err(),
        FenceError::NotThere {
            named: 2,
            stands: 3
        }
    ));
    let at_5 = |generation| Token {
        forced: 5,
        ..token(generation, 5, false)
    };
    assert_eq!(forced(2, 3).over(three).unwrap(), at_5(2));
    assert_eq!(forced(0, 3).over(three).unwrap(), at_5(0));
    assert_eq!(forced(3, 3).over(three).unwrap(), at_5(3));
}

#[test]
fn who_is_kept_out() {
    let two = token(2, 1, false);
    for wire in [Wire::V0, Wire::V1] {
        assert!(two.bars(wire, Some(1)));
        assert!(!two.bars(wire, Some(2)));
        assert!(!two.bars(wire, Some(3)));
        assert!(!two.bars(wire, None));
    }
    let all = token(2, 1, true);
    assert!(all.bars(Wire::V0, None));
    assert!(!all.bars(Wire::V0, Some(2)));
    assert!(!all.bars(Wire::V1, None), "an operator's tool");
}

#[test]
fn environments_have_a_fence_each_and_not_without_end() {
    let (fences, census) = (fences(), Census::new(1));
    let set = |environment: &str, generation| {
        let raised = fences.set(environment, order(generation, false), &census);
        raised.map(|raised| (raised.token, raised.changed))
    };
    assert_eq!(set("a", 2).unwrap(), (token(2, 1, false), true));
    assert_eq!(set("a", 2).unwrap(), (token(2, 1, false), false));
    assert_eq!(set("b", 5).unwrap(), (token(5, 1, false), true));
    assert_eq!(fences.bars("a", Wire::V1, Some(2)), None);
    assert_eq!(
        fences.bars("b", Wire::V1, Some(2)),
        Some(token(5, 1, false))
    );
    assert_eq!(fences.bars("c", Wire::V1, Some(2)), None);
    for i in 2..MAX_FENCES {
        set(&format!("{i}"), 1).unwrap();
    }
    assert!(matches!(set("one more", 1), Err(FenceError::TooMany)));
    assert!(set("a", 3).is_ok(), "those that there are can rise");
    for name in ["".to_owned(), "x".repeat(MAX_NAME + 1)] {
        assert!(matches!(set(&name, 1), Err(FenceError::Name)));
    }
}

/// Many raise the same fence at once, to random places: what they are told is
/// of one order, and the last of it stands.
#[test]
fn who_raises_it_at_the_same_time_is_told_the_truth() {
    let fences = Arc::new(fences());
    let told: Vec<_> = std::thread::scope(|scope| {
        let raise = |i: u64| {
            let fences = Arc::clone(&fences);
            scope.spawn(move || {
                let census = Census::new(1);
                let mut told = Vec::new();
                for n in 1..200 {
                    let generation = n * 7 % (i + 40) + 1;
                    if let Ok(raised) = fences.set("e", order(generation, false), &census)
                        && raised.changed
                    {
                        assert_eq!(raised.token.generation, generation);
                        told.push((raised.token.epoch, generation));
                    }
                }
                told
            })
        };
        let raising: Vec<_> = (0..4).map(raise).collect();
        raising
            .into_iter()
            .flat_map(|t| t.join().unwrap())
            .collect()
    });
    let mut told = told;
    told.sort_unstable();
    let epochs: Vec<_> = told.iter().map(|(epoch, _)| *epoch).collect();
    assert_eq!(epochs, (1..=told.len() as u64).collect::<Vec<_>>());
    assert!(told.is_sorted_by_key(|(_, generation)| *generation));
    let stands = fences.get("e").unwrap();
    assert_eq!(
        told.last(),
        Some(&(stands.epoch, stands.generation)),
        "{stands:?}"
    );
}
