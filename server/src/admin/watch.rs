//! What happens on shards, as a stream.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::admin_v1::{ShardEvent, StatusSample, WatchShardsResponse};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_stream::wrappers::{BroadcastStream, ReceiverStream};
use tokio_stream::{Stream, StreamExt};

use crate::clock::{self, Clock};
use crate::drain::{Drain, DrainState};
use crate::happening::{Happening, What};
use crate::status::{Status, Watcher};
use crate::topic::Verdict;

/// The happenings of one shard, or of all; of one environment, or of all
/// (empty). Ends when the server is closed.
pub(super) fn shards(
    happenings: broadcast::Receiver<Happening>,
    environment: String,
    shard: Option<ShardId>,
    drain: Drain,
    clock: Clock,
) -> impl Stream<Item = Result<WatchShardsResponse, tonic::Status>> {
    let events = BroadcastStream::new(happenings).filter_map(move |happening| match happening {
        Ok(h) => {
            let wanted = (environment.is_empty() || h.environment.name() == environment)
                && shard.is_none_or(|shard| shard == h.shard);
            wanted.then(|| Ok(show(&h, clock.now())))
        }
        Err(BroadcastStreamRecvError::Lagged(missed)) => Some(Ok(WatchShardsResponse {
            at: Some(clock::timestamp(clock.now())),
            event: ShardEvent::Missed.into(),
            missed,
            ..WatchShardsResponse::default()
        })),
    });
    Until {
        events,
        end: Box::pin(async move { drain.reached(DrainState::Closed).await }),
    }
}

/// How the server is, as often as it is looked at, as `show` tells it. Ends
/// when the server is closed.
pub(super) fn status<T: Send + 'static>(
    mut watcher: Watcher,
    drain: Drain,
    show: impl Fn(&Status, Vec<StatusSample>) -> T + Send + Sync + 'static,
) -> impl Stream<Item = T> {
    // What the caller is too slow for is not made.
    let (told, stream) = mpsc::channel(1);
    tokio::spawn(async move {
        let telling = async {
            while let Ok(room) = told.reserve().await {
                let Some((status, samples)) = watcher.next().await else {
                    return;
                };
                room.send(show(&status, samples));
            }
        };
        tokio::select! {
            () = telling => {}
            () = told.closed() => {}
            () = drain.reached(DrainState::Closed) => {}
        }
    });
    ReceiverStream::new(stream)
}

/// A stream that ends with a future.
struct Until<S> {
    events: S,
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl<S: Stream + Unpin> Stream for Until<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        if self.end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.events).poll_next(cx)
    }
}

fn show(h: &Happening, now: SystemTime) -> WatchShardsResponse {
    let event = match h.what {
        What::Announced => ShardEvent::Announced,
        What::Gapped => ShardEvent::Gapped,
        What::Subscribed => ShardEvent::Subscribed,
        What::Unsubscribed => ShardEvent::Unsubscribed,
        What::Published(verdict) => match verdict {
            Verdict::InOrder | Verdict::Gapped(_) | Verdict::Adopted => ShardEvent::Published,
            Verdict::Held => ShardEvent::HeldBack,
            Verdict::FilledLate => ShardEvent::FilledLate,
            Verdict::Duplicate | Verdict::DoubtedAgain | Verdict::Backfilled => {
                ShardEvent::Duplicate
            }
            Verdict::Doubted => ShardEvent::Doubted,
        },
    };
    WatchShardsResponse {
        at: Some(clock::timestamp(now)),
        event: event.into(),
        environment: h.environment.name().to_owned(),
        shard_id: h.shard.to_string(),
        seqno: h.seqno,
        diff_bytes: h.diff_bytes as u64,
        session_id: h.session.unwrap_or(0),
        latency: h.committed_unix_nanos.map(|stamp| latency(now, stamp)),
        missed: 0,
    }
}

/// From a stamp until now; negative if the stamp is of the future.
fn latency(now: SystemTime, stamp: u64) -> prost_types::Duration {
    const NANOS: i128 = 1_000_000_000;
    let now = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i128::try_from(d.as_nanos()).unwrap_or(i128::MAX));
    let nanos = now - i128::from(stamp);
    prost_types::Duration {
        // Both are 64-bit counts of nanoseconds: their difference fits.
        seconds: i64::try_from(nanos / NANOS).unwrap_or_default(),
        nanos: i32::try_from(nanos % NANOS).unwrap_or_default(),
    }
}
