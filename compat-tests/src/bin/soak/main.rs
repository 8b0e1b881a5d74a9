//! Recorded traffic, faults and drains together, for as long as asked:
//!
//! ```sh
//! cargo run --release -p persist-pubsub-compat-tests --bin soak -- 20m
//! ```
//!
//! Processes of both wire versions, each behind a network of its own, write
//! what was recorded and follow all of it, while their networks stall,
//! trickle, delay and break, and the server is killed, frozen and replaced.
//! The promises are held against every event all along; at the end of every
//! round the traffic rests, the networks are mended, and everybody has to
//! converge. Ctrl-C ends it early.
//!
//! It ends with a verdict: exit code 0 if no promise was broken, 1 if one
//! was, 2 if it could not run.

mod faults;
mod traffic;
mod verdict;
mod world;

use std::process::ExitCode;
use std::time::Duration;

use tokio::time::Instant;

use crate::faults::Faults;
use crate::verdict::Tally;
use crate::world::World;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How long it lasts if nobody says.
const DEFAULT: Duration = Duration::from_secs(60);
/// Faults come for so long, then everybody has to converge.
const ROUND: Duration = Duration::from_secs(30);

const USAGE: &str = "usage: soak [DURATION [SEED]], as in: soak 20m 7
The seed chooses the faults; how processes race it does not.";

fn arguments() -> Result<(Duration, u64), String> {
    let mut arguments = std::env::args().skip(1);
    let lasts = arguments
        .next()
        .map_or(Ok(DEFAULT), |text| humantime::parse_duration(&text))
        .map_err(|e| e.to_string())?;
    let seed = arguments
        .next()
        .map_or_else(|| Ok(fastrand::u64(..)), |text| text.parse())
        .map_err(|e| format!("the seed: {e}"))?;
    match arguments.next() {
        Some(other) => Err(format!("{other:?} is too much")),
        None => Ok((lasts, seed)),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let (lasts, seed) = match arguments() {
        Ok(arguments) => arguments,
        Err(e) => {
            eprintln!("{e}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    println!("soak: {}, seed {seed}", humantime::format_duration(lasts));
    match soak(lasts, seed).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("soak: it could not run: {e}");
            ExitCode::from(2)
        }
    }
}

/// Runs it, and prints the verdict: whether no promise was broken.
async fn soak(lasts: Duration, seed: u64) -> Result<bool, Failure> {
    let began = Instant::now();
    let mut tally = Tally::default();
    let mut world = World::start().await?;
    let mut faults = Faults::new(seed);
    let ended = tokio::select! {
        ended = rounds(&mut world, &mut faults, &mut tally, began + lasts) => ended,
        _ = tokio::signal::ctrl_c() => {
            println!("interrupted");
            Ok(())
        }
    };
    verdict::collect(&world, &mut tally);
    // What cannot go on is a verdict as well: a server that does not start,
    // say.
    if let Err(e) = ended {
        tally.violated("running", &e.to_string());
    }
    tally.print(began.elapsed());
    Ok(tally.passed())
}

async fn rounds(
    world: &mut World,
    faults: &mut Faults,
    tally: &mut Tally,
    until: Instant,
) -> Result<(), Failure> {
    loop {
        let end = until.min(Instant::now() + ROUND);
        world.traffic.go_on();
        while Instant::now() < end {
            faults.next(world, tally).await?;
            world.measure(tally).await;
        }
        faults.mend(world);
        world.converge(tally).await;
        world.measure(tally).await;
        tally.print_round(world);
        if Instant::now() >= until {
            return world.end(tally).await;
        }
    }
}
