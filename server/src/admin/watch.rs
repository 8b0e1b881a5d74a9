//! What happens on shards, and how the server is, as streams.

use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::unfold;
use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::admin_v1::{ShardEvent, WatchShardsResponse};
use tokio::sync::broadcast;
use tokio_stream::Stream;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;

use crate::clock::{self, Clock};
use crate::drain::{Drain, DrainState};
use crate::happening::{Happening, What};
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
    let events = BroadcastStream::new(happenings);
    let events = tokio_stream::StreamExt::filter_map(events, move |happening| match happening {
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
    events.take_until(async move { drain.reached(DrainState::Closed).await })
}

/// What a view shows, look after look, as `next` makes it. What the caller is
/// too slow for is not made. Ends when there is no next one, or the server is
/// closed.
pub(super) fn looks<V: Send + 'static, T: Send + 'static>(
    view: V,
    drain: Drain,
    next: impl for<'a> Fn(&'a mut V) -> BoxFuture<'a, Option<T>> + Send + Sync + Copy + 'static,
) -> impl Stream<Item = T> + Send {
    let looks = unfold(view, move |mut view| async move {
        let look = next(&mut view).await?;
        Some((look, view))
    });
    looks.take_until(async move { drain.reached(DrainState::Closed).await })
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
