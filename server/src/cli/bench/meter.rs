//! What the server has used: asked of the system, or of the server itself.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::Failure;
use crate::cli::target;
use crate::process::Usage;

/// The largest page of metrics that is read.
const MAX_METRICS: usize = 16 * 1024 * 1024;
/// How long it may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where to ask.
#[derive(Debug)]
pub(super) enum Meter {
    Nowhere,
    Processes(Vec<u32>),
    /// The operators' port, as host:port.
    Metrics(String),
}

impl Meter {
    pub(super) fn new(pids: &[u32], admin: Option<&str>) -> Result<Self, Failure> {
        Ok(match (pids, admin) {
            ([], None) => Self::Nowhere,
            ([], Some(admin)) => Self::Metrics(target::authority("--admin", admin)?),
            (pids, _) => Self::Processes(pids.to_vec()),
        })
    }

    /// Of each process, in the order in which they were named; of none if
    /// nobody is asked.
    pub(super) async fn read(&self) -> Result<Vec<Usage>, Failure> {
        match self {
            Self::Nowhere => Ok(Vec::new()),
            Self::Processes(pids) => pids
                .iter()
                .map(|pid| {
                    Usage::of(&pid.to_string()).map_err(|e| format!("--pid {pid}: {e}").into())
                })
                .collect(),
            Self::Metrics(address) => {
                let page = tokio::time::timeout(PATIENCE, metrics(address))
                    .await
                    .map_err(|_| format!("{address} gives no metrics within {PATIENCE:?}"))??;
                let usage = of_metrics(&page)
                    .ok_or_else(|| format!("{address} does not tell of its CPU time and memory"))?;
                Ok(vec![usage])
            }
        }
    }
}

/// This process's CPU time.
pub(super) fn own_cpu() -> Duration {
    Usage::of("self").map_or(Duration::ZERO, |usage| usage.cpu)
}

async fn metrics(address: &str) -> Result<String, Failure> {
    let unreachable = |e: std::io::Error| format!("cannot reach {address}: {e}");
    let stream = TcpStream::connect(address).await.map_err(unreachable)?;
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    let request = http::Request::get("/metrics")
        .header(http::header::HOST, address)
        .body(Empty::<Bytes>::new())?;
    let asking = async {
        let response = sender.send_request(request).await?;
        let body = http_body_util::Limited::new(response.into_body(), MAX_METRICS);
        Ok::<_, Failure>(body.collect().await?.to_bytes())
    };
    let bytes = tokio::select! {
        bytes = asking => bytes?,
        ended = connection => return Err(format!("{address}: the connection has ended: {ended:?}").into()),
    };
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn of_metrics(page: &str) -> Option<Usage> {
    let value = |name: &str| {
        let line = page.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse::<f64>().ok()
    };
    let cpu = value("process_cpu_seconds_total ")?;
    let resident = value("process_resident_memory_bytes ")?;
    Some(Usage {
        cpu: Duration::try_from_secs_f64(cpu).ok()?,
        // A whole number of bytes, far below 2^53.
        resident: resident as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read() {
        let page = "# HELP process_cpu_seconds_total Seconds.\nprocess_cpu_seconds_total 1.25\nprocess_resident_memory_bytes 8388608\n";
        let usage = of_metrics(page).unwrap();
        assert_eq!(usage.cpu, Duration::from_millis(1250));
        assert_eq!(usage.resident, 8 << 20);
        assert!(of_metrics("process_cpu_seconds_total x\n").is_none());
    }
}
