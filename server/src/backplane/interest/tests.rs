//! What is asked when, and when a shard is let go.

use super::*;
use crate::config::Config;
use crate::metrics::TopicMetrics;

struct Bench {
    registry: Arc<Registry>,
    interests: Arc<Interests>,
    environment: Arc<Environment>,
}

const SHARD: ShardId = ShardId::new([3; 16]);
const LINGER: Duration = Duration::from_secs(30);

impl Bench {
    fn new() -> Self {
        let metrics = prometheus::Registry::new();
        let topics = TopicMetrics::new(&metrics).unwrap();
        let registry = Registry::new(Config::default().registry_limits(), topics);
        Self {
            environment: registry.environment("e"),
            registry,
            interests: Interests::new(BackplaneMetrics::new(&metrics).unwrap()),
        }
    }

    fn key(&self) -> TopicKey {
        (self.environment.id(), SHARD)
    }

    fn hold(&self) -> Held {
        let shards = std::iter::once(SHARD);
        self.interests.hold(&self.environment, shards)
    }

    fn plan(&self, start: Start, done: &watch::Receiver<()>) -> Steps {
        let shards = [(SHARD, start)];
        self.interests
            .plan(&self.environment, &shards, &self.registry, done)
    }

    /// Looks, so long after the beginning of time.
    fn look(&self, now: Instant) -> bool {
        let mut inner = self.interests.lock();
        inner
            .look_at(&self.key(), &self.registry, now, LINGER)
            .is_some()
    }
}

#[test]
fn what_is_covered_is_not_asked_again() {
    let covered = |after, recent| Some(Covered { after, recent });
    let after = |after| {
        Some(Want {
            after: Some(after),
            recent: false,
        })
    };
    let recent = Some(Want {
        after: None,
        recent: true,
    });
    assert_eq!(
        wanted(None, Start::Now),
        Some(Want {
            after: None,
            recent: false
        })
    );
    assert_eq!(wanted(None, Start::Replay), recent);
    assert_eq!(wanted(None, Start::After(5)), after(5));
    assert_eq!(wanted(covered(9, false), Start::Now), None);
    assert_eq!(wanted(covered(9, false), Start::Replay), recent);
    assert_eq!(wanted(covered(9, true), Start::Replay), None);
    assert_eq!(wanted(covered(9, true), Start::After(9)), None);
    assert_eq!(wanted(covered(9, true), Start::After(8)), after(8));
}

#[test]
fn one_question_serves_all_who_want_no_more() {
    let bench = Bench::new();
    let _held = bench.hold();
    let (alive, done) = watch::channel(());
    let first = bench.plan(Start::After(5), &done);
    assert_eq!((first.subscribe.len(), first.digests), (1, true));
    let want = Want {
        after: Some(5),
        recent: false,
    };
    assert_eq!(first.ask, [(SHARD, want)]);
    let (_alive, other) = watch::channel(());
    let second = bench.plan(Start::After(7), &other);
    assert_eq!(
        (second.ask.len(), second.wait.len()),
        (0, 1),
        "it waits for the first"
    );
    let third = bench.plan(Start::Replay, &other);
    let both = Want {
        after: Some(5),
        recent: true,
    };
    assert_eq!(third.ask, [(SHARD, both)], "what is asked is asked for all");
    bench.interests.asked(&bench.key(), want, true);
    drop(alive);
    assert_eq!(bench.plan(Start::After(6), &other).ask, []);
    assert_eq!(bench.plan(Start::Replay, &other).wait.len(), 1);
    bench.interests.asked(&bench.key(), both, true);
    let fourth = bench.plan(Start::Replay, &other);
    assert_eq!((fourth.ask.len(), fourth.wait.len()), (0, 0));
}

#[test]
fn what_not_all_have_answered_is_asked_again() {
    let bench = Bench::new();
    let _held = bench.hold();
    let (alive, done) = watch::channel(());
    let want = bench.plan(Start::Now, &done).ask[0].1;
    bench.interests.asked(&bench.key(), want, false);
    assert_eq!(bench.plan(Start::Now, &done).ask.len(), 1);
    // A question whose asker has ended without a word counts for nothing.
    drop(alive);
    let (_alive, done) = watch::channel(());
    assert_eq!(bench.plan(Start::Now, &done).ask.len(), 1);
}

/// What was known of a shard goes with its topic.
#[test]
fn a_topic_that_was_let_go_is_asked_for_anew() {
    let bench = Bench::new();
    let held = bench.hold();
    let (_alive, done) = watch::channel(());
    let want = bench.plan(Start::Now, &done).ask[0].1;
    bench.interests.asked(&bench.key(), want, true);
    assert_eq!(bench.plan(Start::Now, &done).ask, []);
    bench.registry.expect_no_more(&bench.key());
    assert_eq!(bench.plan(Start::Now, &done).ask.len(), 1);
    drop(held);
}

#[test]
fn a_shard_is_let_go_when_nobody_has_wanted_it_for_a_while() {
    let bench = Bench::new();
    let now = Instant::now();
    let held = bench.hold();
    let (_alive, done) = watch::channel(());
    bench.plan(Start::Now, &done);
    let (stop, mut stopped) = oneshot::channel();
    bench.interests.heard(bench.key(), stop);
    assert_eq!(bench.interests.unheard().len(), 0);
    assert!(
        !bench.look(now) && !bench.look(now + LINGER * 2),
        "it is held"
    );
    drop(held);
    assert!(!bench.look(now) && !bench.look(now + LINGER / 2));
    let again = bench.hold();
    assert!(!bench.look(now + LINGER));
    drop(again);
    assert!(!bench.look(now + LINGER), "counted anew");
    assert!(stopped.try_recv() == Err(oneshot::error::TryRecvError::Empty));
    assert!(bench.look(now + LINGER * 2));
    assert!(stopped.try_recv() == Err(oneshot::error::TryRecvError::Closed));
    assert_eq!(bench.interests.all().len(), 0);
    assert_eq!(bench.interests.undigested().len(), 0);
}
