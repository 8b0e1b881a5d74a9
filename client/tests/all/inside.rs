//! Servers in the host's own process that are not as they should be.

use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use persist_pubsub_client::{Config, Home, InProcess, Reason, Requests, Responses, connect};
use persist_pubsub_proto::v1;
use persist_pubsub_proto::v1::session_response::Message as Heard;
use tokio::sync::mpsc;
use tokio::task::coop;
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;

use crate::peer::{expect_connected, limits, soon, until};
use crate::script::welcome;

type Response = Result<v1::SessionResponse, Reason>;

fn response(message: Heard) -> v1::SessionResponse {
    v1::SessionResponse {
        message: Some(message),
    }
}

/// Its sessions panic as soon as they are opened.
#[derive(Clone, Default)]
struct Panics(Arc<AtomicU32>);

impl InProcess for Panics {
    fn instance_id(&self) -> &'static str {
        "panics"
    }

    fn open(&self, _: Requests) -> Result<Responses, Reason> {
        self.0.fetch_add(1, Relaxed);
        panic!("as the test wants it");
    }
}

/// What panics again and again is not tried without a pause.
#[tokio::test(start_paused = true)]
async fn a_server_that_panics_is_left_alone_for_a_while() {
    let server = Panics::default();
    let cap = Duration::from_secs(10);
    let config = Config::with_homes([Home::in_process(server.clone())]);
    let config = config.backoff(cap, cap).unwrap();
    let begun = Instant::now();
    let (client, mut events) = connect(config);
    until(&client, "the third attempt", |_| {
        server.0.load(Relaxed) >= 3
    })
    .await;
    assert!(begun.elapsed() >= 2 * cap);
    // Nothing else is wrong.
    drop(client);
    assert_eq!(soon("the end", events.next()).await, None);
}

/// Its first session says that it drains, and then does not stop talking. The
/// next one is the test's.
struct Talks(Mutex<[Option<Responses>; 2]>);

/// Always has something to say, and lets others have their turn.
struct Talk(Vec<v1::SessionResponse>);

impl Stream for Talk {
    type Item = Response;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Response>> {
        ready!(coop::poll_proceed(cx)).made_progress();
        let heartbeat = || response(Heard::Heartbeat(v1::Heartbeat {}));
        Poll::Ready(Some(Ok(self.0.pop().unwrap_or_else(heartbeat))))
    }
}

impl InProcess for Talks {
    fn instance_id(&self) -> &'static str {
        "talks"
    }

    fn open(&self, requests: Requests) -> Result<Responses, Reason> {
        // What the client says is taken, and of no interest.
        tokio::spawn(async move {
            let mut requests = requests;
            while std::future::poll_fn(|cx| requests.as_mut().poll_next(cx))
                .await
                .is_some()
            {}
        });
        let mut sessions = self.0.lock().unwrap();
        let next = sessions.iter_mut().find_map(Option::take);
        next.ok_or(Reason::Ended)
    }
}

#[tokio::test]
async fn a_session_that_does_not_stop_talking_keeps_nobody_from_being_heard() {
    let draining = Heard::Draining(v1::Draining {
        reason: "upgrade".into(),
        window_millis: 0,
    });
    let first = Talk(vec![response(draining), response(welcome(limits(), 0))]);
    let (say, second) = mpsc::channel::<Response>(2);
    let second: Responses = Box::pin(ReceiverStream::new(second));
    let server = Talks(Mutex::new([Some(Box::pin(first)), Some(second)]));
    let config = Config::with_homes([Home::in_process(server)]);
    let (client, mut events) = connect(config);
    expect_connected(&mut events).await;
    say.send(Ok(response(welcome(limits(), 0)))).await.unwrap();
    expect_connected(&mut events).await;
    // It makes no sense, and that is counted.
    let nonsense = response(Heard::Gap(v1::Gap::default()));
    say.send(Ok(nonsense)).await.unwrap();
    until(&client, "the next session to be heard", |s| {
        s.malformed == 1
    })
    .await;
}
