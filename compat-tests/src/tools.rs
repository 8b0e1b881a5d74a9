//! Programs from outside that some tests use. `compat-tests/run.sh` installs
//! them; without them a test is left out, and says so.

use std::io::Write as _;
use std::path::PathBuf;

use crate::child::workspace;

/// Set to 1 (as run.sh does), a missing program is a failure.
pub const REQUIRE_TOOLS: &str = "REQUIRE_TOOLS";

/// A program that is not installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{program} is not installed: {variable} is not set, and it is neither in target/tools/bin nor on the PATH; \
     ./compat-tests/run.sh installs it"
)]
pub struct Missing {
    program: &'static str,
    variable: &'static str,
}

/// Finds a program: where the environment variable says, or where run.sh puts
/// it, or on the PATH.
///
/// # Errors
/// [`Missing`].
pub fn find(program: &'static str, variable: &'static str) -> Result<PathBuf, Missing> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(workspace().join("target/tools/bin"))
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
        .ok_or(Missing { program, variable })
}

/// Reports that a test is left out. For the test to return at once.
///
/// The line goes to standard error past the test runner, which keeps what
/// passing tests print to itself.
///
/// # Panics
/// If [`REQUIRE_TOOLS`] is 1: then nothing may be left out.
#[allow(clippy::panic, reason = "called by tests alone, whose verdict it is")]
pub fn left_out(test: &str, reason: &Missing) {
    if std::env::var_os(REQUIRE_TOOLS).is_some_and(|value| value == "1") {
        panic!("{test} may not be left out ({REQUIRE_TOOLS}=1): {reason}");
    }
    // A closed standard error is no reason to fail.
    let _ = writeln!(std::io::stderr(), "LEFT OUT {test}: {reason}");
}
