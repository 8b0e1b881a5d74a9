//! SIGSTOP: the server stands still for 20 s and goes on, as a process does
//! on a machine that was suspended. Clients that wait for it and clients that
//! give it up come to the same.

use std::time::Duration;

use persist_pubsub_client::Config;
use persist_pubsub_compat_tests::child::Child;
use persist_pubsub_compat_tests::ledger::{Diffs, Ledger};
use persist_pubsub_compat_tests::v0_peer::KeepAlive;
use persist_pubsub_compat_tests::v0_process::V0Process;
use persist_pubsub_compat_tests::v1_process::V1Process;
use persist_pubsub_proto::ShardId;
use tokio::time::Instant;

use super::{Failure, Verdict, quick_client, shards};

/// How long it stands still.
const FROZEN: Duration = Duration::from_secs(20);
/// How long there is traffic before and after.
const AROUND: Duration = Duration::from_secs(1);
const WRITE_EVERY: Duration = Duration::from_millis(20);
const SHARDS: u64 = 8;

struct Crowd {
    v1: Vec<V1Process>,
    v0: Vec<V0Process>,
    ledger: Ledger,
    shards: Vec<ShardId>,
}

impl Crowd {
    /// Processes of both wire versions that write and follow the same shards.
    async fn meet(
        server: &Child,
        configure: impl Fn(Config) -> Config,
        keep_alive: Option<KeepAlive>,
    ) -> Result<Self, Failure> {
        let ledger = Ledger::new(Diffs::Numbered { bytes: 500 });
        let shards = shards(0xf2, SHARDS);
        let mut crowd = Self {
            v1: Vec::new(),
            v0: Vec::new(),
            ledger: ledger.clone(),
            shards: shards.clone(),
        };
        for n in 0..3 {
            let config = configure(quick_client(&server.url())?);
            let process = V1Process::start(&format!("v1-{n}"), config, &ledger);
            for &shard in &shards {
                process.follow(shard);
            }
            let name = format!("v0-{n}");
            let all = shards.iter().copied();
            let v0 = V0Process::start(&name, &server.url(), keep_alive, &ledger, all);
            crowd.v1.push(process);
            crowd.v0.push(v0);
        }
        crowd.are_connected().await?;
        Ok(crowd)
    }

    async fn are_connected(&self) -> Verdict {
        for process in &self.v1 {
            process.wait("a v1 session", |a| a.up).await?;
        }
        for process in &self.v0 {
            process.wait("a v0 session", |a| a.connected).await?;
        }
        Ok(())
    }

    async fn write_for(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut beats = tokio::time::interval(WRITE_EVERY);
        let mut turn = 0;
        while beats.tick().await < until {
            let shard = self.shards[turn % self.shards.len()];
            // By one process after the other, of both wire versions.
            let writer = turn / self.shards.len();
            if writer.is_multiple_of(4) {
                self.v0[0].write(shard);
            } else {
                self.v1[writer % self.v1.len()].write(shard);
            }
            turn += 1;
        }
    }

    async fn converge(&self) -> Verdict {
        self.are_connected().await?;
        // What v0 pushed into a connection that was given up nobody is told
        // of. The next diff says it.
        for &shard in &self.shards {
            self.v1[0].write(shard);
        }
        let heads = self.ledger.heads(self.shards.iter().copied());
        for process in &self.v1 {
            process.reach(&heads).await?;
        }
        for process in &self.v0 {
            process.reach(&heads).await?;
        }
        Ok(())
    }

    async fn freeze(&self, server: &Child, case: &str) -> Verdict {
        self.write_for(AROUND).await;
        server.signal("STOP").await?;
        self.write_for(FROZEN).await;
        server.signal("CONT").await?;
        let thawed = Instant::now();
        self.write_for(AROUND).await;
        self.converge().await?;
        println!(
            "{case}: all at their heads {:?} after SIGCONT",
            thawed.elapsed()
        );
        for process in &self.v1 {
            let account = process.account();
            println!(
                "  {}: {} sessions lost, {} diffs, {} gaps, {} resyncs, {} fetches; largest hole {}",
                process.name(),
                process.stats().lost,
                account.diffs,
                account.gaps,
                account.resyncs,
                account.fetches,
                account.hole
            );
            assert!(
                account.violations.is_empty(),
                "{:?}",
                account.first_violations
            );
        }
        for process in &self.v0 {
            let account = process.account();
            println!(
                "  {}: {} connections lost, {} diffs, {} early, {} polled; largest hole {}",
                process.name(),
                account.lost,
                account.diffs,
                account.early,
                account.polled,
                account.hole
            );
            assert_eq!(account.altered, 0, "{}", process.name());
        }
        Ok(())
    }
}

/// Both at the same time: it is mostly waiting.
#[tokio::test]
async fn everybody_comes_to_the_same_after_a_frozen_server() -> Verdict {
    tokio::try_join!(
        clients_that_wait_keep_their_sessions(),
        clients_that_give_it_up_come_back(),
    )?;
    Ok(())
}

async fn clients_that_wait_keep_their_sessions() -> Verdict {
    let patient = Duration::from_secs(60);
    let server = Child::start(&[
        "--heartbeat-interval=1m",
        "--keepalive=1m",
        "--keepalive-timeout=1m",
    ])
    .await?;
    let crowd = Crowd::meet(&server, |config| config.keepalive(patient, patient), None).await?;
    crowd.freeze(&server, "patient clients").await?;
    for process in &crowd.v1 {
        assert_eq!(process.stats().lost, 0, "{}", process.name());
    }
    for process in &crowd.v0 {
        assert_eq!(process.account().lost, 0, "{}", process.name());
    }
    Ok(())
}

async fn clients_that_give_it_up_come_back() -> Verdict {
    let second = Duration::from_secs(1);
    let server = Child::start(&[
        "--heartbeat-interval=1s",
        "--keepalive=1s",
        "--keepalive-timeout=1s",
    ])
    .await?;
    let keep_alive = KeepAlive {
        interval: second,
        timeout: second,
    };
    let configure = |config: Config| config.keepalive(second, second);
    let crowd = Crowd::meet(&server, configure, Some(keep_alive)).await?;
    crowd.freeze(&server, "impatient clients").await?;
    for process in &crowd.v1 {
        assert!(process.stats().lost > 0, "{}", process.name());
    }
    for process in &crowd.v0 {
        assert!(process.account().lost > 0, "{}", process.name());
    }
    Ok(())
}
