//! `persist-pubsub sessions` and `persist-pubsub shards`.

use std::io::Write;
use std::time::{Duration, SystemTime};

use clap::Args;
use persist_pubsub_proto::admin_v1::{
    ListSessionsRequest, ListShardsRequest, Replica, Session, Shard,
};
use serde_json::Value;
use tonic::Status;

use super::target::{AdminPort, OfReplica, say_missing};
use super::{Failure, Format};
use crate::json;

/// Rows asked for at a time.
const PAGE: u32 = 1000;

#[derive(Debug, Args)]
pub(crate) struct SessionsArgs {
    #[command(flatten)]
    admin: AdminPort,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ShardsArgs {
    #[command(flatten)]
    admin: AdminPort,
    #[command(flatten)]
    list: ListArgs,
    /// Only shards whose id begins so
    #[arg(value_name = "PREFIX", default_value = "")]
    prefix: String,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only this environment
    #[arg(
        long,
        value_name = "NAME",
        env = "PERSIST_PUBSUB_ENVIRONMENT",
        default_value = ""
    )]
    environment: String,
    /// How rows are printed
    #[arg(long, env = "PERSIST_PUBSUB_FORMAT", default_value = "text")]
    format: Format,
    /// At most so many rows
    #[arg(
        long,
        value_name = "COUNT",
        env = "PERSIST_PUBSUB_LIMIT",
        default_value_t = 1000
    )]
    limit: usize,
    #[command(flatten)]
    of: OfReplica,
}

pub(super) async fn sessions(args: SessionsArgs) -> Result<(), Failure> {
    let client = args.admin.connect().await?;
    let list = args.list;
    let (mut rows, replicas) = pages(&list, async |page_token| {
        let request = ListSessionsRequest {
            environment: list.environment.clone(),
            page_size: PAGE,
            page_token,
            replica: list.of.named(),
        };
        let page = client.clone().list_sessions(request).await;
        let page = page.map_err(told)?.into_inner();
        Ok((page.sessions, page.next_page_token, page.replicas))
    })
    .await?;
    rows.sort_by(|a, b| (&a.replica, a.session_id).cmp(&(&b.replica, b.session_id)));
    match list.format {
        Format::Json => print_lines(rows.iter().map(json::session)),
        Format::Text => table_of(
            &replicas,
            &[
                "ID",
                "WIRE",
                "CALLER",
                "ENVIRONMENT",
                "GEN",
                "ROLE",
                "MODE",
                "ADDRESS",
                "FOR",
                "SUBS",
                "IN",
                "OUT",
                "BEHIND",
                "MISSED",
            ],
            rows.iter().map(|s| (&s.replica, session_row(s))),
        ),
    }
}

pub(super) async fn shards(args: ShardsArgs) -> Result<(), Failure> {
    let client = args.admin.connect().await?;
    let list = args.list;
    let (mut rows, replicas) = pages(&list, async |page_token| {
        let request = ListShardsRequest {
            environment: list.environment.clone(),
            shard_prefix: args.prefix.clone(),
            page_size: PAGE,
            page_token,
            replica: list.of.named(),
        };
        let page = client.clone().list_shards(request).await;
        let page = page.map_err(told)?.into_inner();
        Ok((page.shards, page.next_page_token, page.replicas))
    })
    .await?;
    // What each replica has of a shard stands together.
    rows.sort_by(|a, b| {
        let place = |s: &'_ Shard| (s.environment.clone(), s.shard_id.clone(), s.replica.clone());
        place(a).cmp(&place(b))
    });
    match list.format {
        Format::Json => print_lines(rows.iter().map(json::shard)),
        Format::Text => table_of(
            &replicas,
            &[
                "ENVIRONMENT",
                "SHARD",
                "HEAD",
                "RETAINED",
                "DIFFS",
                "BYTES",
                "HELD",
                "SUBSCRIBERS",
                "RATE/S",
            ],
            rows.iter().map(|s| (&s.replica, shard_row(s))),
        ),
    }
}

/// As many rows as are wanted, page by page, and the replicas that they are of.
/// `fetch` takes a page's token and returns its rows, the next page's token,
/// which is empty behind the last, and the page's replicas. Says which replicas
/// are missing.
async fn pages<Row>(
    list: &ListArgs,
    fetch: impl AsyncFn(String) -> Result<(Vec<Row>, String, Vec<Replica>), Failure>,
) -> Result<(Vec<Row>, Vec<Replica>), Failure> {
    let mut rows = Vec::new();
    let mut replicas = Vec::new();
    let mut token = String::new();
    loop {
        let (page, next, of) = fetch(token).await?;
        rows.extend(page);
        replicas.extend(of);
        if next.is_empty() || rows.len() >= list.limit {
            rows.truncate(list.limit);
            list.of.check(&replicas)?;
            say_missing(&replicas);
            return Ok((rows, replicas));
        }
        token = next;
    }
}

/// What a server said when it refused.
pub(super) fn told(status: Status) -> Failure {
    status.message().to_owned().into()
}

/// A table; where there are replicas, with theirs in the first column.
pub(super) fn table_of<'a>(
    replicas: &[Replica],
    head: &[&str],
    rows: impl Iterator<Item = (&'a String, Vec<String>)>,
) -> Result<(), Failure> {
    if replicas.is_empty() {
        return table(head, rows.map(|(_, row)| row));
    }
    let head = [&["REPLICA"], head].concat();
    let named = |(replica, row): (&String, Vec<String>)| [vec![replica.clone()], row].concat();
    table(&head, rows.map(named))
}

pub(super) fn since(at: Option<prost_types::Timestamp>) -> String {
    let since = at
        .and_then(|at| SystemTime::try_from(at).ok())
        .and_then(|at| at.elapsed().ok())
        .unwrap_or_default();
    humantime::format_duration(Duration::from_secs(since.as_secs())).to_string()
}

pub(super) fn optional(n: Option<u64>) -> String {
    n.map_or_else(|| "-".to_owned(), |n| n.to_string())
}

pub(super) fn dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

fn bytes(n: u64) -> String {
    bytesize::ByteSize(n).to_string()
}

fn session_row(s: &Session) -> Vec<String> {
    let behind = s
        .behind_for
        .and_then(|d| Duration::try_from(d).ok())
        .map_or_else(
            || "-".to_owned(),
            |d| format!("{} shards, {} ms", s.shards_behind, d.as_millis()),
        );
    vec![
        s.session_id.to_string(),
        s.wire_version.clone(),
        dash(&s.caller_id),
        dash(&s.environment),
        optional(s.generation),
        dash(&s.role),
        s.mode.clone(),
        s.address.clone(),
        since(s.connected_since),
        s.subscriptions.to_string(),
        format!("{} ({})", s.diffs_in, bytes(s.bytes_in)),
        format!("{} ({})", s.diffs_out, bytes(s.bytes_out)),
        behind,
        s.diffs_missed.to_string(),
    ]
}

fn shard_row(s: &Shard) -> Vec<String> {
    let retained = match (s.oldest_seqno, s.newest_seqno) {
        (Some(oldest), Some(newest)) => format!("{oldest}-{newest}"),
        _ => "-".to_owned(),
    };
    vec![
        s.environment.clone(),
        s.shard_id.clone(),
        optional(s.head_seqno),
        retained,
        s.log_entries.to_string(),
        bytes(s.log_bytes),
        s.held_back.to_string(),
        s.subscribers.to_string(),
        format!("{:.1}", s.diffs_per_second),
    ]
}

pub(super) fn print_lines(rows: impl Iterator<Item = Value>) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    for row in rows {
        if writeln!(out, "{row}").is_err() {
            // A pipe that was closed: nobody wants more.
            break;
        }
    }
    Ok(())
}

/// Columns as wide as their widest cell.
pub(super) fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Result<(), Failure> {
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let mut widths: Vec<usize> = Vec::new();
    for row in &rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = std::io::stdout().lock();
    for row in &rows {
        let line: String = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:<width$}  "))
            .collect();
        if writeln!(out, "{}", line.trim_end()).is_err() {
            break;
        }
    }
    Ok(())
}
