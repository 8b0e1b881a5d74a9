//! Each violation is caught, and named.

use super::*;

const SHARD: ShardId = ShardId::new([7; 16]);
const OTHER: ShardId = ShardId::new([8; 16]);

fn truth() -> Truth {
    let mut truth = Truth::default();
    for seqno in 1..=20 {
        truth.commit(SHARD, seqno, Some(seqno), vec![seqno as u8; 3]);
    }
    truth
}

fn diff(seqno: u64) -> Message {
    Message::Diff(v1::Diff {
        shard_id: SHARD.to_bytes(),
        seqno,
        committed_unix_nanos: seqno,
        diff: vec![seqno as u8; 3].into(),
    })
}

fn gap(from_seqno: u64, to_seqno: u64) -> Message {
    Message::Gap(v1::Gap {
        shard_id: SHARD.to_bytes(),
        from_seqno,
        to_seqno,
        highest_seqno: to_seqno,
    })
}

fn subscribed(request_id: u64, head: Option<u64>) -> Message {
    Message::Subscribed(v1::Subscribed {
        request_id,
        shards: vec![v1::ShardHead {
            shard_id: SHARD.to_bytes(),
            highest_seqno: head,
        }],
    })
}

fn unsubscribed(request_id: u64) -> Message {
    Message::Unsubscribed(v1::Unsubscribed { request_id })
}

/// A witness whose session is subscribed behind 10.
fn behind_ten() -> Witness {
    let mut witness = Witness::new("test");
    witness.subscribing(1, &[(SHARD, Some(10))]);
    witness.hear(&truth(), &subscribed(1, Some(12))).unwrap();
    witness
}

/// Hears all of it, then settles: which promise is broken?
#[track_caller]
fn verdict(mut witness: Witness, messages: &[Message]) -> Option<Promise> {
    let truth = truth();
    let heard = messages.iter().try_for_each(|m| witness.hear(&truth, m));
    heard
        .and_then(|()| witness.settle(&truth))
        .err()
        .map(|broken| {
            assert!(broken.to_string().contains(&broken.promise.to_string()));
            broken.promise
        })
}

#[test]
fn what_keeps_every_promise_passes() {
    let all: Vec<Message> = (11..=20).map(diff).collect();
    assert_eq!(verdict(behind_ten(), &all), None);
    let holes = [gap(11, 12), diff(13), gap(14, 19), diff(20), gap(12, 15)];
    assert_eq!(verdict(behind_ten(), &holes), None, "a late gap is allowed");
    assert_eq!(verdict(behind_ten(), &[gap(11, 20)]), None);
}

#[test]
fn order() {
    for twice in [11, 10] {
        let messages = [gap(9, 10), diff(11), diff(twice)];
        assert_eq!(verdict(behind_ten(), &messages), Some(Promise::Order));
    }
}

#[test]
fn no_silent_gap() {
    for messages in [
        &[diff(12)][..],
        &[diff(11), diff(13)],
        &[diff(11), gap(12, 13), gap(15, 16), diff(17)],
        &[gap(13, 12)],
    ] {
        let broken = verdict(behind_ten(), messages);
        assert_eq!(broken, Some(Promise::NoSilentGap), "{messages:?}");
    }
}

#[test]
fn convergence() {
    for messages in [&[][..], &[gap(11, 18), diff(19)]] {
        let broken = verdict(behind_ten(), messages);
        assert_eq!(broken, Some(Promise::Convergence), "{messages:?}");
    }
    let mut asked_twice = behind_ten();
    asked_twice.unsubscribing(2, &[]);
    assert_eq!(verdict(asked_twice, &[gap(11, 20)]), Some(Promise::Join));
}

#[test]
fn join() {
    // Told of the highest, and never of 15.
    let messages = [gap(11, 14), gap(16, 20)];
    assert_eq!(verdict(behind_ten(), &messages), Some(Promise::Join));
    // Before the answer, and after the end.
    let early = Witness::new("test");
    assert_eq!(verdict(early, &[diff(11)]), Some(Promise::Join));
    let mut left = behind_ten();
    left.unsubscribing(2, &[SHARD]);
    assert_eq!(
        verdict(left, &[diff(11), unsubscribed(2), diff(12)]),
        Some(Promise::Join)
    );
    // Answers to nothing.
    assert_eq!(
        verdict(behind_ten(), &[subscribed(1, None)]),
        Some(Promise::Join)
    );
    assert_eq!(
        verdict(behind_ten(), &[unsubscribed(9)]),
        Some(Promise::Join)
    );
    let mut other = Witness::new("test");
    other.subscribing(1, &[(OTHER, None)]);
    assert_eq!(verdict(other, &[subscribed(1, None)]), Some(Promise::Join));
}

#[test]
fn no_echo() {
    let mut own = behind_ten();
    own.publishing(SHARD, 11);
    let rest = [diff(12), gap(13, 20)];
    assert_eq!(verdict_of(&own, &rest), None, "what is its own is no hole");
    assert_eq!(verdict_of(&own, &[diff(11)]), Some(Promise::NoEcho));
    // On its way before the server had it, it is none; after, it is.
    assert_eq!(verdict_of(&own, &[gap(11, 20)]), None);
    own.unsubscribing(2, &[]);
    let taken = [unsubscribed(2), gap(11, 20)];
    assert_eq!(verdict_of(&own, &taken), Some(Promise::NoEcho));
    // What another publishes too may come until then.
    let mut both = behind_ten();
    both.publishing_too(SHARD, 11);
    let rest = [diff(11), gap(12, 20)];
    assert_eq!(verdict_of(&both, &rest), None);
    both.unsubscribing(2, &[]);
    let taken = [unsubscribed(2), diff(11)];
    assert_eq!(verdict_of(&both, &taken), Some(Promise::NoEcho));
}

fn verdict_of(witness: &Witness, messages: &[Message]) -> Option<Promise> {
    let mut copy = Witness::new("copy");
    copy.shards = witness.shards.clone();
    copy.asked = witness.asked.clone();
    (copy.own, copy.shared) = (witness.own.clone(), witness.shared.clone());
    verdict(copy, messages)
}

#[test]
fn opaque() {
    let Message::Diff(right) = diff(11) else {
        unreachable!()
    };
    for wrong in [
        v1::Diff {
            diff: vec![11, 11].into(),
            ..right.clone()
        },
        v1::Diff {
            committed_unix_nanos: 12,
            ..right
        },
    ] {
        let broken = verdict(behind_ten(), &[Message::Diff(wrong)]);
        assert_eq!(broken, Some(Promise::Opaque));
    }
}

#[test]
fn poison_free() {
    let messages = [gap(11, 20), diff(21)];
    assert_eq!(verdict(behind_ten(), &messages), Some(Promise::PoisonFree));
    let mut told = behind_ten();
    told.lie(SHARD, 21);
    assert_eq!(verdict(told, &messages), None, "it may be passed on");
}

#[test]
fn covered_is_a_set() {
    let mut covered = Covered::default();
    for (from, to) in [(5, 9), (20, u64::MAX), (11, 12), (10, 10), (1, 2), (2, 3)] {
        covered.add(from, to);
    }
    let missing: Vec<u64> = (0..25).filter(|&n| !covered.contains(n)).collect();
    assert_eq!(missing, [0, 4, 13, 14, 15, 16, 17, 18, 19]);
    assert_eq!(covered.first_missing(5, 13), None);
    assert_eq!(covered.first_missing(5, 14), Some(13));
}
