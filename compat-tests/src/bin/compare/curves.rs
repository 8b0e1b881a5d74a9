//! How our server's cost grows with what there is of something. A cost for
//! each delivery, subscription or session that grows with their number is a
//! defect.

use std::fmt::Write as _;
use std::time::Duration;

use tokio::process::Command;

use super::Failure;
use super::contender::{self, Running};
use super::measurement::{Figure, Measurement};
use super::table::number;

/// Subscriptions of one session at most: the server takes 100,000.
const SHARDS_OF_SESSION: usize = 50_000;
/// Deliveries a second where the number of subscribers changes.
const DELIVERIES: usize = 20_000;

/// Figures over the number of something.
pub(crate) struct Curve {
    pub(crate) name: &'static str,
    /// What the number counts.
    pub(crate) of: &'static str,
    /// What the figures are.
    pub(crate) figures: Vec<&'static str>,
    pub(crate) points: Vec<(usize, Vec<f64>)>,
}

pub(crate) async fn measure(duration: Duration) -> Result<Vec<Curve>, Failure> {
    Ok(vec![
        subscribers(duration).await?,
        sessions(duration).await?,
        shards().await?,
        cores(duration).await?,
        log(duration).await?,
    ])
}

async fn start(flags: &[String]) -> Result<Running, Failure> {
    let all = contender::all(&[], true);
    let v1 = all.iter().find(|c| c.name == "v1").ok_or("no v1")?;
    v1.start(flags).await
}

async fn run(server: &[String], flags: &[String]) -> Result<Measurement, Failure> {
    let measured = start(server).await?.bench(flags).await?;
    if measured.is_complete() {
        Ok(measured)
    } else {
        Err(format!("diffs were missing with {}: {measured}", flags.join(" ")).into())
    }
}

/// A curve of one point for each number.
async fn curve<const N: usize>(
    name: &'static str,
    of: &'static str,
    figures: [&'static str; N],
    numbers: &[usize],
    point: impl AsyncFn(usize) -> Result<[f64; N], Failure>,
) -> Result<Curve, Failure> {
    let mut points = Vec::new();
    for n in numbers {
        let values = point(*n).await?;
        let shown: Vec<_> = figures
            .iter()
            .zip(values)
            .map(|(f, v)| format!("{f} {}", number(v)))
            .collect();
        eprintln!("    {name}: {n} {of}: {}", shown.join(", "));
        points.push((*n, values.to_vec()));
    }
    Ok(Curve {
        name,
        of,
        figures: figures.to_vec(),
        points,
    })
}

fn for_a_time(duration: Duration) -> String {
    format!("--duration={}ms", duration.as_millis())
}

async fn subscribers(duration: Duration) -> Result<Curve, Failure> {
    let numbers = [1, 3, 10, 30, 100, 300, 1000, 2000];
    curve(
        "subscribers-of-a-shard",
        "subscribers",
        ["CPU us/delivery", "p99 us"],
        &numbers,
        async |n| {
            let rate = (DELIVERIES / n).min(2000);
            let flags = [
                format!("--subscribers={n}"),
                format!("--rate={rate}"),
                for_a_time(duration),
            ];
            let m = run(&[], &flags).await?;
            Ok([m.get(Figure::Cpu), m.get(Figure::P99)])
        },
    )
    .await
}

/// Each with ten shards of its own.
async fn sessions(duration: Duration) -> Result<Curve, Failure> {
    let numbers = [1, 10, 100, 500, 1000, 2000];
    let figures = ["CPU us/delivery", "KB/session", "subscribing us/session"];
    curve("sessions", "sessions", figures, &numbers, async |n| {
        let flags = [
            format!("--subscribers={n}"),
            format!("--shards={}", 10 * n),
            "--shards-per-subscriber=10".to_owned(),
            "--rate=2000".to_owned(),
            for_a_time(duration),
        ];
        let m = run(&[], &flags).await?;
        Ok([
            m.get(Figure::Cpu),
            m.get(Figure::Memory) * 1e3 / float(n),
            m.get(Figure::Subscribing) * 1e6 / float(n),
        ])
    })
    .await
}

async fn shards() -> Result<Curve, Failure> {
    let numbers = [10, 100, 1000, 10_000, 100_000, 1_000_000];
    let figures = [
        "bytes/subscription",
        "subscribing us/subscription",
        "left bytes/subscription",
    ];
    curve(
        "shards",
        "shards, one subscription each",
        figures,
        &numbers,
        async |n| {
            let sessions = n.div_ceil(SHARDS_OF_SESSION);
            let flags = [
                format!("--subscribers={sessions}"),
                format!("--shards={n}"),
                format!("--shards-per-subscriber={}", n / sessions),
                "--rate=1000".to_owned(),
                "--warmup=0s".to_owned(),
                "--duration=1s".to_owned(),
            ];
            let m = run(&[], &flags).await?;
            Ok([
                m.get(Figure::Memory) * 1e6 / float(n),
                m.get(Figure::Subscribing) * 1e6 / float(n),
                m.get(Figure::Left) * 1e6 / float(n),
            ])
        },
    )
    .await
}

/// The server on one core, or on two. The generator has what is left.
async fn cores(duration: Duration) -> Result<Curve, Failure> {
    curve(
        "cores",
        "cores",
        ["deliveries/s", "CPU us/delivery"],
        &[1, 2],
        async |n| {
            let server = start(&[]).await?;
            let cores = if n == 1 { "0" } else { "0,1" };
            let pinned = Command::new("taskset")
                .args(["-a", "-c", "-p", cores, &server.pid().to_string()])
                .output()
                .await?;
            if !pinned.status.success() {
                return Err(String::from_utf8_lossy(&pinned.stderr).into_owned().into());
            }
            let flags = ["--window=1024".to_owned(), for_a_time(duration)];
            let m = server.bench(&flags).await?;
            Ok([m.get(Figure::Throughput), m.get(Figure::Cpu)])
        },
    )
    .await
}

/// Of one shard, up to the bound on its bytes. It fills during the warm-up.
async fn log(duration: Duration) -> Result<Curve, Failure> {
    let numbers = [1, 16, 256, 4096, 16_384, 65_536];
    curve(
        "retained-log",
        "diffs at most",
        ["CPU us/delivery", "deliveries/s"],
        &numbers,
        async |n| {
            let server = [format!("--log-entries-per-shard={n}")];
            let flags = [
                "--window=64".to_owned(),
                "--warmup=2s".to_owned(),
                "--settle=2s".to_owned(),
                for_a_time(duration),
            ];
            // With next to no log, who is behind misses something: that is its job.
            let m = start(&server).await?.bench(&flags).await?;
            Ok([m.get(Figure::Cpu), m.get(Figure::Throughput)])
        },
    )
    .await
}

pub(crate) fn text(curves: &[Curve]) -> String {
    let mut out = String::new();
    for curve in curves {
        let _ = writeln!(
            out,
            "\n{}\n  {:>10}  {}",
            curve.name,
            curve.of,
            curve.figures.join(", ")
        );
        for (n, values) in &curve.points {
            let values: Vec<_> = values
                .iter()
                .map(|v| format!("{:>12}", number(*v)))
                .collect();
            let _ = writeln!(out, "  {n:>10}  {}", values.join("  "));
        }
    }
    out
}

pub(crate) fn json(curves: &[Curve]) -> serde_json::Value {
    let curves = curves.iter().map(|curve| {
        let points: Vec<_> = curve
            .points
            .iter()
            .map(|(n, values)| serde_json::json!({ "n": n, "values": values }))
            .collect();
        serde_json::json!({
            "name": curve.name,
            "of": curve.of,
            "figures": curve.figures,
            "points": points,
        })
    });
    curves.collect::<Vec<_>>().into()
}

/// Numbers here are at most a million.
#[expect(clippy::cast_precision_loss, reason = "small")]
fn float(n: usize) -> f64 {
    n as f64
}
