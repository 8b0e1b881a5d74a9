//! The figures: what the model is fed with, and what people are told.

use std::fmt::Write as _;

use super::Failure;

/// A measured number.
pub(crate) struct Field {
    /// As the file has it.
    name: &'static str,
    unit: &'static str,
    what: &'static str,
    at: fn(&mut Figures) -> &mut f64,
}

macro_rules! figures {
    ($($name:ident, $unit:literal, $what:literal;)*) => {
        /// See the module. Each is documented beside its name below.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub(crate) struct Figures {
            $(pub(crate) $name: f64,)*
        }

        /// All of them, in the order in which they are told.
        const FIELDS: &[Field] = &[
            $(Field {
                name: stringify!($name),
                unit: $unit,
                what: $what,
                at: |figures| &mut figures.$name,
            },)*
        ];
    };
}

figures! {
    one_p50, "us", "one server, from stamp to receipt, 500 diffs a second to 1 subscriber: median";
    one_p99, "us", "the same: 99th percentile";
    two_p50, "us", "the same, published at one replica and received at another: median";
    two_p99, "us", "the same: 99th percentile";
    one_cpu, "us of CPU a delivery", "one server, 5,000 diffs a second, each to 5 subscribers: in all";
    two_cpu, "us of CPU a delivery", "the same from one replica to the other: both replicas and NATS";
    publish, "us of CPU a diff", "one server: to take a diff, whoever subscribes";
    deliver, "us of CPU a delivery", "one server: to each subscriber";
    forward, "us of CPU a diff", "a replica, as many as go: to forward it";
    receive, "us of CPU a diff", "a replica, as many as go: to take a diff from NATS, whoever subscribes";
    nats_in, "us of CPU a diff", "NATS, as many as go: to take one";
    nats_out, "us of CPU a diff", "NATS, as many as go: to give one to a replica";
    link_rate, "diffs a second", "the most over the link of one replica to another, CPU permitting";
    idle_cpu, "us of CPU a second", "a replica without sessions, while 5,000 diffs a second are published elsewhere";
    idle_bytes, "bytes a second", "what NATS sends it meanwhile";
    interest_rate, "shards a second", "distinct shards that one replica begins to take, with the join";
    one_rate, "shards a second", "one server: distinct shards subscribed to";
    interest_cpu, "us of CPU a shard", "a replica: to begin to take one and to let it go, more than one server's";
    interest_cpu_nats, "us of CPU a shard", "NATS: the same";
    answer, "us of CPU a question", "a replica: to answer another, of 250 shards, of which it has nothing";
    interest_bytes, "bytes a shard", "a replica: memory for an interest, more than one server's shard";
    interest_bytes_nats, "bytes a shard", "NATS: the same";
    shard_bytes, "bytes a shard", "one server: memory for a shard with one subscription";
    session_bytes, "bytes a session", "one server: memory for a session";
    diff_bytes, "bytes a diff", "one server: what its log takes for one of 900 bytes";
    base_bytes, "bytes", "a server's memory without sessions";
    base_bytes_nats, "bytes", "that of NATS";
}

impl Figures {
    /// One for each line.
    pub(crate) fn text(&self) -> String {
        let mut figures = self.clone();
        let mut out = String::new();
        for field in FIELDS {
            let value = number(*(field.at)(&mut figures));
            // A String grows: writing to it cannot fail.
            let _ = writeln!(
                out,
                "  {:<20} {value:>10} {:<22} {}",
                field.name, field.unit, field.what
            );
        }
        out
    }

    pub(crate) fn json(&self) -> String {
        let mut figures = self.clone();
        let values = FIELDS
            .iter()
            .map(|field| (field.name.to_owned(), (*(field.at)(&mut figures)).into()));
        let json: serde_json::Map<String, serde_json::Value> = values.collect();
        format!("{:#}\n", serde_json::Value::from(json))
    }

    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let json: serde_json::Value = serde_json::from_str(text)?;
        let mut figures = Self::default();
        for field in FIELDS {
            let value = json[field.name].as_f64();
            let value = value.ok_or_else(|| format!("the file has no figure {}", field.name))?;
            *(field.at)(&mut figures) = value;
        }
        Ok(figures)
    }

    /// Of each figure by itself; None without rounds.
    pub(crate) fn median(rounds: &[Self]) -> Option<Self> {
        let mut median = Self::default();
        for field in FIELDS {
            let mut values: Vec<f64> = rounds
                .iter()
                .map(|round| *(field.at)(&mut round.clone()))
                .collect();
            values.sort_by(f64::total_cmp);
            *(field.at)(&mut median) = *values.get(values.len() / 2)?;
        }
        Some(median)
    }
}

/// Three digits, or all of a large number.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Counts here are at most millions.
#[expect(clippy::cast_precision_loss, reason = "small")]
pub(crate) fn float(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let one = Figures {
            publish: 3.5,
            idle_bytes: 120.0,
            ..Figures::default()
        };
        assert_eq!(Figures::parse(&one.json()).unwrap(), one);
        let error = Figures::parse("{\"one_p50\": 1}").unwrap_err();
        assert_eq!(error.to_string(), "the file has no figure one_p99");
    }

    #[test]
    fn the_median_is_of_each_figure() {
        let round = |publish, deliver| Figures {
            publish,
            deliver,
            ..Figures::default()
        };
        let rounds = [round(1.0, 9.0), round(3.0, 2.0), round(2.0, 5.0)];
        assert_eq!(Figures::median(&rounds), Some(round(2.0, 5.0)));
        assert_eq!(Figures::median(&[]), None);
    }
}
