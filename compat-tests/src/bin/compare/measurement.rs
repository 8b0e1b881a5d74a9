//! What one run of `persist-pubsub bench` reported.

use std::fmt;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Measurement {
    json: serde_json::Value,
}

/// A figure of a run, and in which direction it is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    /// CPU microseconds of the server for each delivery.
    Cpu,
    /// Deliveries a second.
    Throughput,
    /// Microseconds from stamp to receipt: median and 99th percentile.
    P50,
    P99,
    /// Part of the expected deliveries that arrived.
    Completeness,
    /// Bytes that sessions and subscriptions added to the server, and that are
    /// left of them when they have gone.
    Memory,
    Left,
    /// Seconds until all are subscribed.
    Subscribing,
}

impl Figure {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU us/delivery",
            Self::Throughput => "deliveries/s",
            Self::P50 => "p50 us",
            Self::P99 => "p99 us",
            Self::Completeness => "arrived %",
            Self::Memory => "memory MB",
            Self::Left => "left MB",
            Self::Subscribing => "subscribed in s",
        }
    }

    pub(crate) fn less_is_better(self) -> bool {
        !matches!(self, Self::Throughput | Self::Completeness)
    }
}

impl Measurement {
    pub(crate) fn parse(stdout: &[u8]) -> Option<Self> {
        let json: serde_json::Value = serde_json::from_slice(stdout).ok()?;
        json["deliveries"].as_u64()?;
        Some(Self { json })
    }

    pub(crate) fn get(&self, figure: Figure) -> f64 {
        let json = &self.json;
        let resident = &json["server"]["resident_bytes"];
        let number = |value: &serde_json::Value| value.as_f64().unwrap_or(f64::NAN);
        match figure {
            Figure::Cpu => number(&json["server"]["cpu_micros_per_delivery"]),
            Figure::Throughput => number(&json["deliveries_per_second"]),
            Figure::P50 => number(&json["latency_micros"]["p50"]),
            Figure::P99 => number(&json["latency_micros"]["p99"]),
            Figure::Completeness => {
                100.0 * number(&json["delivered_in_all"]) / number(&json["expected_in_all"])
            }
            Figure::Memory => (number(&resident["subscribed"]) - number(&resident["before"])) / 1e6,
            Figure::Left => (number(&resident["gone"]) - number(&resident["before"])) / 1e6,
            Figure::Subscribing => number(&json["subscribe_seconds"]),
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.json["missing"].as_u64() == Some(0)
    }

    pub(crate) fn json(&self) -> &serde_json::Value {
        &self.json
    }
}

/// One line, to watch.
impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>6.2} us  {:>9.0}/s  p50 {:>7.0}  p99 {:>8.0} us  {:>6.2} %  {:>6.1} MB  {:.3} s",
            self.get(Figure::Cpu),
            self.get(Figure::Throughput),
            self.get(Figure::P50),
            self.get(Figure::P99),
            self.get(Figure::Completeness),
            self.get(Figure::Memory),
            self.get(Figure::Subscribing),
        )
    }
}
