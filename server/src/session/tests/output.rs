//! What goes to the socket, in which order, and when the stream ends.

use super::*;

#[tokio::test]
async fn answers_come_before_diffs() {
    let bench = Bench::new();
    let (p, r) = (bench.connect(Wire::V1), bench.connect(Wire::V1));
    r.subscribe(A, Start::Now);
    assert_eq!(r.poll(), frames(&["subscribed"]));
    p.publish(A, 1);
    p.publish(B, 7);
    r.subscribe(B, Start::After(5));
    assert_eq!(r.poll(), frames(&["subscribed", "B6-6", "A1", "B7"]));
    assert_eq!(r.poll(), Asleep);
}

#[tokio::test]
async fn unsubscribed_comes_behind_all_of_the_old_subscription() {
    let bench = Bench::new();
    let (p, r) = (bench.connect(Wire::V1), bench.connect(Wire::V1));
    r.subscribe(A, Start::Now);
    p.publish(A, 1);
    assert_eq!(r.poll(), frames(&["subscribed", "A1"]));
    p.publish(A, 2);
    r.unsubscribe(A);
    p.publish(A, 3);
    assert_eq!(r.drain(), ["unsubscribed"]);
    // Subscribed again before it has read: both answers, then what is new.
    r.subscribe(A, Start::Now);
    p.publish(A, 4);
    r.unsubscribe(A);
    r.subscribe(A, Start::Now);
    p.publish(A, 5);
    assert_eq!(
        r.drain(),
        ["subscribed", "unsubscribed", "subscribed", "A5"]
    );
}

#[tokio::test]
async fn a_slot_that_is_taken_again_does_not_inherit_what_was_there() {
    let bench = Bench::new();
    let (p, r) = (bench.connect(Wire::V0), bench.connect(Wire::V0));
    r.subscribe(A, Start::Now);
    p.publish(A, 1);
    r.session.unsubscribe(&[A]);
    r.subscribe(B, Start::Now);
    assert_eq!(r.poll(), Asleep);
    p.publish(A, 2);
    assert_eq!((r.wakes(), r.poll()), (0, Asleep));
    p.publish(B, 1);
    assert_eq!((r.wakes(), r.poll()), (1, frames(&["B1"])));
}

#[tokio::test]
async fn shards_take_turns() {
    let bench = Bench::new();
    let (p, r) = (bench.connect(Wire::V0), bench.connect(Wire::V0));
    r.subscribe(A, Start::Now);
    r.subscribe(B, Start::Now);
    for seqno in 1..400 {
        p.publish_diff(A, seqno, vec![0; 1_000]);
    }
    p.publish(B, 1);
    let turns: Vec<Vec<String>> = (0..3)
        .map(|_| match r.poll() {
            Polled::Frames(names) => names,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(turns[0].len() > 50 && turns[0].iter().all(|n| n.starts_with('A')));
    assert_eq!(
        turns[1].first().map(String::as_str),
        Some("B1"),
        "before the rest of A"
    );
    assert!(turns[1].len() > 50 && turns[2].len() > 50);
    assert_eq!(turns.concat().len() + r.drain().len(), 400);
}

#[tokio::test]
async fn a_mark_that_led_to_nothing_does_not_put_the_stream_to_sleep_for_ever() {
    let bench = Bench::with(&Config {
        max_diff_bytes: 8 << 20,
        ..Config::default()
    });
    let (p, r) = (bench.connect(Wire::V1), bench.connect(Wire::V0));
    r.subscribe(A, Start::Now);
    p.publish(A, 1);
    assert_eq!((r.poll(), r.poll()), (frames(&["A1"]), Asleep));
    // Too large for v0: a mark, and no frame.
    p.publish_diff(A, 2, vec![0; 5 << 20]);
    assert_eq!((r.wakes(), r.poll()), (1, Asleep));
    p.publish(A, 3);
    assert_eq!((r.wakes(), r.poll()), (1, frames(&["A3"])), "woken");
    assert_eq!((r.poll(), r.wakes()), (Asleep, 0));
    r.session
        .answer(v1::session_response::Message::Heartbeat(v1::Heartbeat {}));
    assert_eq!(r.wakes(), 1, "an answer wakes too");
}

#[tokio::test]
async fn large_frames_go_out_whole_and_in_order() {
    let bench = Bench::new();
    let (p, r) = (bench.connect(Wire::V1), bench.connect(Wire::V1));
    r.subscribe(A, Start::Now);
    p.publish(A, 1);
    p.publish_diff(A, 2, vec![7; 300_000]);
    p.publish(A, 3);
    p.publish_diff(A, 4, vec![8; 40_000]);
    p.session
        .publish(Publication {
            shard: A,
            seqno: 5,
            diff: None,
        })
        .unwrap();
    p.publish_diff(A, 6, vec![9; 70_000]);
    let mut sizes = Vec::new();
    let mut names = Vec::new();
    while let Poll::Ready(Output::Batch(batch)) = r.poll_batch() {
        sizes.push((
            batch.told.whole.as_ref().map_or(0, Bytes::len),
            batch.told.rest.len(),
        ));
        let bytes = sizes.last().map(|(whole, rest)| whole + rest);
        assert_eq!(bytes, Some(batch.bytes));
        names.extend(messages(batch.told).iter().map(|m| name(m, Wire::V1)));
    }
    assert_eq!(names, ["subscribed", "A1", "A2", "A3", "A4", "A5-5", "A6"]);
    let whole: Vec<usize> = sizes.iter().map(|s| s.0).filter(|&w| w > 0).collect();
    assert_eq!(whole.len(), 2, "{sizes:?}");
    assert!(whole[0] > 300_000 && whole[1] > 70_000, "{sizes:?}");
    assert!(sizes.iter().all(|s| s.1 <= 64 * 1024), "{sizes:?}");
}

#[tokio::test]
async fn a_flushed_stream_ends_although_its_shard_is_marked_again_and_again() {
    let bench = Bench::new();
    let (p, r) = (bench.connect(Wire::V0), bench.connect(Wire::V0));
    r.subscribe(A, Start::Now);
    p.publish(A, 1);
    r.session.end(EndReason::ClientDone, When::Flushed);
    r.session.end(EndReason::Draining, When::Answered);
    assert_eq!(r.poll(), frames(&["A1"]), "what was ready goes out");
    p.publish(A, 2);
    assert_eq!(r.poll(), Ended("client_done"), "the first reason stands");
    assert_eq!(r.poll(), Ended("client_done"));
    assert_eq!(r.wakes(), 0, "it never slept");
}

#[tokio::test]
async fn an_answered_stream_ends_behind_its_answers_alone() {
    let bench = Bench::new();
    let (p, r) = (bench.connect(Wire::V1), bench.connect(Wire::V1));
    assert_eq!(r.poll(), Asleep);
    r.subscribe(A, Start::Now);
    p.publish(A, 1);
    r.session.end(EndReason::Silent, When::Answered);
    assert!(r.wakes() >= 1);
    assert_eq!(r.poll(), frames(&["subscribed"]));
    assert_eq!(r.poll(), Ended("silent"));
}

/// What one process publishes reaches the other without a copy, and a socket's
/// frame is made once, for the first that needs it.
#[tokio::test]
async fn in_process_no_byte_is_copied_nor_encoded_without_need() {
    let bench = Bench::new();
    let (p, r) = (bench.connect_in_process(), bench.connect_in_process());
    r.subscribe(A, Start::After(0));
    assert_eq!(r.poll(), frames(&["subscribed"]));
    let diff = Bytes::from(vec![7; 50_000]);
    let publish = v1::Publish {
        shard_id: A.to_bytes(),
        seqno: 1,
        committed_unix_nanos: 5,
        diff: Some(diff.clone()),
    };
    p.session.publish(p.publication(publish)).unwrap();
    let log_bytes = || bench.shared.registry.log_bytes();
    let kept = log_bytes();
    let Poll::Ready(Output::Batch(batch)) =
        r.session.poll_messages(&Context::from_waker(Waker::noop()))
    else {
        panic!("a diff is due")
    };
    assert_eq!((batch.diffs, batch.bytes), (1, 50_000));
    match &batch.told[0] {
        v1::session_response::Message::Diff(got) => {
            assert_eq!((got.seqno, got.committed_unix_nanos), (1, 5));
            assert_eq!(got.diff.as_ptr(), diff.as_ptr(), "the very bytes");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(log_bytes(), kept, "nothing was encoded");
    // A socket's subscriber, and one of the other version.
    for wire in [Wire::V1, Wire::V0, Wire::V1] {
        let socket = bench.connect(wire);
        let start = match wire {
            Wire::V0 => Start::Replay,
            Wire::V1 => Start::After(0),
        };
        socket.subscribe(A, start);
        assert!(socket.drain().contains(&"A1".to_owned()));
    }
    let frames = log_bytes() - kept;
    assert!((100_000..100_300).contains(&frames), "two frames: {frames}");
    // And the other way: a slice of the frame that came.
    let socket = bench.connect(Wire::V1);
    socket.publish_diff(A, 2, vec![8; 100]);
    let before = log_bytes();
    assert_eq!(r.poll(), super::frames(&["A2"]));
    assert_eq!(log_bytes(), before);
}

#[tokio::test]
async fn in_process_batches_are_bounded() {
    let bench = Bench::new();
    let (p, r) = (bench.connect_in_process(), bench.connect_in_process());
    r.subscribe(A, Start::Now);
    r.drain();
    for seqno in 1..=500 {
        p.publish_diff(A, seqno, vec![0; 10]);
    }
    for seqno in 501..=520 {
        p.publish_diff(A, seqno, vec![0; 60_000]);
    }
    let mut all = Vec::new();
    while let Polled::Frames(names) = r.poll() {
        assert!(names.len() <= 64, "{}", names.len());
        all.push(names);
    }
    assert_eq!(all.concat().len(), 520);
    let large = all.last().map_or(0, Vec::len);
    assert!(large <= 2, "{large} large diffs at a time");
}
