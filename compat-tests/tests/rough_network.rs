//! A network that delays, stalls and trickles one byte at a time changes
//! nothing but the time that it takes.

use std::time::Duration;

use persist_pubsub_compat_tests::child::Child;
use persist_pubsub_compat_tests::ledger::{Diffs, Ledger};
use persist_pubsub_compat_tests::proxy::{Passing, Proxy, Way};
use persist_pubsub_compat_tests::recording;
use persist_pubsub_compat_tests::v1_process::V1Process;
use persist_pubsub_proto::ShardId;

use super::contended::every_reader_gets_an_unbroken_run;
use super::{Verdict, quick_client};

const SHARD: ShardId = ShardId::new([0x0e; 16]);
/// Diffs that a v1 client is sent.
const DIFFS: u64 = 150;
const WRITE_EVERY: Duration = Duration::from_millis(10);

/// Nothing passes for a while, then everything, without end.
async fn stall_again_and_again(proxy: &Proxy, way: Way) {
    loop {
        for (passing, millis) in [(Passing::Held, 250), (Passing::Freely, 150)] {
            proxy.pass(way, passing);
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
    }
}

#[tokio::test]
async fn recorded_v0_traffic_comes_whole_and_in_order() -> Verdict {
    let recording = recording::named("v0-steady")?;
    let server = Child::start(&[
        // Writers trickle, each at its own pace.
        "--reorder-window=10s",
        "--v0-replay-window=60s",
    ])
    .await?;
    let writers = Proxy::start(server.addresses().listen).await?;
    let readers = Proxy::start(server.addresses().listen).await?;
    let (urls, trickling) = (
        [readers.url(), writers.url()],
        Passing::Trickling(Duration::ZERO),
    );
    writers.pass(Way::ToServer, trickling);
    readers.pass(Way::ToServer, trickling);
    tokio::select! {
        run = every_reader_gets_an_unbroken_run(&urls[0], &urls[1], &recording) => run,
        () = stall_again_and_again(&readers, Way::ToClient) => unreachable!("it has no end"),
    }
}

#[tokio::test]
async fn a_v1_client_hears_everything_in_order() -> Verdict {
    let server = Child::start::<&str>(&[]).await?;
    let ledger = Ledger::new(Diffs::Numbered { bytes: 300 });
    let late = Passing::Late(Duration::from_millis(100));
    let trickling = Passing::Trickling(Duration::ZERO);
    let mut proxies = Vec::new();
    let mut readers = Vec::new();
    for (name, passing) in [("late", late), ("trickling", trickling), ("stalling", late)] {
        let proxy = Proxy::start(server.addresses().listen).await?;
        proxy.pass(Way::ToServer, passing);
        proxy.pass(Way::ToClient, passing);
        let reader = V1Process::start(name, quick_client(&proxy.url())?, &ledger);
        reader.follow(SHARD);
        reader
            .wait("a session", |account| account.connected > 0)
            .await?;
        proxies.push(proxy);
        readers.push(reader);
    }
    // The writer trickles as well, and slowly: its order is the shard's.
    let proxy = Proxy::start(server.addresses().listen).await?;
    proxy.pass(Way::ToServer, trickling);
    let writer = V1Process::start("writer", quick_client(&proxy.url())?, &ledger);
    let writing = async {
        let mut beats = tokio::time::interval(WRITE_EVERY);
        for _ in 0..DIFFS {
            beats.tick().await;
            writer.write(SHARD);
        }
        for reader in &readers {
            reader.reach(&ledger.heads([SHARD])).await?;
        }
        Ok::<_, super::Failure>(())
    };
    tokio::select! {
        written = writing => written?,
        () = stall_again_and_again(&proxies[2], Way::ToClient) => unreachable!("it has no end"),
    }
    for reader in &readers {
        let account = reader.account();
        println!(
            "{}: {} diffs, largest hole {}",
            reader.name(),
            account.diffs,
            account.hole
        );
        assert!(
            account.violations.is_empty(),
            "{:?}",
            account.first_violations
        );
        // The start of a subscription to what the server did not know.
        assert!(account.resyncs <= 1, "{}", reader.name());
        assert_eq!(account.gaps, 0, "{}", reader.name());
        assert_eq!(account.disconnected, 0, "{}", reader.name());
        assert!(
            account.diffs >= DIFFS - 1,
            "{}: {}",
            reader.name(),
            account.diffs
        );
    }
    Ok(())
}
