//! The way from the server embedded in `environmentd` to the standalone one, and
//! back: some cells of the grid, and one walk over real sockets. The program
//! `migrate` walks the whole grid.

use std::collections::BTreeSet;
use std::time::Duration;

use persist_pubsub_client::{Config, Home, HomeState, Settings};
use persist_pubsub_compat_tests::child::Child;
use persist_pubsub_compat_tests::ledger::{Diffs, Ledger};
use persist_pubsub_compat_tests::simulation::migration::{Cell, Told};
use persist_pubsub_compat_tests::v1_process::V1Process;
use persist_pubsub_compat_tests::wait::until;
use persist_pubsub_server::app;
use tokio::time::interval;

use super::{Failure, Verdict, shards};

/// One cell in so many: a prime, so that every place of the grid has its turn.
const EVERY: usize = 503;

/// Who moves when, who turns back, who crashes when: every reader gets every
/// diff once and in order, and what it is told that it missed has its reason
/// in the crash. On failure: `migrate --from CELL --cells 1 --lines` tells what
/// happened.
#[test]
fn every_diff_comes_once_whoever_moves_and_whoever_crashes() -> Verdict {
    let mut told = Told::default();
    for (number, cell) in Cell::all().enumerate().step_by(EVERY) {
        let outcome = cell.run(number as u64, false)?;
        assert!(
            outcome.violations.is_empty(),
            "cell {number} {cell:?}: {:#?}",
            outcome.violations
        );
        told.add(&outcome.told);
    }
    // A walk in which nothing is written shows nothing.
    assert!(told.diffs > told.commits && told.gaps > 0);
    Ok(())
}

/// Without a crash nobody misses anything, and nobody notices a move.
#[test]
fn without_a_crash_nobody_notices() -> Verdict {
    for (number, cell) in Cell::all().enumerate() {
        if cell.crash.is_none() && number.is_multiple_of(5) {
            let outcome = cell.run(number as u64, false)?;
            assert_eq!(
                outcome.violations,
                Vec::<String>::new(),
                "{number} {cell:?}"
            );
            assert_eq!((outcome.told.resyncs, outcome.told.losses), (0, 0));
        }
    }
    Ok(())
}

/// Over real sockets: `environmentd` reaches its own server without a network,
/// a `clusterd` over TCP; both write all the while, and move there and back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_and_back_over_real_sockets() -> Verdict {
    let mut config = persist_pubsub_server::config::Config::default();
    // A busy machine stalls one writer for longer than the default.
    config.reorder_window = Duration::from_secs(10);
    let embedded = app::start(config, std::future::pending()).await?;
    let standalone = Child::start(&["--reorder-window=10s"]).await?;
    let inside = Home::in_process(embedded.in_process());
    let outside = Home::at(&embedded.data_addr().to_string())?;
    let service = Home::at(&standalone.addresses().listen.to_string())?;
    let ledger = Ledger::new(Diffs::Numbered { bytes: 200 });
    let shards = shards(0xf1, 4);
    let start = |name: &str, home: &Home| {
        let config = Config::with_homes([home.clone()]);
        V1Process::start(name, config, &ledger)
    };
    let environmentd = start("environmentd", &inside);
    let clusterd = start("clusterd", &outside);
    let processes = [(&environmentd, &inside), (&clusterd, &outside)];
    for (process, home) in processes {
        at_home(process, &[home]).await?;
    }
    // A shard's first diff says where it begins, so nobody overtakes it.
    for &shard in &shards {
        environmentd.write(shard);
    }
    until("every shard to be known", async || {
        (environmentd.stats().buffered_bytes == 0).then_some(())
    })
    .await?;
    for (process, _) in processes {
        shards.iter().for_each(|&shard| process.follow(shard));
    }
    let steps = [[true, true], [false, true], [true, true], [true, false]];
    let mut writes = interval(Duration::from_millis(2));
    for (old, new) in steps.map(|[old, new]| (old, new)) {
        for (process, home) in processes {
            let homes = [(old, home), (new, &service)];
            let homes: Vec<_> = homes.iter().filter(|h| h.0).map(|h| h.1).collect();
            let settings: Settings = process.settings();
            process.configure(settings.homes(homes.iter().map(|&home| home.clone())));
            // Both write while it moves, and until it has.
            let moving = at_home(process, &homes);
            tokio::pin!(moving);
            let mut turn = 0;
            loop {
                tokio::select! {
                    moved = &mut moving, if turn >= 100 => {
                        moved?;
                        break;
                    }
                    _ = writes.tick() => {
                        turn += 1;
                        environmentd.write(shards[turn % shards.len()]);
                        clusterd.write(shards[(turn + 1) % shards.len()]);
                    }
                }
            }
        }
    }
    let heads = ledger.heads(shards.iter().copied());
    for (process, _) in processes {
        process.reach(&heads).await?;
        let account = process.account();
        assert_eq!(account.first_violations, Vec::<String>::new());
        assert_eq!(account.disconnected, 0, "{}", process.name());
        println!(
            "{}: {} diffs, {} gaps, {} resyncs, {} fetches",
            process.name(),
            account.diffs,
            account.gaps,
            account.resyncs,
            account.fetches
        );
    }
    Ok(())
}

/// Waits until a process has a session with each of these homes and no other.
async fn at_home(process: &V1Process, homes: &[&Home]) -> Result<(), Failure> {
    let wanted: BTreeSet<String> = homes.iter().map(ToString::to_string).collect();
    let what = format!("{} to be at {wanted:?}", process.name());
    until(&what, async || {
        let homes = process.homes();
        let all = homes.len();
        let connected: BTreeSet<String> = homes
            .into_iter()
            .filter(|home| matches!(home.state, HomeState::Connected { .. }))
            .map(|home| home.home.to_string())
            .collect();
        (all == wanted.len() && connected == wanted).then_some(())
    })
    .await?;
    Ok(())
}
