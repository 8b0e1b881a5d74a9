//! The binary: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    persist_pubsub_server::cli::run()
}
