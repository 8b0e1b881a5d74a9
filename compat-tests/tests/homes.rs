//! Several homes, with real servers: processes that keep sessions with two of
//! them miss nothing and see nothing twice, whichever is killed, stalled, added
//! or left, and whatever the settings say meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use persist_pubsub_client::{Config, Home, Settings};
use persist_pubsub_compat_tests::child::Child;
use persist_pubsub_compat_tests::ledger::{Diffs, Ledger};
use persist_pubsub_compat_tests::proxy::{Passing, Proxy, Way};
use persist_pubsub_compat_tests::v1_process::{Account, V1Process};
use persist_pubsub_compat_tests::wait::until;
use persist_pubsub_proto::ShardId;
use tokio::task::JoinHandle;

use super::{Failure, Verdict, shards};

const SHARDS: u64 = 6;
const WRITERS: usize = 2;
const READERS: usize = 4;
const WRITE_EVERY: Duration = Duration::from_millis(2);
/// What is written of every shard between two steps, at least.
const ROUNDS: u64 = 30;

/// Two homes, each a server behind an address that stays.
struct Homes {
    servers: Vec<Child>,
    proxies: Vec<Proxy>,
}

impl Homes {
    async fn start() -> Result<Self, Failure> {
        let (mut servers, mut proxies) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let server = Child::start::<&str>(&[]).await?;
            proxies.push(Proxy::start(server.addresses().listen).await?);
            servers.push(server);
        }
        Ok(Self { servers, proxies })
    }

    fn home(&self, n: usize) -> Result<Home, Failure> {
        Ok(Home::at(&self.proxies[n].url())?)
    }

    fn both(&self) -> Result<[Home; 2], Failure> {
        Ok([self.home(0)?, self.home(1)?])
    }

    async fn kill(&self, n: usize) -> Verdict {
        self.servers[n].signal("KILL").await?;
        Ok(())
    }

    async fn start_again(&mut self, n: usize) -> Verdict {
        self.servers[n] = Child::start::<&str>(&[]).await?;
        self.proxies[n].switch(self.servers[n].addresses().listen);
        Ok(())
    }
}

/// Processes of these homes; the readers follow all shards from nothing.
struct Processes {
    ledger: Ledger,
    shards: Vec<ShardId>,
    /// The seqnos where the shards began, in sum.
    began: u64,
    writers: Arc<Vec<V1Process>>,
    readers: Vec<V1Process>,
}

impl Processes {
    async fn start(test: u8, homes: &[Home]) -> Result<Self, Failure> {
        let ledger = Ledger::new(Diffs::Numbered { bytes: 300 });
        let shards = shards(test, SHARDS);
        let mut all = Vec::new();
        for n in 0..WRITERS + READERS {
            let name = if n < WRITERS { "writer" } else { "reader" };
            let config = config(homes.to_vec())?;
            let process = V1Process::start(&format!("{name}-{n}"), config, &ledger);
            if n >= WRITERS {
                shards.iter().for_each(|&shard| process.follow(shard));
            }
            all.push(process);
        }
        let readers = all.split_off(WRITERS);
        let heads = ledger.heads(shards.iter().copied());
        let processes = Self {
            began: heads.values().sum(),
            ledger,
            shards,
            writers: Arc::new(all),
            readers,
        };
        processes.connected(homes.len() as u64).await?;
        for reader in &processes.readers {
            // The servers know nothing of the shards, and say so once.
            let stands = |account: &Account| account.resyncs == SHARDS;
            reader.wait("its subscriptions to stand", stands).await?;
        }
        Ok(processes)
    }

    fn all(&self) -> impl Iterator<Item = &V1Process> {
        self.writers.iter().chain(&self.readers)
    }

    async fn connected(&self, homes: u64) -> Verdict {
        self.connected_of(homes, homes).await
    }

    async fn connected_of(&self, wanted: u64, connected: u64) -> Verdict {
        for process in self.all() {
            let what = format!("{} to have {connected} of its homes", process.name());
            until(&what, async || {
                let stats = process.stats();
                (stats.homes_connected == connected && stats.homes_wanted == wanted).then_some(())
            })
            .await?;
        }
        Ok(())
    }

    /// Writes until the load is ended. Each shard has its writer: two of them,
    /// on connections of their own, overtake each other, of which a server
    /// that has waited in vain before tells at once.
    fn load(&self) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let (writers, shards) = (Arc::clone(&self.writers), self.shards.clone());
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                for (n, &shard) in shards.iter().enumerate() {
                    writers[n % WRITERS].write(shard);
                    tokio::time::sleep(WRITE_EVERY).await;
                }
            }
        });
        Load { stop, task }
    }

    /// Waits until the load has written some more of every shard.
    async fn more(&self) -> Verdict {
        let before = self.ledger.heads(self.shards.iter().copied());
        until("more writes", async || {
            let now = self.ledger.heads(self.shards.iter().copied());
            let more = |(shard, head): (&ShardId, &u64)| {
                now.get(shard).is_some_and(|now| *now >= head + ROUNDS)
            };
            before.iter().all(more).then_some(())
        })
        .await?;
        Ok(())
    }

    /// Every reader has come to where the shards are.
    async fn reached(&self) -> Verdict {
        let heads = self.ledger.heads(self.shards.iter().copied());
        for reader in &self.readers {
            reader.reach(&heads).await?;
        }
        Ok(())
    }

    /// How many diffs were written.
    fn written(&self) -> u64 {
        let heads = self.ledger.heads(self.shards.iter().copied());
        heads.values().sum::<u64>() - self.began
    }

    /// No promise was broken.
    fn assert_kept(&self) {
        for process in self.all() {
            let account = process.account();
            let first = &account.first_violations;
            assert!(first.is_empty(), "{}: {first:?}", process.name());
        }
    }

    /// Every reader was told every diff, once and in order, and nothing else.
    fn assert_every_diff_once(&self) {
        self.assert_kept();
        let written = self.written();
        for reader in &self.readers {
            let account = reader.account();
            let told = (account.diffs, account.stale, account.gaps);
            assert_eq!(told, (written, 0, 0), "{}", reader.name());
            assert_eq!(account.resyncs, SHARDS, "{}", reader.name());
        }
        println!("{written} diffs to each of {READERS} readers, each once and in order");
    }

    fn assert_connected_all_along(&self) {
        for process in self.all() {
            let account = process.account();
            let sessions = (account.connected, account.disconnected);
            assert_eq!(sessions, (1, 0), "{}", process.name());
        }
    }

    fn configure(&self, settings: impl Fn(Settings) -> Settings) {
        for process in self.all() {
            let client = process.client();
            client.configure(settings(client.settings()));
        }
    }
}

/// Writers at work.
struct Load {
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Load {
    async fn end(self) -> Verdict {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?;
        Ok(())
    }
}

fn config(homes: Vec<Home>) -> Result<Config, Failure> {
    let quick = (Duration::from_millis(20), Duration::from_millis(200));
    // A busy machine may keep one home's diffs back for longer than the
    // default: that would be a gap, as it is meant to be.
    let grace = Duration::from_secs(60);
    Ok(Config::with_homes(homes)
        .backoff(quick.0, quick.1)?
        .merge_grace(grace))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_home_is_not_noticed_and_is_caught_up() -> Verdict {
    let mut homes = Homes::start().await?;
    let processes = Processes::start(0xe1, &homes.both()?).await?;
    // Processes that have the one home alone.
    let there = V1Process::start("there", config(vec![homes.home(0)?])?, &processes.ledger);
    for &shard in &processes.shards {
        there.follow(shard);
    }
    let load = processes.load();
    processes.more().await?;
    for n in 0..2 {
        homes.kill(n).await?;
        processes.connected_of(2, 1).await?;
        processes.more().await?;
        homes.start_again(n).await?;
        processes.connected(2).await?;
        processes.more().await?;
    }
    load.end().await?;
    processes.reached().await?;
    processes.assert_every_diff_once();
    processes.assert_connected_all_along();
    // What was written while its home was away it was told of after.
    let heads = processes.ledger.heads(processes.shards.iter().copied());
    there.reach(&heads).await?;

    // A shard that is still when the home comes back.
    homes.kill(0).await?;
    processes.connected_of(2, 1).await?;
    for (n, &shard) in processes.shards.iter().enumerate() {
        processes.writers[n % WRITERS].write(shard);
    }
    processes.reached().await?;
    homes.start_again(0).await?;
    processes.connected(2).await?;
    let heads = processes.ledger.heads(processes.shards.iter().copied());
    there.reach(&heads).await?;
    processes.assert_every_diff_once();

    // Both at once: that is told, and everybody learns where the shards are.
    let load = processes.load();
    processes.more().await?;
    homes.kill(0).await?;
    homes.kill(1).await?;
    for process in processes.all() {
        let noticed = format!("{} to notice that nobody is left", process.name());
        process.wait(&noticed, |a| a.disconnected == 1).await?;
    }
    processes.more().await?;
    homes.start_again(0).await?;
    homes.start_again(1).await?;
    processes.connected(2).await?;
    load.end().await?;
    processes.reached().await?;
    processes.assert_kept();
    Ok(())
}

/// From the first home to both and to the second alone, process by process,
/// and back, while everybody writes and reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_move_from_home_to_home_and_back_one_by_one() -> Verdict {
    let homes = Homes::start().await?;
    let processes = Processes::start(0xe2, &[homes.home(0)?]).await?;
    let load = processes.load();
    processes.more().await?;
    for to in [1, 0] {
        // Each step is done by all before the next one begins.
        for (next, count) in [(homes.both()?.to_vec(), 2), (vec![homes.home(to)?], 1)] {
            // The readers first in the one direction, the writers in the other.
            let mut all: Vec<_> = processes.all().collect();
            if to == 0 {
                all.reverse();
            }
            for process in all {
                let client = process.client();
                client.configure(client.settings().homes(next.clone()));
                until(&format!("{} to have moved", process.name()), async || {
                    (client.stats().homes_connected == count).then_some(())
                })
                .await?;
            }
            processes.more().await?;
        }
    }
    load.end().await?;
    processes.reached().await?;
    processes.assert_every_diff_once();
    processes.assert_connected_all_along();
    Ok(())
}

/// From the one to the other at once: the other is there before the one goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn homes_are_replaced_at_once_in_both_directions() -> Verdict {
    let homes = Homes::start().await?;
    let processes = Processes::start(0xe3, &[homes.home(0)?]).await?;
    let load = processes.load();
    for to in [1, 0, 1] {
        let next = homes.home(to)?;
        processes.configure(|settings| settings.homes([next.clone()]));
        for process in processes.all() {
            until(&format!("{} to have moved", process.name()), async || {
                let homes = process.client().homes();
                (homes.len() == 1 && homes[0].home == next).then_some(())
            })
            .await?;
        }
        processes.more().await?;
    }
    load.end().await?;
    // Who has moved and who has not do not hear each other for a moment: of
    // that they are told, and it is all that it costs.
    processes.reached().await?;
    processes.assert_kept();
    processes.assert_connected_all_along();
    Ok(())
}

/// A home that goes silent without a word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_home_is_not_noticed() -> Verdict {
    let homes = Homes::start().await?;
    let processes = Processes::start(0xe4, &homes.both()?).await?;
    let load = processes.load();
    processes.more().await?;
    for proxy in &homes.proxies {
        proxy.pass(Way::ToClient, Passing::Held);
        processes.more().await?;
        // In the midst of the load: what one home withholds, the other tells.
        processes.reached().await?;
        proxy.pass_freely();
        processes.connected(2).await?;
        processes.more().await?;
    }
    load.end().await?;
    processes.reached().await?;
    processes.assert_every_diff_once();
    processes.assert_connected_all_along();
    Ok(())
}

/// Off and on, in the midst of everything: nobody else notices, and who was
/// away resumes where it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_are_switched_off_and_on() -> Verdict {
    let homes = Homes::start().await?;
    let processes = Processes::start(0xe5, &homes.both()?).await?;
    let load = processes.load();
    processes.more().await?;
    let (away, others) = processes.readers.split_at(2);
    for _ in 0..3 {
        for process in away {
            let client = process.client();
            client.configure(client.settings().connected(false));
        }
        for process in away {
            until(&format!("{} to be off", process.name()), async || {
                let client = process.client();
                let off = client.homes().is_empty() && client.stats().buffered_bytes == 0;
                off.then_some(())
            })
            .await?;
        }
        processes.more().await?;
        for process in away {
            let client = process.client();
            client.configure(client.settings().connected(true));
        }
        processes.connected(2).await?;
        processes.more().await?;
    }
    load.end().await?;
    processes.reached().await?;
    processes.assert_kept();
    let written = processes.written();
    for reader in others {
        let account = reader.account();
        assert_eq!((account.diffs, account.gaps), (written, 0));
    }
    for reader in away {
        let account = reader.account();
        assert_eq!((account.connected, account.disconnected), (4, 3));
    }
    Ok(())
}
