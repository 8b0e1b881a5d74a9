//! The registry under several threads.

use std::sync::atomic::AtomicBool;
use std::task::{Context, Waker};

use persist_pubsub_proto::v1;

use super::*;
use crate::config::Config;
use crate::frame;
use crate::mailbox::Names;

fn registry(config: &Config) -> Arc<Registry> {
    let metrics = prometheus::Registry::new();
    Registry::new(
        config.registry_limits(),
        TopicMetrics::new(&metrics).unwrap(),
    )
}

fn publication(shard: ShardId, seqno: u64, len: usize) -> Publication {
    let publish = v1::Publish {
        shard_id: shard.to_bytes(),
        seqno,
        committed_unix_nanos: 5,
        diff: Some(vec![0; len].into()),
    };
    frame::read_publish(publish).unwrap()
}

fn who(mailbox: &Arc<Mailbox>, slot: u32, session: SessionId) -> Subscriber<'_> {
    Subscriber {
        session,
        mailbox,
        slot,
    }
}

struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(10_000)
}

#[tokio::test]
async fn all_logs_together_stay_within_their_bytes() {
    let config = Config {
        log_bytes_total: 1 << 20,
        ..Config::default()
    };
    let registry = registry(&config);
    let environment = registry.environment("test");
    let start = Instant::now();
    for n in 0..1_000_u64 {
        let shard = ShardId::new([(n % 10) as u8; 16]);
        let now = start + Duration::from_millis(n * 20);
        registry
            .publish(
                &environment,
                publication(shard, 1 + n / 10, 10_000),
                1,
                None,
                now,
            )
            .unwrap();
        assert!(registry.log_bytes() <= 1 << 20);
    }
    assert!(
        registry.log_bytes() > (1 << 20) - 40_000,
        "no more than has to go"
    );
    // The oldest went, of whatever shard: what is left is the same of each.
    registry.for_each(|topic| {
        let entries = topic.status(start).entries;
        assert!((8..=12).contains(&entries), "{entries}");
    });
    registry.check_empty();
}

#[tokio::test]
async fn there_are_at_most_so_many_topics() {
    let config = Config {
        max_shards: 2,
        ..Config::default()
    };
    let registry = registry(&config);
    let environment = registry.environment("test");
    let now = Instant::now();
    let publish = |n| {
        let shard = ShardId::new([n; 16]);
        registry.publish(&environment, publication(shard, 1, 10), 1, None, now)
    };
    let mailbox = Arc::<Mailbox>::default();
    let subscribe = |n| {
        let shard = ShardId::new([n; 16]);
        registry.subscribe(&environment, shard, who(&mailbox, 0, 2), Start::Now, now)
    };
    let held = || {
        let mut held = Vec::new();
        registry.for_each(|topic| held.push(topic.shard.as_bytes()[0]));
        held.sort_unstable();
        held
    };
    // Those go that nobody is subscribed to, the oldest first.
    assert!(publish(1).is_ok() && publish(2).is_ok() && publish(1).is_ok());
    assert!(publish(3).is_ok());
    assert_eq!(held(), [2, 3]);
    let third = subscribe(3).unwrap();
    assert!(publish(4).is_ok());
    assert_eq!(held(), [3, 4]);
    let fifth = subscribe(5).unwrap();
    assert_eq!((held(), fifth.joined.head), (vec![3, 5], None));
    assert_eq!(third.joined.head, Some(1));
    // With subscribers they stay; and one that loses its last may go.
    assert_eq!(publish(6).unwrap_err().code, RefusalCode::TooManyTopics);
    assert_eq!(subscribe(6).unwrap_err().code, RefusalCode::TooManyTopics);
    registry.unsubscribe(&third.topic, third.joined.index, 2);
    assert_eq!(held(), [3, 5], "with what was published");
    let sixth = subscribe(6).unwrap();
    assert_eq!(held(), [5, 6]);
    for gone in [fifth, sixth] {
        registry.unsubscribe(&gone.topic, gone.joined.index, 2);
    }
    registry.check_empty();
}

/// More shards are published to than may be held: nothing of those that went is
/// left, and who subscribes meanwhile hears what comes from then on.
#[tokio::test]
async fn floods_of_shards_keep_nobody_from_subscribing() {
    let config = Config {
        max_shards: 10,
        ..Config::default()
    };
    let registry = registry(&config);
    let environment = registry.environment("test");
    let now = Instant::now();
    let publish = |shard, seqno| {
        let publication = publication(shard, seqno, 10);
        registry.publish(&environment, publication, 1, None, now)
    };
    let mut subscribed = Vec::new();
    for n in 0..1_000_u64 {
        let flood = ShardId::new((u128::from(n) << 8).to_be_bytes());
        publish(flood, n).unwrap();
        if n % 100 == 50 {
            let shard = ShardId::new([n as u8; 16]);
            let mailbox = Arc::<Mailbox>::default();
            let who = who(&mailbox, 0, 2);
            let got = registry.subscribe(&environment, shard, who, Start::Now, now);
            subscribed.push((got.unwrap(), mailbox));
        }
        assert!(registry.topics() <= 10);
        if subscribed.len() == 9 {
            break;
        }
    }
    assert_eq!(subscribed.len(), 9);
    for (subscribed, mailbox) in &subscribed {
        assert_eq!(
            publish(subscribed.topic.shard, 7).unwrap(),
            Verdict::InOrder
        );
        assert_eq!(mailbox.waiting().0, 1);
    }
    for (gone, _) in subscribed {
        registry.unsubscribe(&gone.topic, gone.joined.index, 2);
    }
    registry.check_empty();
}

#[tokio::test]
async fn a_seqno_above_the_highest_is_refused() {
    let registry = registry(&Config::default());
    let environment = registry.environment("test");
    for seqno in [MAX_SEQNO + 1, u64::MAX] {
        let publication = publication(ShardId::new([1; 16]), seqno, 10);
        let refusal = registry
            .publish(&environment, publication, 1, None, Instant::now())
            .unwrap_err();
        assert_eq!(refusal.code, RefusalCode::InvalidSeqno);
    }
    assert_eq!(registry.topics(), 0);
}

#[tokio::test]
async fn environments_never_hear_each_other() {
    let registry = registry(&Config::default());
    let (x, y) = (registry.environment("x"), registry.environment("y"));
    let shard = ShardId::new([1; 16]);
    let mailbox = Arc::<Mailbox>::default();
    let now = Instant::now();
    registry
        .subscribe(&x, shard, who(&mailbox, 0, 1), Start::Now, now)
        .unwrap();
    registry
        .publish(&y, publication(shard, 1, 10), 2, None, now)
        .unwrap();
    assert_eq!(mailbox.waiting().0, 0);
    registry
        .publish(&x, publication(shard, 1, 10), 2, None, now)
        .unwrap();
    assert_eq!(mailbox.waiting().0, 1);
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_let_through_in_time_and_old_diffs_go() {
    let registry = registry(&Config::default());
    let environment = registry.environment("test");
    let shard = ShardId::new([1; 16]);
    let mailbox = Arc::<Mailbox>::default();
    let now = Instant::now();
    let aging = tokio::spawn(Arc::clone(&registry).age());
    let publish = |seqno| {
        let publication = publication(shard, seqno, 10);
        registry
            .publish(&environment, publication, 1, None, Instant::now())
            .unwrap()
    };
    publish(1);
    registry
        .subscribe(&environment, shard, who(&mailbox, 0, 2), Start::Now, now)
        .unwrap();
    assert_eq!(publish(3), Verdict::Held);
    tokio::time::sleep(Duration::from_millis(49)).await;
    assert_eq!(mailbox.waiting().0, 0);
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(mailbox.waiting().0, 1);
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert!(registry.log_bytes() > 0);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((registry.log_bytes(), registry.topics()), (0, 1));
    aging.abort();
}

/// Subscriptions come and go while others publish and evict: whoever is
/// subscribed when something is published is told, on whatever topic of the
/// shard; and in the end nothing is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_subscription_is_lost_to_a_closed_topic() {
    let config = Config {
        log_bytes_total: 1 << 20,
        log_bytes_per_shard: 1 << 20,
        max_diff_bytes: 1 << 16,
        // Few enough that what the noise publishes makes room for itself, and
        // enough for what all threads have under way.
        max_shards: 8,
        ..Config::default()
    };
    let registry = registry(&config);
    let environment = registry.environment("test");
    // The third is for holes, and the timers that come of them.
    let shards: Vec<ShardId> = (0..3).map(|n| ShardId::new([n; 16])).collect();
    let stop = Arc::new(AtomicBool::new(false));
    // However the test ends: a failure is to be seen, not waited for.
    let stopping = Stop(Arc::clone(&stop));
    let noise = |seed: u64| {
        let (registry, environment) = (Arc::clone(&registry), Arc::clone(&environment));
        let (shards, stop) = (shards.clone(), Arc::clone(&stop));
        tokio::task::spawn_blocking(move || {
            let mailbox = Arc::<Mailbox>::default();
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut round = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                let shard = shards[seed as usize % 2];
                let now = Instant::now();
                let Subscribed { topic, joined } = registry
                    .subscribe(&environment, shard, who(&mailbox, 0, seed), Start::Now, now)
                    .unwrap();
                registry.unsubscribe(&topic, joined.index, seed);
                if round.is_multiple_of(16) {
                    for shard in [shards[2], ShardId::new([rng.u8(9..99); 16])] {
                        let hole = publication(shard, rng.u64(1..30), 100);
                        registry
                            .publish(&environment, hole, seed, None, now)
                            .unwrap();
                    }
                    registry.evict_older(far());
                }
            }
        })
    };
    let noises: Vec<_> = (100..102).map(noise).collect();
    let tests: Vec<_> = (1..3_u64)
        .map(|session| {
            let (registry, environment) = (Arc::clone(&registry), Arc::clone(&environment));
            let shard = shards[session as usize % 2];
            tokio::task::spawn_blocking(move || {
                let mailbox = Arc::<Mailbox>::default();
                let mut told = 0;
                for seqno in 1..20_000 {
                    let now = Instant::now();
                    let Subscribed { topic, joined } = registry
                        .subscribe(
                            &environment,
                            shard,
                            who(&mailbox, 9, session),
                            Start::Now,
                            now,
                        )
                        .unwrap();
                    // By another session, without a hold on the topic.
                    registry
                        .publish(&environment, publication(shard, seqno, 100), 50, None, now)
                        .unwrap();
                    let mut names = Names::default();
                    mailbox.take(&mut names, false, &Context::from_waker(Waker::noop()));
                    told += names.len();
                    assert_eq!(names.pop(), Some(9), "{seqno} marked nobody");
                    registry.unsubscribe(&topic, joined.index, session);
                    // For a while the topic is the others', to make and close.
                    registry.evict_older(far());
                    for _ in 0..fastrand::u32(..500) {
                        std::hint::spin_loop();
                    }
                }
                told
            })
        })
        .collect();
    for test in tests {
        assert_eq!(test.await.unwrap(), 19_999);
    }
    drop(stopping);
    for noise in noises {
        noise.await.unwrap();
    }
    // Timers hold on to topics that are gone already.
    tokio::time::sleep(Duration::from_millis(100)).await;
    registry.check_empty();
}
