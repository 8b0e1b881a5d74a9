//! Sessions below a fence: what they are told, and that nothing is taken from
//! them any more.

use std::sync::Barrier;

use super::*;
use crate::fence::{Order, Raised};

impl Bench {
    fn of_generation(&self, generation: u64) -> Profile {
        Profile {
            generation: Some(generation),
            ..self.profile()
        }
    }

    fn fence(&self, generation: u64, unknown_v0: bool) -> Raised {
        let order = Order {
            generation,
            unknown_v0,
            force_was: None,
        };
        let fences = &self.shared.fences;
        fences.set("test", order, &self.shared.census).unwrap()
    }

    fn enter(&self, wire: Wire, profile: Profile) -> (Client, bool) {
        let (session, guard) = self.open(wire);
        let entered = session.introduce(profile, Mode::ReadWrite, None);
        let client = Client {
            session,
            guard: Some(guard),
            wakes: Arc::default(),
        };
        (client, entered)
    }
}

#[tokio::test]
async fn who_is_below_is_told_and_ended_and_the_others_notice_nothing() {
    let bench = Bench::new();
    let (old, _) = bench.enter(Wire::V1, bench.of_generation(1));
    let (old_v0, _) = bench.enter(Wire::V0, bench.of_generation(1));
    let (unknown_v0, _) = bench.enter(Wire::V0, bench.profile());
    let (new, _) = bench.enter(Wire::V1, bench.of_generation(2));
    let (tool, _) = bench.enter(Wire::V1, bench.profile());
    for client in [&old, &old_v0, &unknown_v0, &new, &tool] {
        client.subscribe(A, Start::Now);
        client.drain();
    }
    // What is due is answered, what is ready is not sent any more.
    new.publish(A, 1);
    old.unsubscribe(B);
    assert_eq!(bench.fence(2, false).sessions, 2);
    assert_eq!(old.poll(), frames(&["unsubscribed", "fenced"]));
    assert_eq!(old.poll(), Ended("fenced"));
    assert_eq!(old_v0.poll(), Ended("fenced"));
    // It does not end a second time, and is not taken from.
    assert_eq!(bench.fence(2, false).sessions, 0);
    old.publish(A, 2);
    old_v0.publish(A, 2);
    new.publish(A, 2);
    assert_eq!(tool.drain(), ["A1", "A2"]);
    assert_eq!(unknown_v0.drain(), ["A1", "A2"]);
    assert_eq!(bench.fence(2, true).sessions, 1);
    assert_eq!(unknown_v0.poll(), Ended("fenced"));
    assert_eq!(new.poll(), Asleep);
    drop((old, old_v0, unknown_v0, new, tool));
    bench.check_empty();
}

#[tokio::test]
async fn who_comes_later_is_refused_and_costs_no_place_in_the_census() {
    let bench = Bench::new();
    bench.fence(2, true);
    for (wire, profile, told) in [
        (Wire::V1, bench.of_generation(1), vec!["fenced"]),
        (Wire::V0, bench.of_generation(1), vec![]),
        (Wire::V0, bench.profile(), vec![]),
    ] {
        let (client, entered) = bench.enter(wire, profile);
        assert!(!entered);
        assert_eq!(bench.shared.census.all().len(), 0);
        // What it sends in the same breath.
        client
            .session
            .answer(v1::session_response::Message::Heartbeat(v1::Heartbeat {}));
        assert_eq!(client.drain(), told);
        assert_eq!(client.poll(), Ended("fenced"));
        drop(client);
    }
    assert!(bench.enter(Wire::V1, bench.of_generation(2)).1);
    bench.check_empty();
}

/// A drain is less telling than a fence, and does not keep it from being told.
#[tokio::test]
async fn a_fence_overrules_a_drain() {
    let bench = Bench::new();
    let (old, _) = bench.enter(Wire::V1, bench.of_generation(1));
    old.session.end(EndReason::Draining, When::Flushed);
    bench.fence(2, false);
    assert_eq!(old.poll(), frames(&["fenced"]));
    assert_eq!(old.poll(), Ended("fenced"));
}

/// At whichever moment of its Hello, and of its publications, the fence comes:
/// when the call returns, nothing of it is accepted any more.
#[tokio::test]
async fn nobody_slips_through_the_moment_of_a_fence() {
    for round in 0..200u64 {
        let bench = Bench::new();
        let (watch, _) = bench.enter(Wire::V1, bench.profile());
        watch.subscribe(A, Start::Now);
        let head = || {
            let mut outbox = watch.session.outbox();
            outbox.slot_of(A).unwrap().topic.head()
        };
        let start = Barrier::new(3);
        std::thread::scope(|scope| {
            let knocking = |wire: Wire, seqnos: std::ops::Range<u64>| {
                let (bench, start) = (&bench, &start);
                scope.spawn(move || {
                    let profile = bench.of_generation(1);
                    let (session, guard) = bench.open(wire);
                    let client = Client {
                        session,
                        guard: Some(guard),
                        wakes: Arc::default(),
                    };
                    start.wait();
                    client.session.introduce(profile, Mode::ReadWrite, None);
                    // As a reader, it takes messages whatever came of that.
                    for seqno in seqnos {
                        if client.session.profile().is_some() {
                            client.publish(A, seqno);
                        }
                    }
                    client
                })
            };
            let clients = [knocking(Wire::V1, 1..200), knocking(Wire::V0, 1..200)];
            start.wait();
            for _ in 0..round * 20 {
                std::hint::spin_loop();
            }
            bench.fence(2, false);
            let then = head();
            for client in clients {
                let client = client.join().unwrap();
                assert!(client.session.is_fenced(), "round {round}");
                client.drain();
                assert_eq!(client.poll(), Ended("fenced"));
            }
            assert_eq!(head(), then, "round {round}");
        });
    }
}
