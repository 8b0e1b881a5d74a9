//! The model of a process that embeds the client crate: a state cache over
//! the store, fed by events. It applies the diff that follows its state,
//! fetches when a gap or a resync says so, never polls, and holds every event
//! against the promises.

mod account;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use persist_pubsub_client::{
    Client, Config, Events, HomeStatus, Settings, Stats, Subscription, connect,
};
use persist_pubsub_proto::ShardId;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use self::account::{Account, Followed};
use crate::ledger::Ledger;
use crate::wait::{TimedOut, within};

/// A process at work. Dropping it ends its connection.
#[derive(Debug)]
pub struct V1Process {
    name: String,
    client: Client,
    ledger: Ledger,
    tokens: Mutex<BTreeMap<ShardId, Subscription>>,
    account: watch::Sender<Account>,
    task: JoinHandle<()>,
}

impl V1Process {
    /// Starts one: its client connects as `config` says.
    #[must_use]
    pub fn start(name: &str, config: Config, ledger: &Ledger) -> Self {
        let (client, events) = connect(config.client_name(name));
        let account = watch::Sender::new(Account::default());
        let task = tokio::spawn(hear(
            events,
            client.clone(),
            ledger.clone(),
            account.clone(),
        ));
        Self {
            name: name.to_owned(),
            client,
            ledger: ledger.clone(),
            tokens: Mutex::default(),
            account,
            task,
        }
    }

    /// Follows a shard: reads its state, then subscribes from there.
    pub fn follow(&self, shard: ShardId) {
        let state = self.ledger.head(shard);
        self.account.send_modify(|account| {
            account.follow(shard, state);
        });
        let token = self.client.subscribe_from(&shard, state);
        self.tokens().insert(shard, token);
    }

    /// Does not follow a shard any more.
    pub fn leave(&self, shard: ShardId) {
        self.tokens().remove(&shard);
        self.account.send_modify(|account| {
            account.shards.remove(&shard);
        });
    }

    /// Commits the next diff of a shard, and pushes it. The process's own
    /// state has it: compare-and-set told it what came before.
    pub fn write(&self, shard: ShardId) {
        let mut committed = None;
        // In one step, so that no event of a later diff comes in between.
        self.account.send_modify(|account| {
            let (seqno, diff) = self.ledger.append(shard);
            account.wrote(shard, seqno, self.client.stats().established);
            committed = Some((seqno, diff));
        });
        if let Some((seqno, diff)) = committed {
            self.client.push_diff(&shard, seqno, diff);
        }
    }

    /// Measures from here on: the largest hole, and fetches by shard.
    pub fn mark(&self) {
        self.account.send_modify(Account::mark);
    }

    /// What it has at this moment.
    #[must_use]
    pub fn account(&self) -> Account {
        self.account.borrow().clone()
    }

    /// Its client, for what else a host does with it.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The client's settings, as they were given last.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.client.settings()
    }

    /// Swaps them.
    pub fn configure(&self, settings: Settings) {
        self.client.configure(settings);
    }

    /// How the client stands with each server.
    #[must_use]
    pub fn homes(&self) -> Vec<HomeStatus> {
        self.client.homes()
    }

    /// The client's counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.client.stats()
    }

    /// The name it was started with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until every followed shard has reached its head: by a diff, a
    /// gap or a resync, for nothing polls here.
    ///
    /// # Errors
    /// It does not.
    pub async fn reach(&self, heads: &BTreeMap<ShardId, u64>) -> Result<(), TimedOut> {
        let what = format!("{} to learn where its shards stand", self.name);
        let seen = self.wait(&what, |account| account.reached(heads)).await;
        seen.map_err(|late| {
            let account = self.account();
            late.but(&format!("one is at {:?}", account.behind(heads)))
        })
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

    fn tokens(&self) -> std::sync::MutexGuard<'_, BTreeMap<ShardId, Subscription>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for V1Process {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn hear(mut events: Events, client: Client, ledger: Ledger, account: watch::Sender<Account>) {
    while let Some(event) = events.next().await {
        let session = client.stats().established;
        account.send_modify(|account| account.take(event, &ledger, session));
    }
}
