use super::*;
use crate::home::Home;

fn queue(bytes: usize, count: usize) -> Queue {
    let settings = Settings::new(vec![Home::at("h").unwrap()]);
    Queue::new(&settings.event_buffer(bytes, count))
}

fn resync(n: u8) -> Queued {
    let event = Event::Resync {
        shard: ShardId::new([n; 16]),
        highest: None,
    };
    Queued::of_shard(1, event)
}

fn up(queue: &Queue) {
    queue.up(Wire::V1, ServerInfo::default());
}

/// One letter for each event that waits.
fn take(queue: &Queue, most: usize) -> String {
    let mut text = String::new();
    let cx = Context::from_waker(Waker::noop());
    while text.len() < most
        && let Poll::Ready(Some(queued)) = queue.poll_take(&cx)
    {
        text.push(match queued.event() {
            Event::Connected { .. } => 'c',
            Event::Disconnected { .. } => 'd',
            Event::Resync { .. } => 'r',
            Event::Fenced { .. } => 'f',
            other => panic!("{other:?}"),
        });
    }
    text
}

/// Sessions that come and go before the host reads do not pile up.
#[test]
fn sessions_that_come_and_go_do_not_pile_up() {
    let queue = queue(1, 1);
    for _ in 0..1_000 {
        up(&queue);
        queue.down(Reason::Broken);
    }
    assert_eq!(take(&queue, 9), "cd");
    for _ in 0..1_000 {
        up(&queue);
        queue.down(Reason::Broken);
        up(&queue);
    }
    assert_eq!(take(&queue, 9), "cdc");
    for _ in 0..1_000 {
        queue.down(Reason::Broken);
        up(&queue);
    }
    assert_eq!(take(&queue, 9), "dc");
    // A session that takes another's place, and is lost.
    up(&queue);
    up(&queue);
    queue.down(Reason::Broken);
    queue.down(Reason::Ended);
    assert_eq!(take(&queue, 9), "cd");
    // What lies between is told in its place, and alone makes it full.
    up(&queue);
    assert!(!queue.is_full());
    queue.put([resync(1)].into_iter());
    assert!(queue.is_full());
    queue.down(Reason::Broken);
    assert_eq!(take(&queue, 9), "crd");
    assert_eq!(lock(&queue.inner).bytes, 0);
}

#[tokio::test]
async fn full_until_half_of_it_is_read() {
    for (bytes, count) in [(usize::MAX, 8), (8 * OVERHEAD, usize::MAX)] {
        let queue = queue(bytes, count);
        queue.put((0..7).map(resync));
        assert!(!queue.is_full());
        // More than fits is kept all the same.
        queue.put((7..10).map(resync));
        let room = queue.room();
        assert!(queue.is_full());
        assert_eq!(take(&queue, 5), "rrrrr");
        assert!(queue.is_full());
        assert_eq!(take(&queue, 1), "r");
        assert!(!queue.is_full());
        room.await;
        assert_eq!(take(&queue, 99), "rrrr");
    }
}

#[tokio::test]
async fn a_wider_bound_makes_room_at_once() {
    let queue = queue(usize::MAX, 4);
    queue.put((0..4).map(resync));
    let room = queue.room();
    assert!(queue.is_full());
    let settings = Settings::new(Vec::new());
    queue.configure(&settings.clone().event_buffer(usize::MAX, 5));
    room.await;
    assert!(!queue.is_full());
    queue.configure(&settings.event_buffer(usize::MAX, 3));
    assert!(queue.is_full());
}

#[test]
fn the_last_is_the_last() {
    let queue = queue(1 << 20, 100);
    queue.put([resync(1)].into_iter());
    let fenced = Event::Fenced {
        generation: 1,
        epoch: 1,
        reason: String::new(),
    };
    queue.end(Some(fenced.clone()));
    queue.end(Some(fenced));
    queue.put([resync(2)].into_iter());
    up(&queue);
    assert_eq!(take(&queue, 9), "rf");
    let cx = Context::from_waker(Waker::noop());
    assert!(matches!(queue.poll_take(&cx), Poll::Ready(None)));
}
