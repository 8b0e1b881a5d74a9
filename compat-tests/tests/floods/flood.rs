//! A flood from its beginning to its end, and what it is to be measured by.

use std::net::SocketAddr;
use std::time::Duration;

use persist_pubsub_compat_tests::bystanders::Bystanders;
use persist_pubsub_compat_tests::child::Child;
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::raw_connection::PREFACE;
use persist_pubsub_compat_tests::wait::{until, within_time};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::{Failure, Verdict, server};

/// Connections that a flood comes over at a time.
pub(super) const CONNECTIONS: usize = 8;
/// Diffs that have to reach the bystanders while it lasts.
const ROUNDS: usize = 50;
/// For all of it, on a machine that is busy with other things.
const WHOLE: Duration = Duration::from_secs(240);
/// What a debug build of an idle server and its bystanders have resident, with
/// room to spare.
const IDLE_MIB: u64 = 40;

/// The most memory that the server has had.
fn peak_mib(server: &Child) -> Result<u64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.addresses().pid))?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.ok_or("no VmHWM")? / 1024)
}

/// A flood, from its beginning to its end.
pub(super) struct Flood {
    pub(super) server: Child,
    pub(super) operator: Operator,
    bystanders: Bystanders,
    pub(super) attackers: JoinSet<()>,
}

impl Flood {
    pub(super) async fn meets(flags: &[&str]) -> Result<Self, Failure> {
        let server = server(flags).await?;
        let operator = Operator::connect(&server).await?;
        let bystanders = Bystanders::meet(&server.url()).await?;
        Ok(Self {
            server,
            operator,
            bystanders,
            attackers: JoinSet::new(),
        })
    }

    /// Attacks over and over, on several connections at a time, until told
    /// to stop. `attack` ends when its connection does.
    pub(super) fn begin<F>(&mut self, attack: impl Fn(SocketAddr) -> F + Clone + Send + 'static)
    where
        F: Future<Output = ()> + Send,
    {
        let address = self.server.addresses().listen;
        for _ in 0..CONNECTIONS {
            let attack = attack.clone();
            self.attackers.spawn(async move {
                loop {
                    attack(address).await;
                    // A connection that is refused at once lets others run.
                    tokio::task::yield_now().await;
                }
            });
        }
    }

    /// The bystanders are served until the bound has bitten `times`, and for
    /// some rounds at least.
    pub(super) async fn bites(&mut self, bound: &str, times: f64) -> Verdict {
        let (operator, bystanders) = (&self.operator, &mut self.bystanders);
        let mut rounds = 0;
        let serve = async {
            while rounds < ROUNDS || operator.metric(bound).await? < times {
                bystanders.are_served().await?;
                rounds += 1;
            }
            Ok::<_, Failure>(())
        };
        within_time(&format!("{bound} to be {times}"), WHOLE, serve).await??;
        let bitten = operator.metric(bound).await?;
        println!("{bound}: {bitten}; {rounds} diffs to the bystanders meanwhile");
        Ok(())
    }

    /// Ends it: nothing is left of it, and it cost no more than `mib` above
    /// what an idle server has.
    pub(super) async fn ends(mut self, mib: u64) -> Verdict {
        self.attackers.shutdown().await;
        let connections = "persist_pubsub_connections";
        until("the flood's connections to be gone", async || {
            (self.operator.metric(connections).await.ok()? == 3.0).then_some(())
        })
        .await?;
        self.bystanders.are_served().await?;
        until("the flood's sessions to be gone", async || {
            (self.operator.sessions().await.ok()?.len() == 3).then_some(())
        })
        .await?;
        let peak = peak_mib(&self.server)?;
        println!("peak memory {peak} MiB; {} are allowed", IDLE_MIB + mib);
        assert!(peak <= IDLE_MIB + mib, "{peak} MiB");
        Ok(())
    }
}

/// Connects, says `first`, and then `again` for as long as the server takes
/// it; what it answers is read and forgotten.
pub(super) async fn pour(address: SocketAddr, first: Vec<u8>, mut again: impl FnMut() -> Vec<u8>) {
    let Ok(tcp) = TcpStream::connect(address).await else {
        return;
    };
    let (mut answers, mut tcp) = tcp.into_split();
    let read = async {
        let mut nowhere = tokio::io::sink();
        // Ends when the server hangs up.
        let _ = tokio::io::copy(&mut answers, &mut nowhere).await;
    };
    let write = async {
        if tcp.write_all(&[PREFACE, &first].concat()).await.is_ok() {
            while tcp.write_all(&again()).await.is_ok() {}
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
}

/// Many of the same, so that writing them costs little.
pub(super) fn many(frame: &[u8]) -> Vec<u8> {
    frame.repeat(500)
}
