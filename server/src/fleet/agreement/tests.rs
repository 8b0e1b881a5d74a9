use super::super::tests::{Net, Replica};
use super::*;

const ENVIRONMENT: &str = "e";

fn order(generation: u64) -> Order {
    Order {
        generation,
        unknown_v0: false,
        force_was: None,
    }
}

fn forced(generation: u64, was: u64) -> Order {
    Order {
        force_was: Some(was),
        ..order(generation)
    }
}

async fn set(replica: &Replica, order: Order) -> Agreed {
    replica.agreement.set(ENVIRONMENT, order).await.unwrap()
}

fn stands(replica: &Replica) -> (u64, u64) {
    let token = replica.shared.fences.get(ENVIRONMENT).unwrap_or_default();
    (token.generation, token.epoch)
}

fn three() -> (Arc<Net>, [Replica; 3]) {
    let net = Arc::new(Net::default());
    let replicas = ["a", "b", "c"].map(|name| net.start(name));
    (net, replicas)
}

/// Each compares what it holds with each.
async fn meet(replicas: &[Replica; 3]) {
    for one in replicas {
        let others = one.agreement.fleet.others.as_ref().unwrap();
        for other in others.roll().present {
            one.agreement.compare(&**others, &other).await;
        }
    }
}

#[tokio::test]
async fn one_is_told_and_all_hold_it() {
    let (_net, replicas) = three();
    let agreed = set(&replicas[1], order(2)).await;
    assert!(agreed.by_all && agreed.raised.changed);
    assert_eq!(agreed.holders.len(), 3);
    for replica in &replicas {
        assert_eq!(stands(replica), (2, 1));
    }
    // Whoever is asked next knows of it.
    let agreed = set(&replicas[2], order(2)).await;
    assert!(agreed.by_all && !agreed.raised.changed);
    let lower = replicas[0].agreement.set(ENVIRONMENT, order(1)).await;
    assert!(matches!(lower, Err(FenceError::Lower { .. })));
    let agreed = set(&replicas[0], forced(1, 2)).await;
    assert!(agreed.by_all);
    for replica in &replicas {
        assert_eq!(stands(replica), (1, 2));
    }
}

#[tokio::test]
async fn who_is_cut_off_is_named_and_catches_up() {
    let (net, replicas) = three();
    net.cut(&replicas[2]);
    let agreed = set(&replicas[0], order(2)).await;
    assert!(!agreed.by_all);
    let token = agreed.raised.token;
    let confirmed = agreed.holders.iter().filter(|h| h.confirms(token));
    let confirmed: Vec<_> = confirmed.map(|h| h.peer.name.as_str()).collect();
    assert_eq!(confirmed, ["a", "b"]);
    let c = agreed.holders.iter().find(|h| h.peer.name == "c").unwrap();
    assert!(c.holds.as_ref().unwrap_err().contains("without a goodbye"));
    assert_eq!(stands(&replicas[2]), (0, 0));
    // The one that is cut off cannot know either.
    let alone = set(&replicas[2], order(1)).await;
    assert!(!alone.by_all);
    net.mend();
    meet(&replicas).await;
    for replica in &replicas {
        assert_eq!(stands(replica), (2, 1));
    }
    let agreed = set(&replicas[0], order(2)).await;
    assert!(agreed.by_all && !agreed.raised.changed);
}

/// Nobody is let in whom one of the two keeps out; in whatever order they meet.
#[tokio::test]
async fn of_two_of_the_same_epoch_the_stricter_stands() {
    let (net, replicas) = three();
    net.cut(&replicas[0]);
    set(&replicas[0], order(5)).await;
    net.mend();
    net.cut(&replicas[1]);
    let all = Order {
        unknown_v0: true,
        ..order(3)
    };
    // The other of the two does not hear of it.
    net.cut(&replicas[0]);
    set(&replicas[1], all).await;
    assert_eq!(
        (stands(&replicas[0]), stands(&replicas[1])),
        ((5, 1), (3, 1))
    );
    net.mend();
    meet(&replicas).await;
    meet(&replicas).await;
    for replica in &replicas {
        assert_eq!(stands(replica), (5, 1));
        let token = replica.shared.fences.get(ENVIRONMENT).unwrap();
        assert!(token.unknown_v0);
    }
}

/// A raise that did not know of a force is lost against it, and one that did
/// is not lost against raises of an older time.
#[tokio::test]
async fn a_forced_one_stands_against_those_that_did_not_know_of_it() {
    let (net, replicas) = three();
    set(&replicas[0], order(7)).await;
    net.cut(&replicas[2]);
    for generation in [8, 9, 10] {
        set(&replicas[2], order(generation)).await;
    }
    set(&replicas[0], forced(2, 7)).await;
    net.mend();
    meet(&replicas).await;
    for replica in &replicas {
        assert_eq!(stands(replica), (2, 4), "the epoch only rises");
    }
}

#[tokio::test]
async fn a_wrong_fence_is_refused() {
    let (_net, replicas) = three();
    for fence in [
        None,
        Some(wire::Fence::default()),
        Some(show(
            &"x".repeat(crate::fence::MAX_NAME + 1),
            Token::default(),
        )),
    ] {
        let told = wire::FenceTold {
            fence,
            changed: true,
        };
        let refused = replicas[0].agreement.told(told).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }
    assert!(replicas[0].shared.fences.all().is_empty());
}
