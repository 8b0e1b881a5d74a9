//! Connections that are cut without a FIN, in either direction or both: each
//! end notices within its own bounds, the server takes the subscriptions
//! back, and clients resume without loss.

use std::time::Duration;

use persist_pubsub_compat_tests::child::Child;
use persist_pubsub_compat_tests::ledger::{Diffs, Ledger};
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::proxy::{Cut, Proxy, Way};
use persist_pubsub_compat_tests::v0_peer::KeepAlive;
use persist_pubsub_compat_tests::v0_process::V0Process;
use persist_pubsub_compat_tests::v1_process::V1Process;
use persist_pubsub_compat_tests::wait::until;
use persist_pubsub_proto::ShardId;
use tokio::time::Instant;

use super::{Verdict, quick_client};

const SHARD: ShardId = ShardId::new([0x40; 16]);
const WRITE_EVERY: Duration = Duration::from_millis(20);

/// One way to be cut, and who is behind it.
struct Case {
    cut: Cut,
    proxy: Proxy,
    v1: V1Process,
    v0: V0Process,
}

#[tokio::test]
async fn both_ends_of_a_connection_cut_without_fin_notice() -> Verdict {
    let server = Child::start(&[
        "--keepalive=1s",
        "--keepalive-timeout=2s",
        "--heartbeat-interval=1s",
    ])
    .await?;
    let operator = Operator::connect(&server).await?;
    let ledger = Ledger::new(Diffs::Numbered { bytes: 500 });
    let keep_alive = KeepAlive {
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(2),
    };
    let writer = V1Process::start("writer", quick_client(&server.url())?, &ledger);
    let mut cases = Vec::new();
    for cut in [
        Cut::Silent(Way::ToServer),
        Cut::Silent(Way::ToClient),
        Cut::SilentBoth,
    ] {
        let proxy = Proxy::start(server.addresses().listen).await?;
        let config = quick_client(&proxy.url())?;
        let config = config.keepalive(keep_alive.interval, keep_alive.timeout);
        let v1 = V1Process::start(&format!("v1 {cut:?}"), config, &ledger);
        v1.follow(SHARD);
        let name = format!("v0 {cut:?}");
        let v0 = V0Process::start(&name, &proxy.url(), Some(keep_alive), &ledger, [SHARD]);
        cases.push(Case { cut, proxy, v1, v0 });
    }
    let subscribed = cases.len() as u64 * 2;
    let all_subscribed = async || {
        let shards = operator.shards().await.ok()?;
        (shards.first()?.subscribers == subscribed).then_some(())
    };
    until("everybody to be subscribed", all_subscribed).await?;
    writer.write(SHARD);
    for case in &cases {
        // From here on what they have came from the server.
        case.v1.reach(&ledger.heads([SHARD])).await?;
        case.v0.reach(&ledger.heads([SHARD])).await?;
        case.v1.mark();
    }
    let first = ledger.head(SHARD);
    let old: Vec<u64> = operator
        .sessions()
        .await?
        .iter()
        .filter(|s| s.caller_id != "writer")
        .map(|s| s.session_id)
        .collect();
    let fetches: Vec<_> = cases.iter().map(|case| case.v1.account().fetches).collect();

    let writing = async {
        let mut beats = tokio::time::interval(WRITE_EVERY);
        loop {
            beats.tick().await;
            writer.write(SHARD);
        }
    };
    let noticing = async {
        for case in &cases {
            case.proxy.cut(case.cut);
        }
        let cut = Instant::now();
        until("the server to have taken all of them back", async || {
            let sessions = operator.sessions().await.ok()?;
            let left = sessions.iter().any(|s| old.contains(&s.session_id));
            (!left).then_some(())
        })
        .await?;
        println!("the server had noticed every cut after {:?}", cut.elapsed());
        for case in &cases {
            let back = "a v1 client to have noticed, and to be back";
            case.v1.wait(back, |a| a.disconnected > 0 && a.up).await?;
        }
        println!("the v1 clients were back after {:?}", cut.elapsed());
        for case in &cases {
            let back = "a v0 client to have noticed, and to be back";
            case.v0.wait(back, |a| a.lost > 0 && a.connected).await?;
        }
        println!("the v0 clients were back after {:?}", cut.elapsed());
        // The subscriptions of now, and none of before.
        until("everybody to be subscribed once", all_subscribed).await?;
        Ok::<_, super::Failure>(())
    };
    tokio::select! {
        noticed = noticing => noticed?,
        () = writing => unreachable!("it has no end"),
    }

    let heads = ledger.heads([SHARD]);
    let written = ledger.head(SHARD) - first;
    for (case, before) in cases.iter().zip(fetches) {
        case.v1.reach(&heads).await?;
        case.v0.reach(&heads).await?;
        let account = case.v1.account();
        println!(
            "  {:?}: of {written} diffs, largest hole {}",
            case.cut, account.hole
        );
        assert!(
            account.violations.is_empty(),
            "{:?}",
            account.first_violations
        );
        // Everything came, over the second session what the first lost.
        assert_eq!(account.fetches, before, "{:?}", case.cut);
        assert_eq!(account.gaps, 0, "{:?}", case.cut);
        let v0 = case.v0.account();
        assert_eq!((v0.early, v0.altered), (0, 0), "{:?}", case.cut);
    }
    Ok(())
}
