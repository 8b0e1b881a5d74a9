//! `persist-pubsub push`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use persist_pubsub_proto::v1::session_request::Message as Request;
use persist_pubsub_proto::v1::session_response::Message as Response;
use persist_pubsub_proto::{ShardId, v0, v1};

use super::Failure;
use super::tap::WireArg;
use super::target::Server;
use crate::clock::Clock;

/// How long the server may take to take it.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    #[command(flatten)]
    server: Server,
    /// Wire version to speak
    #[arg(long, env = "PERSIST_PUBSUB_WIRE", default_value = "v1")]
    wire: WireArg,
    /// Environment of the shard; the server's default if none (v1)
    #[arg(
        long,
        value_name = "NAME",
        env = "PERSIST_PUBSUB_ENVIRONMENT",
        default_value = ""
    )]
    environment: String,
    /// Read the diff from this file; `-` is standard input
    #[arg(
        long,
        value_name = "PATH",
        env = "PERSIST_PUBSUB_FILE",
        conflicts_with = "diff"
    )]
    file: Option<PathBuf>,
    /// Shard: s and a UUID
    shard: ShardId,
    /// Its seqno
    #[arg(value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    seqno: u64,
    /// The diff, as text; without one, only "the shard has reached this seqno" is said (v1)
    diff: Option<String>,
}

pub(super) async fn run(args: PushArgs) -> Result<(), Failure> {
    let diff = match (&args.diff, &args.file) {
        (Some(text), _) => Some(text.clone().into_bytes()),
        (None, Some(path)) if path.as_os_str() == "-" => {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes)?;
            Some(bytes)
        }
        (None, Some(path)) => {
            Some(std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?)
        }
        (None, None) => None,
    };
    let bytes = diff.as_ref().map(Vec::len);
    let pushing = async {
        match args.wire {
            WireArg::V0 => push_v0(&args, diff).await,
            WireArg::V1 | WireArg::Auto => push_v1(&args, diff).await,
        }
    };
    tokio::time::timeout(PATIENCE, pushing)
        .await
        .map_err(|_| format!("the server has not taken it within {PATIENCE:?}"))??;
    match bytes {
        Some(bytes) => println!("pushed {} seqno {} ({bytes} bytes)", args.shard, args.seqno),
        None => println!("announced {} seqno {}", args.shard, args.seqno),
    }
    Ok(())
}

/// The stream is half-closed behind the message: when the server ends it, the
/// message has been taken, and what was wrong with it has been said.
async fn push_v1(args: &PushArgs, diff: Option<Vec<u8>>) -> Result<(), Failure> {
    let requests = [
        Request::Hello(v1::Hello {
            client_name: "persist-pubsub push".to_owned(),
            client_version: env!("CARGO_PKG_VERSION").to_owned(),
            environment_id: args.environment.clone(),
            role: "operator".to_owned(),
            mode: v1::SessionMode::ReadWrite.into(),
            min_revision: v1::MIN_REVISION,
            max_revision: v1::MAX_REVISION,
            ..v1::Hello::default()
        }),
        Request::Publish(v1::Publish {
            shard_id: args.shard.to_bytes(),
            seqno: args.seqno,
            committed_unix_nanos: Clock::system().unix_nanos(),
            diff: diff.map(Into::into),
        }),
    ]
    .map(|message| v1::SessionRequest {
        message: Some(message),
    });
    let channel = args.server.connect().await?;
    let mut client = v1::pub_sub_service_client::PubSubServiceClient::new(channel);
    let response = client.session(tokio_stream::iter(requests)).await?;
    let mut stream = response.into_inner();
    let mut rejected = None;
    while let Some(response) = stream.message().await? {
        if let Some(Response::Rejected(r)) = response.message {
            rejected.get_or_insert(r.reason);
        }
    }
    rejected.map_or(Ok(()), |reason| Err(format!("refused: {reason}").into()))
}

async fn push_v0(args: &PushArgs, diff: Option<Vec<u8>>) -> Result<(), Failure> {
    let diff = diff.ok_or("v0 cannot say that a shard has reached a seqno without the diff")?;
    let nanos = Duration::from_nanos(Clock::system().unix_nanos());
    let message = v0::ProtoPubSubMessage {
        timestamp: Some(v0::ProtoDuration {
            secs: nanos.as_secs(),
            nanos: nanos.subsec_nanos(),
        }),
        message: Some(v0::proto_pub_sub_message::Message::PushDiff(
            v0::ProtoPushDiff {
                shard_id: args.shard.to_string(),
                seqno: args.seqno,
                diff: diff.into(),
            },
        )),
    };
    let channel = args.server.connect().await?;
    let mut client = v0::proto_persist_pub_sub_client::ProtoPersistPubSubClient::new(channel);
    let mut request = tonic::Request::new(tokio_stream::iter([message]));
    request.metadata_mut().insert(
        v0::CALLER_ID,
        tonic::metadata::MetadataValue::from_static("persist-pubsub push"),
    );
    let mut stream = client.pub_sub(request).await?.into_inner();
    while stream.message().await?.is_some() {}
    Ok(())
}
