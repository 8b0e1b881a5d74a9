//! The server and the client over a simulated network and clock. A few seeds;
//! `run.sh` runs a thousand, with the program `simulate`.

use persist_pubsub_compat_tests::simulation::run;

use crate::Verdict;

/// Every promise is kept in every run. On failure: the program `simulate`
/// tells what happened in a seed, line by line.
#[test]
fn promises_hold_over_bad_networks_and_dying_servers() -> Verdict {
    for seed in 0..10 {
        let outcome = run(seed, false)?;
        assert!(
            outcome.violations.is_empty(),
            "seed {seed}: {:#?}\nrepeat: cargo run -p persist-pubsub-compat-tests --bin simulate -- --seed {seed} --seeds 1 --lines",
            outcome.violations
        );
        // A run in which nothing happens shows nothing.
        assert!(outcome.counts.diffs > 0 && outcome.counts.faults > 0);
    }
    Ok(())
}

/// A seed is a run: the same events at the same times, the same bytes on
/// every connection.
#[test]
fn a_seed_repeats_itself_byte_for_byte() -> Verdict {
    for seed in [1, 2, 3] {
        let (once, again) = (run(seed, true)?, run(seed, true)?);
        let first_difference = once
            .lines
            .iter()
            .zip(&again.lines)
            .find(|(once, again)| once != again);
        assert_eq!(first_difference, None, "seed {seed}");
        assert_eq!(once.digest, again.digest, "seed {seed}");
        assert!(once.counts.bytes > 0);
    }
    // Another seed is another run.
    assert_ne!(run(1, false)?.digest, run(2, false)?.digest);
    Ok(())
}
