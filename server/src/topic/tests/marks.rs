//! Who is told that there is something, and how often.

use super::*;

#[test]
fn a_mark_is_set_once_until_it_is_read() {
    let mut bench = Bench::new();
    let mut b = bench.v1();
    assert_eq!(b.marks(), 0);
    bench.publish(1);
    assert_eq!(b.mailbox.waiting(), (1, Some(bench.now)));
    bench.pass(ms(5));
    bench.publish_all(2..50);
    assert_eq!(b.mailbox.waiting(), (1, Some(bench.now - ms(5))));
    assert_eq!(b.marks(), 1);
    bench.publish(50);
    assert_eq!(b.marks(), 0, "it has been told, and has not read");
    assert_eq!(bench.read(&mut b).len(), 50);
    bench.publish(51);
    assert_eq!(b.marks(), 1);
}

#[test]
fn a_reading_that_found_no_room_leaves_the_mark() {
    let mut bench = Bench::new();
    let mut b = bench.v1();
    bench.publish_all(1..4);
    assert_eq!(b.marks(), 1);
    let mut told = Vec::new();
    assert!(bench.read_some(&mut b, 2, &mut told));
    bench.publish(4);
    assert_eq!(b.marks(), 0, "the session knows that there is more");
    assert!(!bench.read_some(&mut b, 2, &mut told));
    assert_eq!(told, [1, 2, 3, 4].map(D));
    bench.publish(5);
    assert_eq!(b.marks(), 1);
}

#[test]
fn what_leads_to_nothing_marks_nobody() {
    let mut bench = Bench::new();
    let mut b = bench.v1();
    bench.publish(1);
    bench.read(&mut b);
    b.marks();
    bench.publish_all([1, 3, 3]);
    assert_eq!(b.marks(), 0);
    bench.pass(ms(49));
    assert_eq!(b.marks(), 0);
    bench.pass(ms(1));
    assert_eq!(b.marks(), 1);
}

/// Where nothing was known, its own publication is what tells the subscriber
/// that it has missed something.
#[test]
fn own_on_an_unknown_shard_is_a_mark_for_what_is_missing_before_it() {
    let mut bench = Bench::new();
    let mut b = bench.join(Wire::V1, 1, Start::After(5));
    let mut c = bench.join(Wire::V1, 2, Start::Now);
    bench.publish_own(&mut b, 10);
    assert_eq!((b.marks(), bench.read(&mut b)), (1, vec![G(6, 9)]));
    assert_eq!((c.marks(), bench.read(&mut c)), (1, vec![D(10)]));
    // From then on it costs none.
    bench.publish_own(&mut b, 11);
    assert_eq!((b.marks(), c.marks()), (0, 1));
}

#[test]
fn who_left_is_not_marked_and_its_place_is_taken_again() {
    let mut bench = Bench::new();
    let (a, b) = (bench.v1(), bench.v1());
    assert_eq!((a.index, b.index), (0, 1));
    assert_eq!(bench.topic.unsubscribe(a.index), Left::Watched);
    bench.publish(1);
    assert_eq!((a.marks(), b.marks()), (0, 1));
    let mut c = bench.v1();
    assert_eq!(c.index, 0);
    assert_eq!(bench.status().subscribers, 2);
    bench.publish(2);
    assert_eq!((a.marks(), b.marks(), c.marks()), (0, 0, 1));
    assert_eq!(bench.read(&mut c), [D(2)]);
    bench.topic.unsubscribe(b.index);
    bench.topic.unsubscribe(b.index);
    assert_eq!(
        bench.status().subscribers,
        1,
        "given back twice is given back once"
    );
    bench.topic.unsubscribe(c.index);
    assert_eq!(bench.v1().index, 0);
}

#[test]
fn a_topic_is_closed_when_nobody_needs_it_and_then_takes_nothing() {
    let mut bench = Bench::new();
    let a = bench.v1();
    assert!(!bench.topic.close_if_idle(), "it has a subscriber");
    bench.publish(1);
    assert_eq!(bench.topic.unsubscribe(a.index), Left::Unwatched);
    assert!(!bench.topic.close_if_idle());
    bench.pass(ms(1));
    bench.age(ms(0));
    assert!(bench.topic.close_if_idle());
    let mailbox = Arc::<Mailbox>::default();
    let joined = bench
        .topic
        .subscribe(&mailbox, 0, Start::Now, bench.now, &bench.limits);
    assert_eq!(joined.map(|_| ()), Err(Closed));
    let published = bench
        .topic
        .publish(2, None, STRANGER, None, bench.now, &bench.limits);
    assert_eq!(published.map(|_| ()), Err(Closed));
}

#[test]
fn the_rate_counts_the_last_seconds() {
    let mut bench = Bench::new();
    assert_eq!(bench.status().rate, 0.0);
    for seqno in 1..301 {
        bench.publish(seqno);
        bench.pass(ms(100));
    }
    let rate = bench.status().rate;
    assert!((9.0..=11.0).contains(&rate), "{rate}");
    bench.pass(ms(30_000));
    assert_eq!(bench.status().rate, 0.0);
}
