//! The upgrade drill: what `persist-pubsub-drill` is made of.
//!
//! Model processes run as real children of the drill, one per `environmentd`
//! and `clusterd` of two generations. Each has a state cache over a consensus
//! store with compare-and-set, polls it as deployed processes do, and hears
//! of writes through a pubsub service, or does not. The drill walks them
//! through the nine steps of an upgrade and joins what they report: who
//! committed what when, and when it was visible where.
//!
//! | room | what it is |
//! |---|---|
//! | [`shards`] | which shards there are, and which role writes them |
//! | [`content`] | what a diff says, and the digest of a run of them |
//! | [`consensus`] | the store, as a process sees it |
//! | [`embedded`], [`postgres`] | a store of our own, and a real one |
//! | [`record`] | what a process reports, as lines |
//! | [`cache`] | a process's states |
//! | [`process`] | a model process: the child's side |
//! | [`member`] | the same, as the drill sees it |
//! | [`service`] | what carries the notifications: this service, one server or several replicas, a plain server per generation, or nothing |
//! | [`world`] | one arrangement at work |
//! | [`walk`] | the nine steps |
//! | [`disturbance`] | what goes wrong at each of them |
//! | [`crowd`] | a thousand connections that move |
//! | [`account`] | what it all came to: latencies by pair and step, discarded diffs, wrong states |
//! | [`verdict`] | whether that is as it has to be |
//! | [`table`], [`chart`] | the same, to read and to look at |

pub mod account;
pub mod cache;
pub mod chart;
pub mod consensus;
pub mod content;
pub mod crowd;
pub mod disturbance;
pub mod embedded;
pub mod member;
pub mod postgres;
pub mod process;
pub mod record;
pub mod service;
pub mod shards;
pub mod table;
pub mod verdict;
pub mod walk;
pub mod world;

/// Why the drill could not go on.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The system clock, in nanoseconds since the Unix epoch. All processes of a
/// drill run on one machine, and so by one clock.
#[must_use]
pub fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}
