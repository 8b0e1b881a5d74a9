//! Subscribe, unsubscribe, subscribe again, while diffs flow: what an earlier
//! subscription still brings is never the later one's, and the end of the
//! earlier never silences the later. Over the network, across reconnects, and
//! in process.

use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use persist_pubsub_client::{Config as ClientConfig, Event, Home, connect};
use persist_pubsub_compat_tests::ledger::{Diffs, Ledger};
use persist_pubsub_compat_tests::proxy::{Cut, Proxy};
use persist_pubsub_compat_tests::v1_process::V1Process;
use persist_pubsub_compat_tests::wait::{until, within};
use persist_pubsub_server::app::{self, Server};
use persist_pubsub_server::config::Config;
use tokio::time::interval;

use super::{Failure, Verdict, quick_client, shards};

async fn server() -> Result<Server, Failure> {
    let mut config = Config::default();
    // A busy machine stalls one writer for longer than the default.
    config.reorder_window = Duration::from_secs(10);
    Ok(app::start(config, std::future::pending()).await?)
}

fn inside(server: &Server) -> Result<ClientConfig, Failure> {
    let config = ClientConfig::with_homes([Home::in_process(server.in_process())]);
    Ok(config.backoff(Duration::from_millis(20), Duration::from_millis(200))?)
}

/// A cluster's objects move from A to B and back, over and over; two writers
/// fight over the shards, and the connections of B and of one of the writers
/// are cut now and then. Whoever has a shard hears of all of it, in order, from
/// where it began.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_move_there_and_back_while_writers_fight() -> Verdict {
    let server = server().await?;
    let proxy = Proxy::start(server.data_addr()).await?;
    let ledger = Ledger::new(Diffs::Numbered { bytes: 100 });
    let shards = shards(0xf3, 6);
    let writers = [
        V1Process::start("writer-within", inside(&server)?, &ledger),
        V1Process::start("writer-outside", quick_client(&proxy.url())?, &ledger),
    ];
    let places = [
        V1Process::start("a", inside(&server)?, &ledger),
        V1Process::start("b", quick_client(&proxy.url())?, &ledger),
    ];
    for process in writers.iter().chain(&places) {
        process.wait("a session", |a| a.connected > 0).await?;
    }
    let mut at = vec![0_usize; shards.len()];
    for &shard in &shards {
        writers[0].write(shard);
        places[0].follow(shard);
    }
    let mut rng = Rng::with_seed(7);
    let mut turns = interval(Duration::from_millis(1));
    for turn in 1..=900 {
        turns.tick().await;
        for writer in &writers {
            writer.write(shards[rng.usize(0..shards.len())]);
        }
        if turn % 3 == 0 {
            let which = rng.usize(0..shards.len());
            let (from, to) = (at[which], 1 - at[which]);
            // The new place may begin before the old one has ended, and an
            // object may be put back at once.
            if rng.bool() {
                places[from].leave(shards[which]);
            }
            places[to].follow(shards[which]);
            places[from].leave(shards[which]);
            if rng.u8(0..4) == 0 {
                places[to].leave(shards[which]);
                places[to].follow(shards[which]);
            }
            at[which] = to;
        }
        if turn % 300 == 0 {
            proxy.cut(Cut::Reset);
        }
    }
    writers[1]
        .wait("a session after the last cut", |a| a.up)
        .await?;
    for &shard in &shards {
        writers.iter().for_each(|writer| writer.write(shard));
    }
    let heads = ledger.heads(shards.iter().copied());
    for place in &places {
        place.reach(&heads).await?;
        let account = place.account();
        assert_eq!(account.first_violations, Vec::<String>::new());
        assert!(account.diffs > 0, "{} heard nothing", place.name());
    }
    assert!(places[1].account().disconnected > 0, "nothing was cut");
    Ok(())
}

/// Threads take and drop tokens of the same shards, each for itself; whoever
/// holds the last hears of the shard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_many_threads_do_not_silence_each_other() -> Verdict {
    let server = server().await?;
    let network = quick_client(&format!("http://{}", server.data_addr()))?;
    for (test, config) in [(0xf4, network), (0xf5, inside(&server)?)] {
        let shards = shards(test, 3);
        let (writer, mut own) = connect(inside(&server)?);
        let (client, mut events) = connect(config);
        for events in [&mut own, &mut events] {
            let connected = within("a session", events.next()).await?;
            assert!(matches!(connected, Some(Event::Connected { .. })));
        }
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let (client, shards) = (client.clone(), shards.clone());
                std::thread::spawn(move || {
                    let mut rng = Rng::with_seed(thread);
                    for _ in 0..300 {
                        let shard = shards[rng.usize(0..shards.len())];
                        let token = client.subscribe(&shard);
                        if rng.bool() {
                            std::thread::yield_now();
                        }
                        drop(token);
                    }
                })
            })
            .collect();
        let mut seqno = 0;
        while threads.iter().any(|thread| !thread.is_finished()) {
            seqno += 1;
            for shard in &shards {
                writer.push_diff(shard, seqno, Bytes::from_static(b"a diff"));
            }
            tokio::task::yield_now().await;
        }
        let tokens: Vec<_> = shards.iter().map(|s| client.subscribe(s)).collect();
        // Each is answered, whatever is still under way of those before.
        for _ in &shards {
            loop {
                match within("an answer", events.next()).await? {
                    Some(Event::Resync { .. }) => break,
                    Some(_) => {}
                    None => return Err("the events have ended".into()),
                }
            }
        }
        seqno += 1;
        let mut left = shards.clone();
        for shard in &shards {
            writer.push_diff(shard, seqno, Bytes::from_static(b"the last"));
        }
        while !left.is_empty() {
            match within("the last diff of each", events.next()).await? {
                Some(Event::Diff {
                    shard, seqno: got, ..
                }) if got == seqno => left.retain(|&s| s != shard),
                // So many were pushed that not all waited.
                Some(Event::Gap { shard, to, .. }) if to >= seqno => left.retain(|&s| s != shard),
                Some(_) => {}
                None => return Err("the events have ended".into()),
            }
        }
        drop(tokens);
        until("every push to have gone", async || {
            (writer.stats().buffered_bytes == 0).then_some(())
        })
        .await?;
    }
    Ok(())
}
