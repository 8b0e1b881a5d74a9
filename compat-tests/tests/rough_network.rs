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

const TRICKLING: Passing = Passing::Trickling(Duration::ZERO);
const LATE: Passing = Passing::Late(Duration::from_millis(100));
/// How long a network stays as it is before it changes.
const SPELL: Duration = Duration::from_millis(200);

/// A network that is now so, now so, without end.
async fn changes(proxy: &Proxy, way: Way, how: &[Passing]) {
    for &passing in how.iter().cycle() {
        proxy.pass(way, passing);
        tokio::time::sleep(SPELL).await;
    }
}

#[tokio::test]
async fn recorded_v0_traffic_comes_whole_and_in_order() -> Verdict {
    let recording = recording::named("v0-steady")?;
    let server = Child::start(&[
        // Writers trickle and stall, each at its own pace.
        "--reorder-window=10s",
        "--v0-replay-window=60s",
    ])
    .await?;
    let writers = Proxy::start(server.addresses().listen).await?;
    let readers = Proxy::start(server.addresses().listen).await?;
    readers.pass(Way::ToServer, TRICKLING);
    let (from_readers, from_writers) = (readers.url(), writers.url());
    tokio::select! {
        run = every_reader_gets_an_unbroken_run(&from_readers, &from_writers, &recording) => run,
        () = changes(&writers, Way::ToServer, &[TRICKLING, Passing::Held, LATE]) => unreachable!("it has no end"),
        () = changes(&readers, Way::ToClient, &[Passing::Held, LATE, TRICKLING]) => unreachable!("it has no end"),
    }
}

#[tokio::test]
async fn a_v1_client_hears_everything_in_order() -> Verdict {
    let server = Child::start::<&str>(&[]).await?;
    let ledger = Ledger::new(Diffs::Numbered { bytes: 300 });
    let mut proxies = Vec::new();
    let mut readers = Vec::new();
    for (name, passing) in [("late", LATE), ("trickling", TRICKLING), ("stalling", LATE)] {
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
    proxy.pass(Way::ToServer, TRICKLING);
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
        () = changes(&proxies[2], Way::ToClient, &[Passing::Held, LATE]) => unreachable!("it has no end"),
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
        assert_eq!(account.diffs, DIFFS, "{}", reader.name());
    }
    Ok(())
}
