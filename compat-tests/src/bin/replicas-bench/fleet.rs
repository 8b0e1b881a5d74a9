//! Servers and a NATS between them, as children, and the load on them.

use std::process::Stdio;
use std::time::Duration;

use persist_pubsub_compat_tests::built;
use persist_pubsub_compat_tests::child::Child;
use persist_pubsub_compat_tests::nats::Nats;
use persist_pubsub_compat_tests::nats::conf::Conf;
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::wait::until;
use serde_json::Value;
use tokio::process::Command;

use super::Failure;
use super::figures::float;

/// One server without a NATS, or several with one. Dropping it kills them.
pub(crate) struct Fleet {
    pub(crate) replicas: Vec<Child>,
    nats: Option<Nats>,
}

/// What `persist-pubsub bench` says of a run.
pub(crate) struct Run(Value);

impl Fleet {
    /// One server, as it is by default.
    pub(crate) async fn alone() -> Result<Self, Failure> {
        Ok(Self {
            replicas: vec![Child::start::<&str>(&[]).await?],
            nats: None,
        })
    }

    /// So many, when each knows all others. They let go of what nobody wants
    /// after a second, so that the measurement need not wait for that.
    pub(crate) async fn of(count: usize) -> Result<Self, Failure> {
        let nats = Nats::start(&Conf::default()).await?;
        let mut replicas = Vec::new();
        for n in 0..count {
            let flags = [
                format!("--backplane={}", nats.url()),
                format!("--replica-name=replica-{n}"),
                "--rebalance-interval=0s".to_owned(),
                "--backplane-linger=1s".to_owned(),
            ];
            replicas.push(Child::start(&flags).await?);
        }
        for replica in &replicas {
            let operator = Operator::connect(replica).await?;
            let others = float(count - 1);
            until("the replicas to know each other", async || {
                let known = operator.metric("persist_pubsub_backplane_replicas").await;
                known.is_ok_and(|known| known >= others).then_some(())
            })
            .await?;
        }
        Ok(Self {
            replicas,
            nats: Some(nats),
        })
    }

    /// The replicas, and NATS behind them if there is one.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let replicas = self.replicas.iter().map(|child| child.addresses().pid);
        replicas
            .chain(self.nats.as_ref().and_then(Nats::pid))
            .collect()
    }

    /// A load that is published at one replica and received at another. A
    /// delivery that is missing is a failure.
    pub(crate) async fn bench(
        &self,
        at: usize,
        from: usize,
        flags: &[String],
    ) -> Result<Run, Failure> {
        let pids: Vec<_> = self.pids().iter().map(u32::to_string).collect();
        let output = Command::new(built::server().await?)
            .args(["bench", "--format=json"])
            .arg(format!("--publish-to={}", self.replicas[at].url()))
            .arg(format!("--server={}", self.replicas[from].url()))
            .arg(format!("--pid={}", pids.join(",")))
            .args(flags)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        if output.status.success() {
            Ok(Run(serde_json::from_slice(&output.stdout)?))
        } else {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("bench {}: {}", flags.join(" "), said.trim()).into())
        }
    }

    /// What NATS says of all its clients together: a number of `/varz`.
    pub(crate) async fn nats_says(&self, what: &str) -> Result<f64, Failure> {
        let nats = self.nats.as_ref().ok_or("there is no NATS")?;
        let says = nats.monitoring("/varz").await?;
        let says = says[what].as_f64();
        Ok(says.ok_or_else(|| format!("NATS says nothing of {what}"))?)
    }

    /// What NATS has sent to one replica, in bytes.
    pub(crate) async fn sent_to(&self, replica: usize) -> Result<f64, Failure> {
        let nats = self.nats.as_ref().ok_or("there is no NATS")?;
        let says = nats.monitoring("/connz").await?;
        let name = format!("replica-{replica}");
        let connections = says["connections"].as_array().ok_or("no connections")?;
        let its = connections.iter().filter(|connection| {
            let called = connection["name"].as_str();
            called.is_some_and(|called| called.contains(&name))
        });
        Ok(its
            .filter_map(|connection| connection["out_bytes"].as_f64())
            .sum())
    }
}

impl Run {
    pub(crate) fn number(&self, path: &[&str]) -> f64 {
        let value = path.iter().fold(&self.0, |value, key| &value[*key]);
        value.as_f64().unwrap_or(f64::NAN)
    }

    /// Microseconds.
    pub(crate) fn latency(&self, quantile: &str) -> f64 {
        self.number(&["latency_micros", quantile])
    }

    /// Microseconds of CPU time of a process (in the order of
    /// [`Fleet::pids`]) for each diff that was pushed.
    pub(crate) fn cpu_of_push(&self, process: usize) -> f64 {
        let cpu = self.0["processes"][process]["cpu_seconds"].as_f64();
        1e6 * cpu.unwrap_or(f64::NAN) / self.number(&["pushes"])
    }

    /// Bytes that a process has more with all subscriptions than before the
    /// first connection.
    pub(crate) fn grown(&self, process: usize) -> f64 {
        let resident = &self.0["processes"][process]["resident_bytes"];
        let at = |when: &str| resident[when].as_f64().unwrap_or(f64::NAN);
        at("subscribed") - at("before")
    }

    /// Resident before the first connection, in bytes.
    pub(crate) fn before(&self, process: usize) -> f64 {
        let resident = &self.0["processes"][process]["resident_bytes"];
        resident["before"].as_f64().unwrap_or(f64::NAN)
    }
}

/// The CPU time of processes, each since it began.
pub(crate) fn cpu(pids: &[u32]) -> std::io::Result<Vec<Duration>> {
    pids.iter().map(|pid| of_one(*pid)).collect()
}

fn of_one(pid: u32) -> std::io::Result<Duration> {
    let mut sum = Duration::ZERO;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // One may end between the two looks.
        let Ok(line) = std::fs::read_to_string(thread?.path().join("schedstat")) else {
            continue;
        };
        let nanos = line.split_whitespace().next();
        let nanos = nanos.and_then(|nanos| nanos.parse().ok());
        sum += Duration::from_nanos(nanos.unwrap_or(0));
    }
    Ok(sum)
}
