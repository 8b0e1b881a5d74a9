//! What has to be so when all trouble is over.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::{Actor, NEW, Stage};
use crate::simulation::process::{Order, Process};

/// After it, everybody is told within this: the longest of the clients'
/// delays, both ends' keepalives and heartbeats, and a drain.
const PEACE: Duration = Duration::from_secs(30);
/// After the last publishes.
const LAST: Duration = Duration::from_secs(5);
/// After the last client: aged logs, and connections that linger.
const EMPTY: Duration = Duration::from_secs(30);

impl Stage {
    /// Peace: nothing is wrong any more, and nobody publishes. Then everybody
    /// has to know where each shard is.
    pub(super) async fn judge(mut self) {
        self.healings.clear();
        self.net.heal();
        self.world.saw(format_args!("peace"));
        if self.upgrade {
            // If it has not been yet.
            self.fence();
        }
        for at in 0..self.cast.len() {
            self.order(at, Order::Quiet).await;
        }
        sleep(PEACE).await;
        for fleet in &self.fleets {
            fleet.check_bounds().await;
        }
        let cast = self.survivors().await;
        // v0 cannot announce what was lost with a connection, nor be told of
        // what left the log.
        let mut heads = BTreeMap::new();
        for (process, _) in cast.iter().filter(|(process, _)| !process.is_v0()) {
            for (shard, pushed) in process.pushed() {
                let head = heads.entry(shard).or_insert(0);
                *head = pushed.max(*head);
            }
        }
        for (process, _) in cast.iter().filter(|(process, _)| !process.is_v0()) {
            process.check_knows(&heads, "in peace");
        }
        self.resume(cast);
        for at in 0..self.cast.len() {
            self.order(at, Order::Last).await;
            sleep(Duration::from_millis(20)).await;
        }
        sleep(LAST).await;
        let heads: BTreeMap<_, _> = self
            .shards
            .iter()
            .map(|&shard| (shard, self.world.head(shard)))
            .collect();
        let cast = self.survivors().await;
        for (process, _) in &cast {
            process.check_knows(&heads, "after the last publishes");
        }
        for (home, fleet) in self.fleets.iter().enumerate() {
            let there = cast.iter().filter(|(process, _)| process.is_at(home));
            let expected: usize = there.map(|(process, _)| process.subscriptions()).sum();
            if let Some(metrics) = fleet.scrape().await {
                let held = metrics.get("persist_pubsub_subscriptions").copied();
                if held != Some(expected as f64) {
                    self.world.violated(
                        "isolation",
                        format_args!("{held:?} subscriptions are held, {expected} wanted"),
                    );
                }
            }
        }
        drop(cast);
        sleep(EMPTY).await;
        for fleet in &self.fleets {
            fleet.check_empty().await;
        }
    }

    /// For certain: waits until there is room for it.
    async fn order(&mut self, at: usize, order: Order) {
        if let Some(actor) = &self.cast[at] {
            // One that has ended has said why.
            let _ = actor.orders.send(order).await;
        }
    }

    /// Everybody stops where they are, and those that are fenced out for ever.
    async fn survivors(&mut self) -> Vec<(Process, usize)> {
        let cast = self.gather().await;
        let fenced = |process: &Process| self.upgrade && process.generation() < NEW;
        let (fenced, survivors): (Vec<_>, Vec<_>) =
            cast.into_iter().partition(|(process, _)| fenced(process));
        for (process, _) in fenced {
            process.check_fenced();
        }
        survivors
    }

    /// Everybody stops where they are.
    async fn gather(&mut self) -> Vec<(Process, usize)> {
        let mut gathered = Vec::new();
        for (at, place) in self.cast.iter_mut().enumerate() {
            if let Some(actor) = place.take() {
                drop(actor.orders);
                if let Ok(process) = actor.task.await {
                    gathered.push((process, at));
                }
            }
        }
        gathered
    }

    /// And goes on.
    fn resume(&mut self, cast: Vec<(Process, usize)>) {
        for (process, at) in cast {
            let (orders, receiver) = mpsc::channel(64);
            let task = tokio::spawn(process.live(receiver));
            self.cast[at] = Some(Actor { orders, task });
        }
    }
}
