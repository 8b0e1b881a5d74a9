//! Old by new: every client with every server. `MATRIX.md` is what comes of
//! it, and has to be up to date.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use persist_pubsub_compat_tests::child::workspace;
use persist_pubsub_compat_tests::matrix::client::ClientKind;
use persist_pubsub_compat_tests::matrix::script::scripts;
use persist_pubsub_compat_tests::matrix::server::ServerKind;
use persist_pubsub_compat_tests::matrix::transcript::{Line, constant, play};
use persist_pubsub_compat_tests::matrix::{Cell, release, table, try_pair};
use persist_pubsub_compat_tests::{nats, tools};
use tokio::process::Command;
use tokio::task::JoinSet;

use super::{Failure, Verdict};

/// Set to 1, what came is written to `MATRIX.md` instead of compared with it.
const UPDATE: &str = "UPDATE_MATRIX";
/// Pairs that are tried at once: they wait more than they work.
const AT_ONCE: usize = 4;

const BEFORE: &str = "\
# Old by new

Every client with every server, as `tests/matrix.rs` tries them: a cell names what the pair can do, all of it tried over real
connections. Made by `UPDATE_MATRIX=1 cargo test -p persist-pubsub-compat-tests matrix::`; `run.sh` fails when a scenario does, or when this
table is not what came. What each scenario demands stands in `src/matrix/scenario.rs`, and how a release gets here in `releases/README.md`.

A v0 server keeps no log, drains nobody and knows no generations: join, resume, drain, fence and capabilities are not for it, and
a client of ours speaks v0 to it.

";

/// Where the second table begins.
const REPLICAS: &str = "\n## Replicas\n";
const OF_REPLICAS: &str = "
The same with two replicas over NATS: the client under test is at one, everybody else at the other. In place of the released client
stands that of today; a release without `--backplane` has no column.

";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_client_gets_along_with_every_server() -> Verdict {
    let mut clients = vec![ClientKind::V0Recorded, ClientKind::V0Scripted];
    let mut servers = vec![ServerKind::V0];
    for version in release::versions()? {
        let built = release::build(&version).await.map_err(Failure::plain)?;
        clients.push(ClientKind::Released(version.clone(), built.client));
        servers.push(ServerKind::Released(version, built.server));
    }
    clients.push(today());
    servers.push(ServerKind::Today);
    let cells = try_all(&clients, &servers).await?;
    is_up_to_date(&format!("{BEFORE}{}", table(&cells)), false)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_of_adjacent_releases_get_along() -> Verdict {
    if !nats::found("replicas_of_adjacent_releases_get_along") {
        return Ok(());
    }
    let pair = |one: &ServerKind, other: &ServerKind| {
        ServerKind::Replicas(Box::new([one.clone(), other.clone()]))
    };
    let mut servers = vec![pair(&ServerKind::Today, &ServerKind::Today)];
    if let Some(version) = release::versions()?.pop() {
        let built = release::build(&version).await.map_err(Failure::plain)?;
        if built.has_replicas().await.map_err(Failure::plain)? {
            let released = ServerKind::Released(version, built.server);
            servers.push(pair(&ServerKind::Today, &released));
            servers.push(pair(&released, &ServerKind::Today));
        }
    }
    let clients = [ClientKind::V0Recorded, ClientKind::V0Scripted, today()];
    let cells = try_all(&clients, &servers).await?;
    is_up_to_date(&format!("{REPLICAS}{OF_REPLICAS}{}", table(&cells)), true)
}

fn today() -> ClientKind {
    ClientKind::Today(PathBuf::from(env!("CARGO_BIN_EXE_matrix-client")))
}

/// Every client with every server, client by client; each scenario succeeds.
async fn try_all(clients: &[ClientKind], servers: &[ServerKind]) -> Result<Vec<Cell>, Failure> {
    let mut pairs = Vec::new();
    for client in clients {
        for server in servers {
            pairs.push((client.clone(), server.clone()));
        }
    }
    let mut waiting = pairs.clone().into_iter();
    let mut trying = JoinSet::new();
    let mut cells: Vec<Cell> = Vec::new();
    loop {
        while trying.len() < AT_ONCE
            && let Some((client, server)) = waiting.next()
        {
            trying.spawn(try_pair(client, server));
        }
        match trying.join_next().await {
            Some(cell) => cells.push(cell?),
            None => break,
        }
    }
    let place = |cell: &Cell| {
        let is =
            |pair: &(ClientKind, ServerKind)| *pair == (cell.client.clone(), cell.server.clone());
        pairs.iter().position(is)
    };
    cells.sort_by_key(place);
    let mut failures = Vec::new();
    for cell in &cells {
        for (scenario, outcome) in &cell.outcomes {
            if let Err(why) = outcome {
                let (client, server) = (cell.client.name(), cell.server.name());
                failures.push(format!("{client} with {server}: {scenario}: {why}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(cells)
}

/// What came is what a half of `MATRIX.md` says.
fn is_up_to_date(text: &str, of_replicas: bool) -> Verdict {
    // Two tests may write it at once.
    static FILE: Mutex<()> = Mutex::new(());
    let _mine = FILE.lock().unwrap_or_else(PoisonError::into_inner);
    let file = workspace().join("compat-tests/MATRIX.md");
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    let (servers, replicas) = kept.split_at(kept.find(REPLICAS).unwrap_or(kept.len()));
    let half = if of_replicas { replicas } else { servers };
    if std::env::var_os(UPDATE).is_some_and(|value| value == "1") {
        let whole = if of_replicas {
            [servers, text]
        } else {
            [text, replicas]
        };
        std::fs::write(&file, whole.concat())?;
        return Ok(());
    }
    assert_eq!(
        half, text,
        "MATRIX.md is not what came: {UPDATE}=1 writes it"
    );
    Ok(())
}

/// What a server of an older release answered, the server of today answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_transcripts_of_every_release_hold() -> Verdict {
    let mut played = 0;
    for version in release::versions()? {
        let folder = release::folder().join(&version).join("transcripts");
        for entry in std::fs::read_dir(folder)? {
            let file = entry?.path();
            let text = std::fs::read_to_string(&file)?;
            let lines: Vec<Line> = text
                .lines()
                .map(str::parse)
                .collect::<Result<_, _>>()
                .map_err(Failure::plain)?;
            let came = play(&ServerKind::Today, &lines).await;
            let came = came.map_err(Failure::plain)?;
            let constant = |lines: &[Line]| -> Vec<_> {
                lines
                    .iter()
                    .map(|line| constant(line).to_string())
                    .collect()
            };
            assert_eq!(constant(&came), constant(&lines), "{}", file.display());
            played += 1;
        }
    }
    // A scenario that is not kept is not held.
    assert!(played >= scripts().len() * release::versions()?.len());
    Ok(())
}

/// What `buf breaking` says of a schema, held against the newest release.
async fn breaking(buf: &Path, schema: &Path) -> Result<std::process::Output, Failure> {
    let newest = release::versions()?.pop().unwrap_or_default();
    let against = release::folder().join(newest).join("schema.binpb");
    let said = Command::new(buf)
        .current_dir(schema)
        .args(["breaking", "--against"])
        .arg(against)
        .output();
    Ok(said.await?)
}

#[tokio::test]
async fn a_breaking_change_of_the_schema_is_caught() -> Verdict {
    let buf = match tools::find("buf", "BUF") {
        Ok(buf) => buf,
        Err(why) => {
            tools::left_out("a_breaking_change_of_the_schema_is_caught", &why);
            return Ok(());
        }
    };
    let proto = workspace().join("proto");
    let whole = breaking(&buf, &proto).await?;
    let said = String::from_utf8_lossy(&whole.stdout).into_owned();
    assert!(
        whole.status.success(),
        "the schema breaks the last release: {said}"
    );

    let copy = workspace().join("target/tmp/breaking");
    let _ = std::fs::remove_dir_all(&copy);
    copy_folder(&proto.join("schema"), &copy.join("schema"))?;
    std::fs::copy(proto.join("buf.yaml"), copy.join("buf.yaml"))?;
    let file = copy.join("schema/persist/pubsub/v1/pubsub.proto");
    let text = std::fs::read_to_string(&file)?;
    // The same name and meaning, on another number.
    let broken = text.replacen("uint64 seqno = 2;", "uint64 seqno = 12;", 1);
    assert_ne!(broken, text, "nothing was broken");
    std::fs::write(&file, broken)?;
    let caught = breaking(&buf, &copy).await?;
    let said = String::from_utf8_lossy(&caught.stdout).into_owned();
    assert!(!caught.status.success(), "nobody noticed");
    assert!(
        said.contains("pubsub.proto") && said.contains('2'),
        "{said}"
    );
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
