//! The client crate, told what to do by lines: for the matrix, which does so
//! with this release of it and with every one before. `release.sh` keeps a
//! copy of this file with the release, so that it is built against the crate
//! that it was written for.
//!
//! In: `subscribe SHARD [SEQNO]`, `unsubscribe SHARD`, `push SHARD SEQNO HEX`.
//! Out: what the host hears. Ends when its input does.

use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};

use persist_pubsub_client::{Client, Config, Event, ShardId, Subscription, connect};

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || {
        arguments
            .next()
            .ok_or("usage: matrix-client URL NAME GENERATION")
    };
    let config = Config::new(&next()?)?
        .client_name(&next()?)
        .deploy_generation(next()?.parse()?);
    let (client, mut events) = connect(config);
    // A thread of its own: the runtime would not end before its next line.
    std::thread::spawn(move || obey(&client));
    while let Some(event) = events.next().await {
        let line = match event {
            Event::Diff {
                shard, seqno, diff, ..
            } => format!("diff {shard} {seqno} {}", hex(&diff)),
            Event::Gap {
                shard,
                from,
                to,
                highest,
            } => format!("gap {shard} {from} {to} {highest}"),
            Event::Resync { shard, highest } => match highest {
                Some(highest) => format!("resync {shard} {highest}"),
                None => format!("resync {shard} unknown"),
            },
            Event::Connected { wire, .. } => format!("connected {wire}"),
            Event::Disconnected { reason } => format!("disconnected {reason}"),
            Event::Fenced {
                generation, epoch, ..
            } => format!("fenced {generation} {epoch}"),
            _ => continue,
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}")?;
        out.flush()?;
    }
    Ok(())
}

/// Until the input ends, which is the last of the client.
fn obey(client: &Client) {
    let mut tokens = BTreeMap::new();
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        if let Err(why) = order(client, &mut tokens, &line) {
            eprintln!("{line:?}: {why}");
            std::process::exit(2);
        }
    }
}

fn order(
    client: &Client,
    tokens: &mut BTreeMap<ShardId, Subscription>,
    line: &str,
) -> Result<(), Failure> {
    let words: Vec<_> = line.split(' ').collect();
    let word = |at: usize| words.get(at).copied().ok_or("a word is missing");
    let shard: ShardId = word(1)?.parse()?;
    match word(0)? {
        "subscribe" => {
            let token = match words.get(2) {
                Some(seqno) => client.subscribe_from(&shard, seqno.parse()?),
                None => client.subscribe(&shard),
            };
            tokens.insert(shard, token);
        }
        "unsubscribe" => {
            tokens.remove(&shard);
        }
        "push" => client.push_diff(&shard, word(2)?.parse()?, bytes(word(3)?)?.into()),
        other => return Err(format!("no order: {other}").into()),
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Result<Vec<u8>, Failure> {
    let pairs = (0..hex.len()).step_by(2);
    let byte = |at| -> Result<u8, Failure> {
        let pair = hex.get(at..at + 2).ok_or("half a byte")?;
        Ok(u8::from_str_radix(pair, 16)?)
    };
    pairs.map(byte).collect()
}
