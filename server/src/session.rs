//! One client's stream: what it may do, what it holds, and that it gives back
//! what it held, however it ends.

mod lines;
mod shared;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::SystemTime;

use persist_pubsub_proto::ShardId;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::access::Caller;
use crate::environment::Environment;
use crate::error::{EndReason, Refusal, RefusalCode};
use crate::fence::Token;
use crate::frame::{Publication, Response, Wire};
use crate::mailbox::Mailbox;
use crate::metrics::Timed;
use crate::outbox::{Batch, Form, Frames, Outbox, Output, When};
use crate::registry::Subscriber;
use crate::service::v1;
use crate::topic::{Reader, Start};

pub(crate) use shared::{Address, Mode, Profile, SessionLimits, Shared, Traffic};

/// Names a session in this run of the server. Never 0.
pub(crate) type SessionId = u64;

/// A client's stream. Shared by the task that reads the client and by the
/// body that the socket is fed from.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) wire: Wire,
    pub(crate) address: Address,
    pub(crate) connected_at: SystemTime,
    began: Instant,
    pub(crate) traffic: Traffic,
    /// Who speaks, as far as the server let it in.
    pub(crate) caller: Caller,
    profile: OnceLock<Profile>,
    /// Whether it may not publish: until it has said who it is, and then as it
    /// asks for.
    read_only: AtomicBool,
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
    outbox: Mutex<Outbox>,
    /// When something was last sent to the client, for heartbeats.
    sent_at: Mutex<Instant>,
    /// Answers have been sent: there may be room for more.
    answered: Notify,
    /// The stream is to end: the reader stops.
    ending: Notify,
    /// The body is gone: nothing can be sent any more.
    closed: Notify,
}

impl Session {
    /// One of a caller that was admitted.
    pub(crate) fn of(
        caller: Caller,
        id: SessionId,
        wire: Wire,
        address: Address,
        shared: Arc<Shared>,
    ) -> Arc<Self> {
        let form = match address {
            Address::Network(_) => Form::Frames,
            Address::InProcess => Form::Messages,
        };
        Arc::new(Self {
            id,
            wire,
            address,
            connected_at: shared.clock.now(),
            began: Instant::now(),
            traffic: Traffic::default(),
            caller,
            profile: OnceLock::new(),
            read_only: AtomicBool::new(true),
            mailbox: Arc::default(),
            outbox: Mutex::new(Outbox::new(Reader { wire, session: id }, form)),
            sent_at: Mutex::new(Instant::now()),
            answered: Notify::new(),
            ending: Notify::new(),
            closed: Notify::new(),
            shared,
        })
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Who the client is, once it has said so.
    pub(crate) fn profile(&self) -> Option<&Profile> {
        self.profile.get()
    }

    /// The client has said who it is: from now on it counts as connected.
    /// False: its generation is fenced out, the stream ends, and nothing is
    /// taken from it. `welcome` is told before anything else, if it is let in.
    pub(crate) fn introduce(
        self: &Arc<Self>,
        profile: Profile,
        mode: Mode,
        welcome: Option<Response>,
    ) -> bool {
        let fences = &self.shared.fences;
        let environment = Arc::clone(&profile.environment);
        let barred = |generation| fences.bars(environment.name(), self.wire, generation);
        // Before it counts: one that knocks costs neither a place nor a line.
        if let Some(token) = barred(profile.generation) {
            self.refuse(token, &profile);
            return false;
        }
        if let Some(welcome) = welcome {
            self.answer(welcome);
        }
        self.log_connected(&profile);
        self.set_mode(mode);
        let generation = profile.generation;
        if self.profile.set(profile).is_ok() {
            // The stream may be gone already, and `close` be done: whichever
            // of the two comes to the lock last sees the other.
            let outbox = self.outbox();
            if !outbox.is_ended() {
                self.shared.census.enter(Arc::clone(self));
            }
        }
        // A fence is set first and looks through the census then; this
        // session enters the census first and looks at the fence then. One of
        // the two sees the other.
        match barred(generation) {
            Some(token) => {
                if self.fence(token) {
                    fences.caught();
                }
                false
            }
            None => true,
        }
    }

    /// Ends the stream of a client that is below the fence, as it comes.
    fn refuse(&self, token: Token, profile: &Profile) {
        self.fence(token);
        self.shared.fences.refused(token, self, profile);
    }

    /// Ends the stream because its generation is below the fence, and says so.
    /// From the return on nothing that it publishes is accepted: a publication
    /// under way is done, or will find the session fenced. False: it was fenced
    /// before.
    pub(crate) fn fence(&self, token: Token) -> bool {
        let told = match self.wire {
            Wire::V0 => None,
            Wire::V1 => Some(v1::fenced(token)),
        };
        let fenced = self
            .outbox()
            .fence(told, EndReason::Fenced(token.to_string()));
        self.mailbox.wake();
        self.ending.notify_one();
        self.answered.notify_one();
        fenced
    }

    /// Whether the client is being sent away: what it says is passed over.
    pub(crate) fn is_fenced(&self) -> bool {
        self.outbox().is_fenced()
    }

    /// Whether the client may publish.
    pub(crate) fn mode(&self) -> Mode {
        if self.read_only.load(Ordering::Relaxed) {
            Mode::ReadOnly
        } else {
            Mode::ReadWrite
        }
    }

    /// Lets the client publish, or lets it no more. To be called by its reader
    /// alone: its messages are taken one after the other.
    pub(crate) fn set_mode(&self, mode: Mode) {
        self.read_only
            .store(mode == Mode::ReadOnly, Ordering::Relaxed);
    }

    fn environment(&self) -> Result<&Arc<Environment>, Refusal> {
        self.profile()
            .map(|p| &p.environment)
            .ok_or_else(|| Refusal::new(RefusalCode::HelloRequired, "no Hello yet"))
    }

    /// Takes what the client publishes, or refuses it where that is too much
    /// for its caller.
    pub(crate) fn publish(&self, publication: Publication) -> Result<(), Refusal> {
        let caller = &self.caller;
        caller
            .may_publish()
            .and_then(|()| caller.pay(&publication))
            .map_err(|r| r.shard(publication.shard).seqno(publication.seqno))?;
        self.take(publication)
    }

    /// As `publish`, and waits where that is too much for its caller. What
    /// waits when the stream ends is dropped.
    pub(crate) async fn publish_slowed(&self, publication: Publication) -> Result<(), Refusal> {
        self.caller.may_publish()?;
        if let Some(mut payment) = self.caller.payment(&publication) {
            while let Some((until, _)) = payment.advance() {
                tokio::select! {
                    biased;
                    () = self.ending() => {
                        // The reader waits for it too.
                        self.ending.notify_one();
                        return Ok(());
                    }
                    () = sleep_until(until) => {}
                }
            }
        }
        self.take(publication)
    }

    fn take(&self, publication: Publication) -> Result<(), Refusal> {
        let now = Instant::now();
        let _timed = Timed::new(&self.shared.metrics.push, now);
        self.traffic
            .count_publication(now.duration_since(self.began));
        let environment = self.environment()?;
        let (shard, seqno) = (publication.shard, publication.seqno);
        // Held over the publication: the cursor passes the session's own diff
        // in the same step, so that no reading in between can miss it.
        let mut outbox = self.outbox();
        if outbox.is_fenced() {
            return Ok(());
        }
        let name = outbox.name_of(shard);
        let slot = name.and_then(|name| outbox.slot(name));
        let own = slot.as_ref().map(|s| (&s.topic, s.index));
        let verdict = self
            .shared
            .registry
            .publish(environment, publication, self.id, own, now)?;
        let own_ranges = name.map_or(0, |name| outbox.published_own(name, seqno, verdict));
        drop(outbox);
        if own_ranges > self.shared.limits.max_own_ranges {
            // Neither its memory nor what it is told may grow wrong: it comes
            // back, and resumes where it is.
            self.end(EndReason::TooFarBehind, When::Answered);
        }
        Ok(())
    }

    /// Subscribes to some shards, each from its start on. Where the server
    /// takes no more shards, those before are taken. Calls `answer` with each
    /// shard's head, and with what is gone already, before any diff of it can
    /// be sent; what `answer` returns goes out first.
    ///
    /// Holds the session's lock throughout: keep the batch small.
    pub(crate) fn subscribe(
        &self,
        shards: &[(ShardId, Start)],
        answer: impl FnOnce(&[Answer]) -> Vec<Response>,
    ) -> Result<(), Refusal> {
        let now = Instant::now();
        let _timed = Timed::new(&self.shared.metrics.subscribe, now);
        let environment = self.environment()?;
        let mut outbox = self.outbox();
        if outbox.is_ended() {
            // What the client sent before it went: nobody would give the
            // subscriptions back.
            return Ok(());
        }
        outbox.reserve(shards.len());
        let mut answers = Vec::with_capacity(shards.len());
        let mut refused = None;
        for &(shard, start) in shards {
            if let Some(slot) = outbox.slot_of(shard) {
                let head = slot.topic.head();
                if matches!(start, Start::Replay) {
                    slot.replay(&self.shared.registry, now);
                }
                answers.push(Answer {
                    shard,
                    head,
                    gap: None,
                });
                continue;
            }
            if let Err(refusal) = self.caller.subscribed() {
                refused = Some(refusal);
                break;
            }
            let slot = outbox.next_slot();
            match self.shared.registry.subscribe(
                environment,
                shard,
                Subscriber {
                    session: self.id,
                    mailbox: &self.mailbox,
                    slot,
                },
                start,
                now,
            ) {
                Ok(subscribed) => {
                    let joined = subscribed.joined;
                    answers.push(Answer {
                        shard,
                        head: joined.head,
                        gap: joined.gap,
                    });
                    outbox.add(subscribed.topic, joined.index, joined.cursor);
                }
                Err(refusal) => {
                    self.caller.unsubscribed(1);
                    refused = Some(refusal);
                    break;
                }
            }
        }
        for told in answer(&answers) {
            outbox.push_control(told);
        }
        drop(outbox);
        self.mailbox.wake();
        refused.map_or(Ok(()), Err)
    }

    /// Fails if the session, or its caller, may not have so many subscriptions
    /// more.
    pub(crate) fn room_for(&self, shards: &[(ShardId, Start)]) -> Result<(), Refusal> {
        let max = self.shared.limits.max_subscriptions;
        let mut outbox = self.outbox();
        let have = outbox.subscriptions();
        if have + shards.len() <= max && !self.caller.is_limited() {
            return self.caller.may_subscribe(0);
        }
        // Those subscribed already do not count twice.
        let fresh = shards
            .iter()
            .filter(|(shard, _)| outbox.slot_of(*shard).is_none())
            .count();
        drop(outbox);
        if have + fresh <= max {
            return self.caller.may_subscribe(fresh);
        }
        Err(Refusal::new(
            RefusalCode::TooManySubscriptions,
            format!(
                "{have} subscriptions and {fresh} more would be above {max} (--max-subscriptions-per-session)"
            ),
        ))
    }

    /// Gives subscriptions back; those that there are not are passed over.
    pub(crate) fn unsubscribe(&self, shards: &[ShardId]) {
        let _timed = Timed::new(&self.shared.metrics.unsubscribe, Instant::now());
        let mut outbox = self.outbox();
        for &shard in shards {
            if let Some(slot) = outbox.remove(shard) {
                self.caller.unsubscribed(1);
                self.shared
                    .registry
                    .unsubscribe(&slot.topic, slot.index, self.id);
            }
        }
    }

    /// Queues an answer, behind those that wait already and before all diffs.
    pub(crate) fn answer(&self, answer: Response) {
        self.outbox().push_control(answer);
        self.mailbox.wake();
    }

    /// Waits until the client has read its answers, if too many wait.
    pub(crate) async fn room_to_answer(&self) {
        let max = self.shared.limits.max_control_frames;
        let room = || {
            let outbox = self.outbox();
            outbox.control_frames() < max || outbox.is_ending()
        };
        if room() {
            return;
        }
        self.shared.metrics.control_full.inc();
        while !room() {
            // The permit of a notification that came before the wait is kept.
            self.answered.notified().await;
        }
    }

    /// Completes when the stream has been ended by somebody else than the
    /// reader, or is gone.
    pub(crate) async fn ending(&self) {
        self.ending.notified().await;
    }

    /// Ends the stream; the first reason stands.
    pub(crate) fn end(&self, reason: EndReason, when: When) {
        self.outbox().end(reason, when);
        self.mailbox.wake();
        self.ending.notify_one();
        self.answered.notify_one();
    }

    /// What goes to the socket next.
    pub(crate) fn poll_frames(&self, cx: &Context<'_>) -> Poll<Output<Frames>> {
        let output = self.outbox().poll_frames(
            cx,
            &self.mailbox,
            &self.shared.registry,
            &self.shared.metrics,
            self.shared.clock.unix_nanos(),
        );
        if let Poll::Ready(Output::Batch(batch)) = &output {
            self.handed_over(batch);
        }
        output
    }

    /// What a reader in this process gets next.
    pub(crate) fn poll_messages(&self, cx: &Context<'_>) -> Poll<Output<VecDeque<Response>>> {
        let output = self.outbox().poll_messages(
            cx,
            &self.mailbox,
            &self.shared.registry,
            &self.shared.metrics,
            self.shared.clock.unix_nanos(),
        );
        if let Poll::Ready(Output::Batch(batch)) = &output {
            self.handed_over(batch);
        }
        output
    }

    fn handed_over<T>(&self, batch: &Batch<T>) {
        let traffic = &self.traffic;
        let bytes = batch.bytes as u64;
        traffic.bytes_out.fetch_add(bytes, Ordering::Relaxed);
        traffic.diffs_out.fetch_add(batch.diffs, Ordering::Relaxed);
        traffic.missed.fetch_add(batch.missed, Ordering::Relaxed);
        *self.sent() = Instant::now();
        self.answered.notify_one();
    }

    fn sent(&self) -> MutexGuard<'_, Instant> {
        self.sent_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When something was last handed to the socket.
    pub(crate) fn sent_at(&self) -> Instant {
        *self.sent()
    }

    /// Whether something waits for the client to read it.
    pub(crate) fn is_behind(&self) -> bool {
        let outbox = self.outbox();
        outbox.control_frames() > 0 || outbox.behind(&self.mailbox).0 > 0
    }

    pub(crate) fn subscriptions(&self) -> usize {
        self.outbox().subscriptions()
    }

    /// When its stream came.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// When the client last published.
    pub(crate) fn published_at(&self) -> Option<Instant> {
        self.began.checked_add(self.traffic.published()?)
    }

    /// How many shards have something that the client has not taken, and since
    /// when the longest-waiting of them has.
    pub(crate) fn behind(&self) -> (usize, Option<Instant>) {
        self.outbox().behind(&self.mailbox)
    }

    /// Completes when the stream to the client is gone.
    pub(crate) async fn closed(&self) {
        self.closed.notified().await;
    }

    /// The stream to the client is gone: gives everything back. Called once,
    /// when the body is dropped, which is how every stream ends; if nobody
    /// ended it before, the client has gone.
    fn close(&self) {
        let _timed = Timed::new(&self.shared.metrics.cleanup, Instant::now());
        let (slots, reason) = {
            let mut outbox = self.outbox();
            let reason = outbox.reason();
            (outbox.clear(), reason)
        };
        let subscriptions = slots.len();
        self.caller.unsubscribed(subscriptions);
        for slot in slots {
            self.shared
                .registry
                .unsubscribe(&slot.topic, slot.index, self.id);
        }
        self.shared
            .metrics
            .ended
            .with_label_values(&[reason.label()])
            .inc();
        self.shared.census.leave(self.id);
        if let Some(profile) = self.profile() {
            self.log_ended(profile, &reason, subscriptions);
        }
        self.shared.census.release();
        self.ending.notify_one();
        self.answered.notify_one();
        self.closed.notify_one();
    }
}

/// What a subscription is answered with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) shard: ShardId,
    /// The highest seqno accepted.
    pub(crate) head: Option<u64>,
    /// What was asked for and is gone.
    pub(crate) gap: Option<(u64, u64)>,
}

/// Closes its session when dropped: owned by the body, and so by whatever
/// owns the stream.
#[derive(Debug)]
pub(crate) struct SessionGuard(pub(crate) Arc<Session>);

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests;
