//! Keeps what replicas and JetStream hold together, whatever was lost on the
//! way.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use persist_pubsub_proto::backplane_v1 as wire;
use persist_pubsub_proto::backplane_v1::operator_answer::Answer;
use persist_pubsub_proto::backplane_v1::operator_question::Question;
use tokio::time::Instant;

use super::super::bucket::{self, Bucket, NotKept};
use super::super::gather::ask;
use super::super::{Peer, Peers};
use super::{Agreement, CaughtUp, digest, held, parse};
use crate::fence::Token;
use crate::generation::count;

/// How long a replica may take to say which fences it holds.
const COMPARE_WITHIN: Duration = Duration::from_secs(2);
/// How often replicas are looked for that are new.
const EVERY: Duration = Duration::from_secs(1);
/// How often this replica compares what it holds with each of the others.
const COMPARE_EVERY: Duration = Duration::from_secs(5);
/// For how long the bucket is watched before it is read anew: what NATS lost
/// without a word is found then, and what the bucket lost is put back.
const WATCH_FOR: Duration = Duration::from_secs(30);
/// Until JetStream is asked again that could not be had: at first, and when it
/// has been so for long. A user that is not permitted makes NATS say so each
/// time.
const RETRY: Duration = Duration::from_secs(5);
const MAX_RETRY: Duration = Duration::from_secs(300);

impl Agreement {
    /// Waits until the fences that JetStream has, or else the other replicas,
    /// are held here; not where nobody can be asked.
    pub(crate) async fn caught_up(&self) {
        let others = self.fleet.others.as_ref();
        if !others.is_some_and(|others| others.roll().connected) {
            return;
        }
        let mut caught_up = self.caught_up.subscribe();
        let enough = |up: &CaughtUp| up.others && (up.bucket || self.bucket.is_none());
        // Fails only when the sender is gone, and it is ours.
        let _ = caught_up.wait_for(enough).await;
    }

    /// Keeps what is held here, there and in JetStream together, until it is
    /// dropped.
    pub(crate) async fn run(&self) {
        let Some(others) = &self.fleet.others else {
            return;
        };
        tokio::join!(self.compare_with(&**others), self.keep_bucket(&**others));
    }

    async fn compare_with(&self, others: &dyn Peers) {
        let metrics = self.shared.fences.metrics();
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut next_all = Instant::now();
        let mut connected = false;
        // Whether each was known to hold what this one holds.
        let mut agreed: HashMap<String, bool> = HashMap::new();
        loop {
            ticks.tick().await;
            let roll = others.roll();
            if roll.connected && !connected {
                self.connected.notify_one();
            }
            connected = roll.connected;
            let all = Instant::now() >= next_all;
            if all {
                next_all = Instant::now() + COMPARE_EVERY;
            }
            let due = roll.present.iter();
            let due = due.filter(|peer| all || !agreed.contains_key(&peer.instance));
            let compared = join_all(due.map(async |peer| {
                let same = self.compare(others, peer).await;
                (peer.instance.clone(), same)
            }))
            .await;
            agreed.extend(compared);
            agreed.retain(|instance, _| roll.present.iter().any(|p| p.instance == *instance));
            let apart = agreed.values().filter(|same| !**same).count();
            metrics.unconfirmed.set(count(apart + roll.lost.len()));
            self.caught_up.send_if_modified(|up| {
                let news = connected && !up.others;
                up.others |= connected;
                news
            });
            if self.shared.fences.is_unsaved() {
                let shared = Arc::clone(&self.shared);
                self.blocking(move || shared.fences.resave()).await;
            }
        }
    }

    /// Takes in what another replica holds: whether it holds all that this one
    /// does.
    pub(super) async fn compare(&self, others: &dyn Peers, peer: &Peer) -> bool {
        let mine = held(&self.shared.fences.all());
        let question = Question::Fences(wire::FencesAsked {
            digest: digest(&mine).into(),
        });
        let theirs = match ask(others, peer, question, COMPARE_WITHIN).await {
            Ok(Answer::Fences(held)) if held.same => return true,
            Ok(Answer::Fences(held)) => held.fences,
            _ => return false,
        };
        let theirs: BTreeMap<_, _> = theirs.into_iter().filter_map(parse).collect();
        for (environment, token) in &theirs {
            self.learn(environment, *token).await;
        }
        let mine = self.shared.fences.all();
        mine.into_iter().all(|(environment, token)| {
            let held = theirs.get(&environment);
            held.is_some_and(|held| held.covers(token))
        })
    }

    /// Watches the bucket, and opens it again and again.
    async fn keep_bucket(&self, others: &dyn Peers) {
        let Some(bucket) = &self.bucket else { return };
        let mut retry = RETRY;
        loop {
            let lost = if others.roll().connected {
                self.follow(bucket).await.err()
            } else {
                Some("the backplane is not connected".to_owned())
            };
            let Some(why) = lost else {
                retry = RETRY;
                continue;
            };
            self.shared.fences.metrics().in_jetstream.set(0);
            if bucket.put(Err(why.clone())) {
                tracing::warn!(
                    why,
                    "fences are agreed between the replicas alone, and not kept in JetStream"
                );
            }
            // There is nothing to wait for at a start.
            self.caught_up.send_modify(|up| up.bucket = true);
            tokio::select! {
                () = tokio::time::sleep(retry) => retry = MAX_RETRY.min(retry * 2),
                () = self.connected.notified() => retry = RETRY,
            }
        }
    }

    /// Watches the bucket for a while.
    async fn follow(&self, bucket: &Bucket) -> Result<(), String> {
        let store = bucket.open().await?;
        let status = store.status().await.map_err(|e| bucket.explain(&e))?;
        let watch = store.watch_with_history(">").await;
        let mut entries = watch.map_err(|e| bucket.explain(&e))?;
        let mut stands = BTreeMap::new();
        // When all that stood there has been read, what is missing is put back.
        let mut read = status.values() == 0;
        let mut put_back = false;
        let copies = status.info.config.num_replicas;
        if bucket.put(Ok(store)) {
            tracing::info!(
                bucket = bucket.name(),
                copies,
                "fences are kept in JetStream"
            );
        }
        self.shared.fences.metrics().in_jetstream.set(1);
        let until = Instant::now() + WATCH_FOR;
        loop {
            if read && !put_back {
                self.put_back(bucket, &stands).await?;
                put_back = true;
                self.caught_up.send_modify(|up| up.bucket = true);
            }
            let entry = tokio::time::timeout_at(until, entries.next()).await;
            let entry = match entry {
                // It is opened anew.
                Err(_) => return Ok(()),
                Ok(Some(Ok(entry))) => entry,
                Ok(Some(Err(error))) => return Err(bucket.explain(&error)),
                Ok(None) => return Err("the watch of the bucket has ended".to_owned()),
            };
            match bucket::token(&entry) {
                Some((environment, token)) => {
                    self.learn(&environment, token).await;
                    stands.insert(environment, token);
                }
                // Deleted, by somebody else: it is put back when the bucket
                // is opened next.
                None => tracing::debug!(key = entry.key, "no fence"),
            }
            read |= entry.seen_current;
        }
    }

    /// What is held here and does not stand in the bucket is put there: it was
    /// agreed on without JetStream, or JetStream has lost it.
    async fn put_back(
        &self,
        bucket: &Bucket,
        stands: &BTreeMap<String, Token>,
    ) -> Result<(), String> {
        for (environment, token) in self.shared.fences.all() {
            let there = stands.get(&environment);
            if there.is_some_and(|there| there.covers(token)) {
                continue;
            }
            let join = |there: Option<Token>| Ok(there.map_or(token, |there| there.join(token)));
            match bucket.change(&environment, join).await {
                Ok((token, _)) => self.learn(&environment, token).await,
                Err(NotKept::Lost(why)) => return Err(why),
                Err(NotKept::Refused(_)) => {}
            }
        }
        Ok(())
    }
}
