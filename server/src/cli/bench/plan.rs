//! Who publishes and who follows what.

use bytes::Bytes;
use persist_pubsub_proto::ShardId;

use super::{BenchArgs, Failure};
use crate::config::InvalidConfig;
use crate::recording::Recording;

/// Bytes at the beginning of a diff that are used where the protocol has no
/// place for them: stamp, seqno, shard.
pub(super) const HEADER: usize = 24;
/// The largest diff that is taken from the command line.
const MAX_DIFF: usize = 1 << 30;
/// Connections, shards: enough for one process's sockets and memory.
const MAX_CONNECTIONS: usize = 60_000;
const MAX_SHARDS: usize = 10_000_000;

/// Everything that is decided before the first connection.
#[derive(Debug)]
pub(super) struct Plan {
    /// Distinguishes this run's shards from all others.
    run: u64,
    pub(super) publishers: usize,
    pub(super) subscribers: usize,
    pub(super) stalled: usize,
    pub(super) shards: usize,
    /// Shards that each subscriber follows.
    pub(super) each: usize,
    /// How many subscribers that read follow each shard.
    fan_out: Vec<u32>,
    /// The diffs' bytes; a diff is the beginning of it.
    filler: Bytes,
    sizes: Vec<usize>,
    pub(super) environment: String,
}

impl Plan {
    pub(super) fn new(args: &BenchArgs) -> Result<Self, Failure> {
        let wrong = |flag, value: String, allowed: String| {
            Err(Failure::from(InvalidConfig {
                flag,
                value,
                allowed,
            }))
        };
        let within = |flag, value: usize, least: usize, most: usize| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                wrong(flag, value.to_string(), format!("{least} to {most}"))
            }
        };
        let each = args.shards_per_subscriber.unwrap_or(args.shards);
        within("--shards", args.shards, 1, MAX_SHARDS)?;
        within("--publishers", args.publishers, 1, args.shards)?;
        within("--subscribers", args.subscribers, 1, MAX_CONNECTIONS)?;
        within("--stalled", args.stalled, 0, MAX_CONNECTIONS)?;
        within("--shards-per-subscriber", each, 1, args.shards)?;
        within("--diff-size", args.diff_size, HEADER, MAX_DIFF)?;
        if let Some(rate) = args.rate
            && !(rate > 0.0 && rate <= 1e8)
        {
            wrong(
                "--rate",
                rate.to_string(),
                "above 0, up to 10^8 a second".to_owned(),
            )?;
        }
        for (flag, value) in [("--window", args.window), ("--burst", args.burst)] {
            if !(1..=1 << 20).contains(&value) {
                wrong(flag, value.to_string(), "1 to 1048576".to_owned())?;
            }
        }
        let sizes = match &args.sizes_from {
            None => vec![args.diff_size],
            Some(folder) => sizes(&Recording::read(folder)?),
        };
        let Some(largest) = sizes.iter().max() else {
            return Err("the recording has no pushes".into());
        };
        Ok(Self {
            run: fastrand::u64(..),
            publishers: args.publishers,
            subscribers: args.subscribers,
            stalled: args.stalled,
            shards: args.shards,
            each,
            fan_out: fan_out(args.shards, args.subscribers, each),
            // Bytes that do not compress to nothing, should somebody try.
            filler: (0..*largest).map(|_| fastrand::u8(..)).collect(),
            sizes,
            environment: args.environment.clone(),
        })
    }

    /// The name of a shard.
    pub(super) fn shard(&self, index: u64) -> ShardId {
        ShardId::new((u128::from(self.run) << 64 | u128::from(index)).to_be_bytes())
    }

    /// A shard beside those that are measured, by which v0 subscribers learn
    /// that they are heard.
    pub(super) fn mark(&self) -> u64 {
        self.shards as u64
    }

    /// The first shard that a subscriber follows; the others come behind it,
    /// and behind the last comes the first.
    pub(super) fn first_of(&self, subscriber: usize) -> u64 {
        (subscriber % self.shards * self.each % self.shards) as u64
    }

    /// What a subscriber follows.
    pub(super) fn followed(&self, subscriber: usize) -> impl Iterator<Item = u64> + use<> {
        let (first, shards) = (self.first_of(subscriber), self.shards as u64);
        (0..self.each as u64).map(move |n| (first + n) % shards)
    }

    pub(super) fn subscriptions(&self) -> usize {
        (self.subscribers + self.stalled) * self.each
    }

    /// How many deliveries a push leads to.
    pub(super) fn fan_out(&self, shard: u64) -> u64 {
        usize::try_from(shard)
            .ok()
            .and_then(|shard| self.fan_out.get(shard))
            .map_or(0, |n| u64::from(*n))
    }

    /// The mean of it over a publisher's shards, at least 1.
    pub(super) fn mean_fan_out(&self, publisher: usize) -> u64 {
        let of = || self.fan_out.iter().skip(publisher).step_by(self.publishers);
        let sum: u64 = of().map(|n| u64::from(*n)).sum();
        sum.div_ceil((of().count() as u64).max(1)).max(1)
    }

    /// A diff of one of the sizes.
    pub(super) fn diff(&self) -> Bytes {
        let size = match self.sizes.as_slice() {
            [size] => *size,
            sizes => *fastrand::choice(sizes).unwrap_or(&HEADER),
        };
        self.filler.slice(..size.min(self.filler.len()))
    }
}

fn sizes(recording: &Recording) -> Vec<usize> {
    recording
        .pushes()
        .map(|(_, push)| push.diff.len().max(HEADER))
        .collect()
}

fn fan_out(shards: usize, subscribers: usize, each: usize) -> Vec<u32> {
    if each == shards {
        return vec![u32::try_from(subscribers).unwrap_or(u32::MAX); shards];
    }
    let mut fan_out = vec![0; shards];
    for subscriber in 0..subscribers {
        let first = subscriber % shards * each % shards;
        for n in 0..each {
            if let Some(count) = fan_out.get_mut((first + n) % shards) {
                *count += 1;
            }
        }
    }
    fan_out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subscription_is_counted_once() {
        for (shards, subscribers, each) in [(1, 10, 1), (10, 3, 4), (7, 20, 7), (1000, 5, 1)] {
            let counts = fan_out(shards, subscribers, each);
            let sum: u32 = counts.iter().sum();
            assert_eq!(sum as usize, subscribers * each);
        }
        assert_eq!(fan_out(4, 3, 2), [2, 2, 1, 1]);
    }
}
