//! `persist-pubsub bench`: what it counts is what there was.

use std::process::{Output, Stdio};

use persist_pubsub_compat_tests::broadcaster::Broadcaster;
use persist_pubsub_compat_tests::built;
use persist_pubsub_compat_tests::wait::within;
use serde_json::Value;

use super::{Failure, Verdict, server};

async fn bench(url: &str, flags: &[&str]) -> Result<Output, Failure> {
    let mut command = tokio::process::Command::new(built::server().await?);
    command
        .args(["bench", "--format=json", "--warmup=0s", "--duration=300ms"])
        .args(["--server", url])
        .args(flags)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    Ok(within("the bench to end", command.output()).await??)
}

fn report(output: &Output) -> Result<Value, Failure> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).map_err(|e| format!("{e}; it said: {stderr}").into())
}

/// Two publishers of seven shards, of which each of five subscribers follows
/// three.
#[tokio::test]
async fn everything_arrives_over_both_wires() -> Verdict {
    let server = server(&[]).await?;
    let (admin, pid) = (server.admin_url(), server.addresses().pid.to_string());
    let work = [
        "--publishers=2",
        "--subscribers=5",
        "--shards=7",
        "--shards-per-subscriber=3",
        "--stalled=1",
    ];
    let paced = ["--rate=700", "--burst=5", "--admin", &admin];
    let saturated = ["--window=16", "--pid", &pid];
    for wire in ["--wire=v0", "--wire=v1"] {
        for more in [&paced[..], &saturated] {
            let output = bench(&server.url(), &[&work, &[wire][..], more].concat()).await?;
            assert!(output.status.success(), "{output:?}");
            let report = report(&output)?;
            assert!(report["pushes"].as_u64() > Some(0), "{report}");
            assert_eq!(report["missing"], 0, "{report}");
            assert_eq!(report["expected_in_all"], report["delivered_in_all"]);
            // A push has three subscribers at most, and two at least.
            let (pushes, deliveries) = (&report["pushes"], &report["deliveries"]);
            let each = deliveries.as_f64().unwrap() / pushes.as_f64().unwrap();
            assert!((2.0..=3.0).contains(&each), "{report}");
            let memory = &report["server"]["resident_bytes"]["subscribed"];
            assert!(memory.as_u64() > Some(1_000_000), "{report}");
            // Prometheus shows whole seconds of it.
            let cpu = report["server"]["cpu_seconds"].as_f64();
            assert!(
                cpu > Some(0.0) || more == paced && cpu.is_some(),
                "{report}"
            );
        }
    }
    Ok(())
}

/// Two servers that do not hear each other: what is published to the one does
/// not come from the other.
#[tokio::test]
async fn publishers_may_be_at_another_server() -> Verdict {
    let (one, other) = (server(&[]).await?, server(&[]).await?);
    let pids = [&one, &other].map(|server| server.addresses().pid.to_string());
    let publish_to = format!("--publish-to={}", one.url());
    let pids = format!("--pid={}", pids.join(","));
    let flags = [publish_to.as_str(), &pids, "--rate=500", "--settle=100ms"];
    let output = bench(&other.url(), &flags).await?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report = report(&output)?;
    assert!(report["pushes"].as_u64() > Some(0), "{report}");
    assert_eq!(report["deliveries"], 0, "{report}");
    let (all, each) = (&report["server"], &report["processes"]);
    let seconds = |process: &Value| process["cpu_seconds"].as_f64().unwrap();
    let resident = |process: &Value| process["resident_bytes"]["subscribed"].as_u64().unwrap();
    assert!(seconds(&each[0]) > 0.0, "{report}");
    let sum = seconds(&each[0]) + seconds(&each[1]);
    assert!((seconds(all) - sum).abs() < 1e-6, "{report}");
    assert_eq!(resident(all), resident(&each[0]) + resident(&each[1]));
    assert_eq!(each.as_array().map(Vec::len), Some(2));
    Ok(())
}

#[tokio::test]
async fn what_is_lost_is_counted_and_is_a_failure() -> Verdict {
    let broadcaster = Broadcaster::start(1).await?;
    let lossy = [
        "--wire=v0",
        "--rate=20000",
        "--burst=2000",
        "--settle=100ms",
    ];
    let output = bench(&broadcaster.url(), &lossy).await?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report = report(&output)?;
    assert!(report["missing"].as_u64() > Some(0), "{report}");
    assert!(broadcaster.dropped() > 0);
    Ok(())
}

#[tokio::test]
async fn a_server_that_speaks_otherwise_is_an_error() -> Verdict {
    let server = server(&[]).await?;
    let output = bench(&server.url(), &["--wire=nats"]).await?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("error: "), "{said}");
    Ok(())
}

#[tokio::test]
async fn work_that_cannot_be_is_named() -> Verdict {
    for (flag, value) in [
        ("--shards", "0"),
        ("--publishers", "2"),
        ("--shards-per-subscriber", "2"),
        ("--diff-size", "23"),
        ("--rate", "0"),
        ("--rate", "NaN"),
        ("--window", "0"),
        ("--burst", "99999999"),
    ] {
        let output = bench("127.0.0.1:1", &[flag, value]).await?;
        assert_eq!(output.status.code(), Some(2), "{flag} {value}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(flag), "{flag} {value}: {said}");
    }
    Ok(())
}
