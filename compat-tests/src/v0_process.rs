//! The model of a deployed process that speaks v0: a state cache over the
//! store that applies the diff which follows its state, discards the others,
//! polls, and comes back after a lost connection as slowly as the real one.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use persist_pubsub_proto::ShardId;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use crate::hole::Hole;
use crate::ledger::Ledger;
use crate::recording::Push;
use crate::v0_client::{Connection, Host, Order, Orders, POLL};
use crate::v0_peer::{KeepAlive, PeerError};
use crate::wait::{TimedOut, within};

/// A process at work. Dropping it ends its connection.
#[derive(Debug)]
pub struct V0Process {
    name: String,
    ledger: Ledger,
    orders: Orders,
    account: watch::Sender<Account>,
    task: JoinHandle<()>,
}

/// What a process has, and what it cost.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// The states of its shards.
    pub states: BTreeMap<ShardId, u64>,
    /// Diffs written.
    pub pushes: u64,
    /// The highest that was written, by shard.
    pub wrote: BTreeMap<ShardId, u64>,
    /// Diffs received.
    pub diffs: u64,
    /// Diffs discarded because something before them was missing.
    pub early: u64,
    /// Diffs that are not what was committed.
    pub altered: u64,
    /// Shards of which a poll found something that no push had brought, while
    /// there was a connection.
    pub polled: u64,
    /// Whether there is a connection.
    pub connected: bool,
    /// Connections that were lost.
    pub lost: u64,
    /// The largest hole.
    pub hole: Hole,
    /// What was committed but had not come when a connection ended.
    pub tail: Hole,
    /// The longest time without a connection.
    pub deaf: Duration,
}

impl Account {
    /// Whether the state of every shard has reached its head.
    #[must_use]
    pub fn reached(&self, heads: &BTreeMap<ShardId, u64>) -> bool {
        let head = |shard| heads.get(shard).copied().unwrap_or(0);
        self.states
            .iter()
            .all(|(shard, state)| *state >= head(shard))
    }

    fn receive(&mut self, push: &Push, ledger: &Ledger) {
        let Some(state) = self.states.get_mut(&push.shard) else {
            return;
        };
        self.diffs += 1;
        if push.diff != ledger.diff(push.shard, push.seqno) {
            self.altered += 1;
        }
        if push.seqno == *state + 1 {
            *state = push.seqno;
            self.hole.waited(ledger.age(push.shard, push.seqno));
        } else if push.seqno > *state {
            self.early += 1;
        }
    }

    /// Reads a shard's state in the store. Whether that brought anything.
    fn fetch(&mut self, shard: ShardId, ledger: &Ledger) -> bool {
        let head = ledger.head(shard);
        let Some(state) = self.states.get_mut(&shard).filter(|state| **state < head) else {
            return false;
        };
        let age = ledger.age(shard, *state + 1);
        self.hole.fetched(head - *state, age);
        *state = head;
        true
    }
}

impl V0Process {
    /// Starts one that follows `shards`. It connects by itself.
    #[must_use]
    pub fn start(
        name: &str,
        url: &str,
        keep_alive: Option<KeepAlive>,
        ledger: &Ledger,
        shards: impl IntoIterator<Item = ShardId>,
    ) -> Self {
        let account = Account {
            states: ledger.heads(shards),
            ..Account::default()
        };
        let account = watch::Sender::new(account);
        let (orders, connection) = Connection::new(url, name, keep_alive);
        let process = Process {
            ledger: ledger.clone(),
            account: account.clone(),
            deaf_since: Mutex::new(Instant::now()),
        };
        let live = async move {
            tokio::select! {
                () = poll(&process.ledger, &process.account) => {}
                () = connection.run(&process) => {}
            }
        };
        Self {
            name: name.to_owned(),
            ledger: ledger.clone(),
            orders,
            account,
            task: tokio::spawn(live),
        }
    }

    /// Commits the next diff of a shard, and pushes it if it can.
    pub fn write(&self, shard: ShardId) {
        let mut push = None;
        self.account.send_modify(|account| {
            let (seqno, diff) = self.ledger.append(shard);
            if let Some(state) = account.states.get_mut(&shard) {
                *state = seqno;
            }
            account.pushes += 1;
            account.wrote.insert(shard, seqno);
            push = Some(Push { shard, seqno, diff });
        });
        if let Some(push) = push {
            self.orders.give(Order::Push(push));
        }
    }

    /// What it has at this moment.
    #[must_use]
    pub fn account(&self) -> Account {
        self.account.borrow().clone()
    }

    /// The name it was started with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until the account is as wanted.
    ///
    /// # Errors
    /// It does not come to that.
    pub async fn wait(
        &self,
        what: &str,
        wanted: impl FnMut(&Account) -> bool,
    ) -> Result<(), TimedOut> {
        let mut changes = self.account.subscribe();
        // This process holds the sending half: the wait ends only so.
        let _ = within(what, changes.wait_for(wanted)).await?;
        Ok(())
    }

    /// Waits until every shard has reached its head, by a diff or a poll.
    ///
    /// # Errors
    /// It does not.
    pub async fn reach(&self, heads: &BTreeMap<ShardId, u64>) -> Result<(), TimedOut> {
        let what = format!("{} to reach the heads of its shards", self.name);
        self.wait(&what, |account| account.reached(heads)).await
    }
}

impl Drop for V0Process {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The process, as its connection sees it.
struct Process {
    ledger: Ledger,
    account: watch::Sender<Account>,
    /// Since when there is no connection.
    deaf_since: Mutex<Instant>,
}

impl Host for Process {
    fn shards(&self) -> Vec<ShardId> {
        self.account.borrow().states.keys().copied().collect()
    }

    async fn refresh(&self, shard: ShardId) {
        self.account.send_modify(|account| {
            account.fetch(shard, &self.ledger);
        });
    }

    fn hear(&self, push: Push) {
        self.account
            .send_modify(|account| account.receive(&push, &self.ledger));
    }

    fn connected(&self) {
        let deaf = self.deaf_since().elapsed();
        self.account.send_modify(|account| {
            account.connected = true;
            account.deaf = account.deaf.max(deaf);
        });
    }

    fn lost(&self, _: &PeerError) {
        *self.deaf_since() = Instant::now();
        self.account.send_modify(|account| {
            if account.connected {
                account.connected = false;
                account.lost += 1;
            }
            for (shard, state) in &account.states {
                let missing = self.ledger.head(*shard).saturating_sub(*state);
                if missing > 0 {
                    let age = self.ledger.age(*shard, *state + 1);
                    account.tail.fetched(missing, age);
                }
            }
        });
    }
}

impl Process {
    fn deaf_since(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.deaf_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the shards that have not moved for as long as a poll takes.
async fn poll(ledger: &Ledger, account: &watch::Sender<Account>) {
    // The states at the last poll: one that has moved since needs none.
    let mut before = BTreeMap::new();
    let mut ticks = tokio::time::interval_at(Instant::now() + POLL, POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        account.send_modify(|account| {
            let still: Vec<_> = account
                .states
                .iter()
                .filter(|(shard, state)| before.get(*shard) == Some(*state))
                .map(|(shard, _)| *shard)
                .collect();
            for shard in still {
                if account.fetch(shard, ledger) && account.connected {
                    account.polled += 1;
                }
            }
            before.clone_from(&account.states);
        });
    }
}
