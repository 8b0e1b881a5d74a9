//! `persist.pubsub.v1`, said and heard.

use std::time::Duration;

use persist_pubsub_proto::v1::pub_sub_service_client::PubSubServiceClient;
use persist_pubsub_proto::v1::{self, session_request, session_response};
use persist_pubsub_proto::{MAX_SEQNO, ShardId};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Streaming};

use super::gate::Terms;
use super::outgoing::Outgoing;
use super::refused::Refused;
use super::wire::{Diff, Fenced, Frame, Gap, Head, Inbound, Refusal, text};
use crate::config::{Config, Mode};
use crate::event::{Reason, ServerInfo};
use crate::interest::Bounds;
use crate::outbox::Takes;
use crate::shared::Shared;
use crate::tls::AUTHORIZATION;

/// The largest message that is read, in bytes. A larger one ends the session.
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;
/// Shards in one request when the server does not say.
const BATCH: usize = 1_000;
/// The request id of every change of the mode: one at a time, and subscriptions
/// count from 1 on.
const MODE_REQUEST: u64 = u64::MAX;
/// What a `Publish` may be larger than its diff, in bytes: fields and lengths.
const ENVELOPE_BYTES: u64 = 64;
/// No server gets heartbeats more often than this, whatever it asks for.
const LEAST_HEARTBEAT: Duration = Duration::from_millis(10);

/// What a `Welcome` settles.
pub(crate) struct Welcome {
    pub(super) server: ServerInfo,
    pub(super) terms: Terms,
    pub(super) bounds: Bounds,
}

/// Says hello and waits for the answer. Not bounded in time.
pub(super) async fn open(
    channel: Channel,
    authorization: Option<MetadataValue<Ascii>>,
    outgoing: Outgoing<v1::SessionRequest>,
) -> Result<(Streaming<v1::SessionResponse>, Welcome), Refusal> {
    let mut request = Request::new(outgoing);
    if let Some(authorization) = authorization {
        request.metadata_mut().insert(AUTHORIZATION, authorization);
    }
    let mut incoming = PubSubServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .session(request)
        .await?
        .into_inner();
    loop {
        let message = incoming.message().await?;
        if let Some(answer) = welcomed(message) {
            return Ok((incoming, answer?));
        }
    }
}

/// The answer to Hello, if this is it; `None` is the end of what the server
/// says. Before it there may be signs of life, or kinds that do not exist yet.
pub(super) fn welcomed(message: Option<v1::SessionResponse>) -> Option<Result<Welcome, Refusal>> {
    let Some(message) = message else {
        return Some(Err(Refusal::Failed(Reason::Ended)));
    };
    match message.message? {
        session_response::Message::Welcome(welcome) => Some(settle(&welcome)),
        session_response::Message::Fenced(fenced) => {
            Some(Err(Refusal::Fenced(told_fenced(&fenced))))
        }
        session_response::Message::Rejected(rejected) => {
            let why = format!(
                "{}: {}",
                rejected.code().as_str_name(),
                text(&rejected.reason)
            );
            Some(Err(Refusal::Failed(Reason::Refused(why))))
        }
        _ => None,
    }
}

fn session_mode(mode: Mode) -> v1::SessionMode {
    match mode {
        Mode::ReadOnly => v1::SessionMode::ReadOnly,
        Mode::ReadWrite => v1::SessionMode::ReadWrite,
    }
}

pub(super) fn hello(config: &Config, mode: Mode) -> v1::SessionRequest {
    request(session_request::Message::Hello(v1::Hello {
        client_name: config.client_name.clone(),
        client_version: config.client_version.clone(),
        client_build: config.client_build.clone(),
        environment_id: config.environment_id.clone(),
        deploy_generation: config.deploy_generation,
        role: config.role.clone(),
        mode: session_mode(mode).into(),
        min_revision: v1::MIN_REVISION,
        max_revision: v1::MAX_REVISION,
        capabilities: vec![v1::CAPABILITY_SET_MODE.to_owned()],
    }))
}

pub(crate) fn settle(welcome: &v1::Welcome) -> Result<Welcome, Refusal> {
    if !(v1::MIN_REVISION..=v1::MAX_REVISION).contains(&welcome.revision) {
        return Err(Refusal::Failed(Reason::Protocol(format!(
            "welcomed in revision {}, which was not offered",
            welcome.revision
        ))));
    }
    // A limit of 0 is one that the server does not state.
    let limits = welcome.limits.unwrap_or_default();
    let largest = match (limits.max_diff_bytes, limits.max_message_bytes) {
        (0, 0) => u64::MAX,
        (0, message) => message.saturating_sub(ENVELOPE_BYTES),
        (diff, 0) => diff,
        (diff, message) => diff.min(message.saturating_sub(ENVELOPE_BYTES)),
    };
    let stated = |limit: u32, otherwise: usize| match limit {
        0 => otherwise,
        limit => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let heartbeat = match welcome.heartbeat_interval_millis {
        0 => None,
        millis => Some(Duration::from_millis(u64::from(millis)).max(LEAST_HEARTBEAT)),
    };
    Ok(Welcome {
        server: ServerInfo {
            instance_id: text(&welcome.server_instance_id),
            version: text(&welcome.server_version),
            session_id: welcome.session_id,
        },
        terms: Terms {
            takes: Takes {
                diff_bytes: usize::try_from(largest).unwrap_or(usize::MAX),
                announcements: true,
            },
            heartbeat,
            sets_mode: welcome
                .capabilities
                .iter()
                .any(|name| name == v1::CAPABILITY_SET_MODE),
        },
        bounds: Bounds {
            batch: stated(limits.max_shards_per_request, BATCH),
            subscriptions: stated(limits.max_subscriptions, usize::MAX),
        },
    })
}

pub(super) fn encode(frame: Frame, _: &Shared) -> Option<v1::SessionRequest> {
    Some(request(match frame {
        Frame::Subscribe { request, shards } => {
            session_request::Message::Subscribe(v1::Subscribe {
                request_id: request,
                shards: shards
                    .into_iter()
                    .map(|(shard, seqno)| v1::ShardPosition {
                        shard_id: shard.to_bytes(),
                        seqno,
                    })
                    .collect(),
            })
        }
        Frame::Unsubscribe { request, shards } => {
            session_request::Message::Unsubscribe(v1::Unsubscribe {
                request_id: request,
                shard_ids: shards.iter().map(ShardId::to_bytes).collect(),
            })
        }
        Frame::Publish(push) => session_request::Message::Publish(v1::Publish {
            shard_id: push.shard.to_bytes(),
            seqno: push.seqno,
            committed_unix_nanos: push.committed,
            diff: push.diff,
        }),
        Frame::SetMode(mode) => session_request::Message::SetMode(v1::SetMode {
            request_id: MODE_REQUEST,
            mode: session_mode(mode).into(),
        }),
        Frame::Heartbeat => session_request::Message::Heartbeat(v1::Heartbeat {}),
    }))
}

pub(crate) fn decode(response: v1::SessionResponse) -> Inbound {
    match response.message {
        Some(session_response::Message::Diff(diff)) => {
            let Ok(shard) = ShardId::from_slice(&diff.shard_id) else {
                return Inbound::Malformed("a diff of no shard");
            };
            if diff.seqno > MAX_SEQNO {
                return Inbound::Malformed("a diff above the highest seqno");
            }
            Inbound::Diff(Diff {
                shard,
                seqno: diff.seqno,
                committed: diff.committed_unix_nanos,
                diff: diff.diff,
            })
        }
        Some(session_response::Message::Gap(gap)) => {
            let Ok(shard) = ShardId::from_slice(&gap.shard_id) else {
                return Inbound::Malformed("a gap of no shard");
            };
            if gap.from_seqno > gap.to_seqno || gap.to_seqno > MAX_SEQNO {
                return Inbound::Malformed("a gap that is no range of seqnos");
            }
            Inbound::Gap(Gap {
                shard,
                from: gap.from_seqno,
                to: gap.to_seqno,
                highest: gap.highest_seqno,
            })
        }
        Some(session_response::Message::Subscribed(subscribed)) => {
            let all = subscribed.shards.len();
            let heads: Vec<_> = subscribed.shards.iter().filter_map(head).collect();
            Inbound::Subscribed {
                request: subscribed.request_id,
                malformed: all - heads.len(),
                heads,
            }
        }
        Some(session_response::Message::Rejected(rejected))
            if rejected.request_id == MODE_REQUEST =>
        {
            Inbound::ModeSet(None)
        }
        Some(session_response::Message::Rejected(rejected)) => Inbound::Rejected {
            code: rejected.code().as_str_name().to_owned(),
            reason: text(&rejected.reason),
            request: rejected.request_id,
            push: refused(&rejected),
        },
        Some(session_response::Message::Draining(draining)) => Inbound::Draining {
            window_millis: draining.window_millis,
            reason: text(&draining.reason),
        },
        Some(session_response::Message::Fenced(fenced)) => Inbound::Fenced(told_fenced(&fenced)),
        Some(session_response::Message::ModeSet(set)) => Inbound::ModeSet(match set.mode() {
            v1::SessionMode::ReadOnly => Some(Mode::ReadOnly),
            v1::SessionMode::ReadWrite => Some(Mode::ReadWrite),
            v1::SessionMode::Unspecified => None,
        }),
        Some(session_response::Message::Welcome(_)) => Inbound::Malformed("a second welcome"),
        Some(
            session_response::Message::Unsubscribed(_) | session_response::Message::Heartbeat(_),
        )
        | None => Inbound::Nothing,
    }
}

fn refused(rejected: &v1::Rejected) -> Option<Refused> {
    let seqno = rejected.seqno.filter(|&seqno| seqno <= MAX_SEQNO)?;
    let millis = Some(rejected.retry_after_millis).filter(|&millis| millis > 0)?;
    Some(Refused {
        shard: ShardId::from_slice(&rejected.shard_id).ok()?,
        seqno,
        retry_after: Duration::from_millis(millis.into()),
    })
}

fn head(head: &v1::ShardHead) -> Option<Head> {
    Some(Head {
        shard: ShardId::from_slice(&head.shard_id).ok()?,
        highest: head.highest_seqno,
    })
}

fn told_fenced(fenced: &v1::Fenced) -> Fenced {
    Fenced {
        generation: fenced.generation,
        epoch: fenced.epoch,
        reason: text(&fenced.reason),
    }
}

fn request(message: session_request::Message) -> v1::SessionRequest {
    v1::SessionRequest {
        message: Some(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(limits: Option<v1::Limits>, heartbeat: u32) -> Welcome {
        settle(&v1::Welcome {
            revision: 1,
            limits,
            heartbeat_interval_millis: heartbeat,
            ..v1::Welcome::default()
        })
        .unwrap_or_else(|refusal| panic!("{refusal:?}"))
    }

    #[test]
    fn a_limit_that_is_not_stated_is_none() {
        for limits in [None, Some(v1::Limits::default())] {
            let welcome = settled(limits, 0);
            assert_eq!(welcome.bounds.batch, BATCH);
            assert_eq!(welcome.bounds.subscriptions, usize::MAX);
            assert_eq!(welcome.terms.takes.diff_bytes, usize::MAX);
            assert_eq!(welcome.terms.heartbeat, None);
        }
    }

    #[test]
    fn a_diff_has_to_fit_its_message_too() {
        for (diff, message, largest) in
            [(100, 0, 100), (0, 1_000, 936), (999, 1_000, 936), (9, 1, 0)]
        {
            let limits = v1::Limits {
                max_diff_bytes: diff,
                max_message_bytes: message,
                ..v1::Limits::default()
            };
            assert_eq!(settled(Some(limits), 0).terms.takes.diff_bytes, largest);
        }
    }

    #[test]
    fn no_server_makes_us_beat_without_a_pause() {
        assert_eq!(settled(None, 1).terms.heartbeat, Some(LEAST_HEARTBEAT));
    }

    #[test]
    fn only_an_offered_revision_is_spoken() {
        for revision in [0, v1::MAX_REVISION + 1, u32::MAX] {
            let welcome = v1::Welcome {
                revision,
                ..v1::Welcome::default()
            };
            assert!(matches!(settle(&welcome), Err(Refusal::Failed(_))));
        }
    }
}
