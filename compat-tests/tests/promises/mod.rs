//! Tests of each promise of v1, of its name: of one server over the network, in process, and of
//! sessions spread over three replicas. Each says what is promised, what
//! in the server or the client keeps it, and which mutations break it; these
//! are in `../../mutations`, and `mutants.sh` shows that the test then fails.

mod advisory;
mod convergence;
mod fence;
mod isolation;
mod join;
mod no_echo;
mod no_silent_gap;
mod opaque;
mod order;
mod poison_free;
mod storm;
