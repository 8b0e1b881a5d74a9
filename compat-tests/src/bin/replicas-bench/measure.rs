//! One round of all measurements.

use std::time::Duration;

use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::wait::until;

use super::Failure;
use super::figures::{Figures, float};
use super::fleet::{Fleet, cpu};

/// Diffs a second where CPU is measured, of ten publishers.
const RATE: usize = 5000;
/// Shards of them, and subscribers of each shard where there are several.
const SHARDS: usize = 10;
const MANY: usize = 5;
/// Subscriptions of one session at most.
const SHARDS_OF_SESSION: usize = 10_000;

pub(crate) async fn all(duration: Duration, interests: usize) -> Result<Figures, Failure> {
    let mut figures = Figures::default();
    latency(&mut figures, duration).await?;
    work(&mut figures, duration).await?;
    passing_on(&mut figures, duration).await?;
    link(&mut figures, duration).await?;
    without_interest(&mut figures, duration).await?;
    interest(&mut figures, interests).await?;
    memory(&mut figures, duration).await?;
    Ok(figures)
}

fn for_a_time(duration: Duration) -> String {
    format!("--duration={}ms", duration.as_millis())
}

async fn latency(figures: &mut Figures, duration: Duration) -> Result<(), Failure> {
    let flags = [
        "--subscribers=1".to_owned(),
        "--rate=500".to_owned(),
        for_a_time(duration),
    ];
    let one = Fleet::alone().await?.bench(0, 0, &flags).await?;
    (figures.one_p50, figures.one_p99) = (one.latency("p50"), one.latency("p99"));
    let two = Fleet::of(2).await?.bench(0, 1, &flags).await?;
    (figures.two_p50, figures.two_p99) = (two.latency("p50"), two.latency("p99"));
    Ok(())
}

/// A shard for each publisher, with so many subscribers of its own.
fn load(subscribers: usize, duration: Duration) -> Vec<String> {
    vec![
        format!("--publishers={SHARDS}"),
        format!("--shards={SHARDS}"),
        "--shards-per-subscriber=1".to_owned(),
        format!("--subscribers={}", SHARDS * subscribers),
        format!("--rate={RATE}"),
        for_a_time(duration),
    ]
}

/// What a diff costs by itself, and for each of its subscribers: from its cost
/// with one subscriber and with several.
fn apart(with_one: f64, with_many: f64) -> (f64, f64) {
    let each = (with_many - with_one) / float(MANY - 1);
    (with_one - each, each)
}

async fn work(figures: &mut Figures, duration: Duration) -> Result<(), Failure> {
    let (few, many) = (load(1, duration), load(MANY, duration));
    let one = Fleet::alone().await?.bench(0, 0, &few).await?;
    let one_many = Fleet::alone().await?.bench(0, 0, &many).await?;
    (figures.publish, figures.deliver) = apart(one.cpu_of_push(0), one_many.cpu_of_push(0));
    figures.one_cpu = one_many.number(&["server", "cpu_micros_per_delivery"]);

    let two_many = Fleet::of(2).await?.bench(0, 1, &many).await?;
    figures.two_cpu = two_many.number(&["server", "cpu_micros_per_delivery"]);
    Ok(())
}

/// What comes together on a replica's one link, and at NATS, comes many at a
/// time where it matters: so this is measured with as many as go. (A session's
/// diffs come one by one however many sessions there are.)
async fn passing_on(figures: &mut Figures, duration: Duration) -> Result<(), Failure> {
    let saturated = |subscribers| {
        let mut flags = load(subscribers, duration);
        flags.retain(|flag| !flag.starts_with("--rate"));
        flags
    };
    let (few, many) = (saturated(1), saturated(MANY));
    let one = Fleet::alone().await?.bench(0, 0, &few).await?;
    let one_many = Fleet::alone().await?.bench(0, 0, &many).await?;
    let (_, deliver) = apart(one.cpu_of_push(0), one_many.cpu_of_push(0));
    // Nobody at another replica wants what is published.
    let unwanted = Fleet::of(2).await?.bench(0, 0, &few).await?;
    figures.forward = unwanted.cpu_of_push(0) - one.cpu_of_push(0);
    figures.nats_in = unwanted.cpu_of_push(2);
    let two = Fleet::of(2).await?.bench(0, 1, &few).await?;
    figures.receive = two.cpu_of_push(1) - deliver;
    figures.nats_out = two.cpu_of_push(2) - figures.nats_in;
    Ok(())
}

async fn link(figures: &mut Figures, duration: Duration) -> Result<(), Failure> {
    let flags = [
        "--subscribers=1".to_owned(),
        "--window=1024".to_owned(),
        for_a_time(duration),
    ];
    let run = Fleet::of(2).await?.bench(0, 1, &flags).await?;
    figures.link_rate = run.number(&["deliveries_per_second"]);
    Ok(())
}

async fn without_interest(figures: &mut Figures, duration: Duration) -> Result<(), Failure> {
    let fleet = Fleet::of(3).await?;
    let pids = fleet.pids();
    let (began, used) = (tokio::time::Instant::now(), cpu(&pids)?);
    let bytes = fleet.sent_to(2).await?;
    fleet.bench(0, 1, &load(1, duration)).await?;
    let took = began.elapsed().as_secs_f64();
    let spent = cpu(&pids)?[2].saturating_sub(used[2]);
    figures.idle_cpu = spent.as_secs_f64() * 1e6 / took;
    figures.idle_bytes = (fleet.sent_to(2).await? - bytes) / took;
    Ok(())
}

/// Subscribes to many shards, each once, and lets them all go.
async fn interest(figures: &mut Figures, shards: usize) -> Result<(), Failure> {
    let sessions = shards.div_ceil(SHARDS_OF_SESSION);
    let flags = [
        format!("--subscribers={sessions}"),
        format!("--shards={shards}"),
        format!("--shards-per-subscriber={}", shards / sessions),
        "--rate=20".to_owned(),
        "--warmup=0s".to_owned(),
        "--duration=500ms".to_owned(),
    ];
    let count = float(shards);
    let alone = Fleet::alone().await?;
    let used = cpu(&alone.pids())?;
    let one = alone.bench(0, 0, &flags).await?;
    let by_one = cpu(&alone.pids())?[0].saturating_sub(used[0]);
    figures.one_rate = count / one.number(&["subscribe_seconds"]);
    figures.shard_bytes = one.grown(0) / count;

    let fleet = Fleet::of(2).await?;
    let before = fleet.nats_says("subscriptions").await?;
    let asked = Operator::connect(&fleet.replicas[0]).await?;
    let answered = async || {
        asked
            .metric("persist_pubsub_backplane_answered_total")
            .await
    };
    let (used, so_far) = (cpu(&fleet.pids())?, answered().await?);
    let two = fleet.bench(0, 1, &flags).await?;
    let questions = answered().await? - so_far;
    let answers = cpu(&fleet.pids())?[0].saturating_sub(used[0]);
    figures.answer = answers.as_secs_f64() * 1e6 / questions;
    until("the interest to be let go", async || {
        let now = fleet.nats_says("subscriptions").await.ok()?;
        (now <= before).then_some(())
    })
    .await?;
    let after = cpu(&fleet.pids())?;
    let of = |process: usize| after[process].saturating_sub(used[process]).as_secs_f64();
    figures.interest_rate = count / two.number(&["subscribe_seconds"]);
    figures.interest_cpu = (of(1) - by_one.as_secs_f64()) * 1e6 / count;
    figures.interest_cpu_nats = of(2) * 1e6 / count;
    figures.interest_bytes = two.grown(1) / count - figures.shard_bytes;
    figures.interest_bytes_nats = two.grown(2) / count;
    Ok(())
}

async fn memory(figures: &mut Figures, duration: Duration) -> Result<(), Failure> {
    const SESSIONS: usize = 500;
    let flags = [
        format!("--subscribers={SESSIONS}"),
        "--rate=20".to_owned(),
        "--warmup=0s".to_owned(),
        "--duration=500ms".to_owned(),
    ];
    let fleet = Fleet::alone().await?;
    let run = fleet.bench(0, 0, &flags).await?;
    figures.session_bytes = run.grown(0) / float(SESSIONS);
    figures.base_bytes = run.before(0);

    let fleet = Fleet::of(1).await?;
    let run = fleet.bench(0, 0, &load(1, duration)).await?;
    figures.base_bytes_nats = run.before(1);
    // Nothing has left the logs yet: it is younger than --log-age.
    let operator = Operator::connect(&fleet.replicas[0]).await?;
    let log = operator.metric("persist_pubsub_log_bytes").await?;
    figures.diff_bytes = log / run.number(&["expected_in_all"]);
    Ok(())
}
