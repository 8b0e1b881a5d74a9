//! Serves what the server is measured against, as a process of its own:
//! `yardstick broadcaster` or `yardstick relay`. Prints its address when it
//! serves, and ends when its standard input does.

use persist_pubsub_compat_tests::broadcaster::{Broadcaster, QUEUE_OF_TODAY};
use persist_pubsub_compat_tests::relay;
use tokio::io::AsyncReadExt as _;

/// Serves a yardstick for benchmarks.
#[derive(Debug, clap::Parser)]
enum Args {
    /// A v0 server with a bounded queue, and an encoding, per subscriber
    Broadcaster {
        /// Messages that each queue holds
        #[arg(long, default_value_t = QUEUE_OF_TODAY)]
        queue: usize,
    },
    /// What TCP itself allows: the publisher's bytes to every other connection
    Relay,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut _running = None;
    let address = match clap::Parser::parse() {
        Args::Broadcaster { queue } => {
            let broadcaster = Broadcaster::start(queue).await?;
            let address = broadcaster.address();
            _running = Some(broadcaster);
            address
        }
        Args::Relay => relay::start().await?,
    };
    println!("{address}");
    // Whoever started this holds the other end.
    let mut rest = Vec::new();
    tokio::io::stdin().read_to_end(&mut rest).await?;
    Ok(())
}
