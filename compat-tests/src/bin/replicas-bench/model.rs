//! How far replicas reach: from the measured figures, a load and machines.
//!
//! Everything grows in proportion to the environments but for a fixed part, so
//! that for each part of the whole (a replica's CPU, NATS' memory, ...) there
//! is a number of environments at which it is used up. The least of them is how
//! many are carried, and the part that it is of gives out first.
//!
//! What is assumed and not measured: sessions and publishers are spread evenly
//! and at random over the replicas; each replica has its machine to itself; a
//! diff that passes from one NATS server to another costs what it costs to take
//! one and to give one; a question, and an answer, costs NATS what a diff does,
//! and whoever gets an answer what it costs to take a diff.

use std::fmt::Write as _;

use clap::Args;

use super::Failure;
use super::figures::{Figures, float, number};

/// The size of a diff whose memory was measured.
const MEASURED_DIFF: f64 = 900.0;
/// Replicas and NATS servers that are tried.
const MOST_REPLICAS: usize = 1000;
const MOST_NATS: usize = 100;
/// Shards in one question of a replica to the others, all of one environment.
const SHARDS_OF_QUESTION: f64 = 256.0;
/// Seconds between two questions of a replica about everything that it takes.
const AUDIT: f64 = 30.0;

/// What an environment does.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "An environment of the model")]
pub(crate) struct Load {
    /// Its processes, each with a session
    #[arg(long, default_value_t = 6.0)]
    sessions: f64,
    /// Its shards that are subscribed to
    #[arg(long, default_value_t = 200.0)]
    shards: f64,
    /// Sessions that subscribe to a shard
    #[arg(long, default_value_t = 2.0)]
    readers: f64,
    /// Diffs a second, on all of its shards
    #[arg(long, default_value_t = 200.0)]
    diffs: f64,
    /// Bytes of a diff
    #[arg(long, default_value_t = 900.0)]
    diff_size: f64,
}

/// What there is of machines, and of bounds that are set.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Machines of the model")]
pub(crate) struct Machine {
    /// Cores of a replica, and of a NATS server
    #[arg(long, default_value_t = 4.0)]
    cores: f64,
    /// Memory of each, in GiB
    #[arg(long, default_value_t = 8.0)]
    memory: f64,
    /// How much of both may be used
    #[arg(long, default_value_t = 0.7)]
    busy: f64,
    /// NATS servers, where the number of replicas is given
    #[arg(long, default_value_t = 3)]
    nats: usize,
    /// Seconds of diffs that logs are to hold: those that a v0 session is sent again
    #[arg(long, default_value_t = 10.0)]
    keep: f64,
    /// Seconds within which a replica's sessions move when it goes: --drain-window
    #[arg(long, default_value_t = 5.0)]
    window: f64,
    /// --max-sessions
    #[arg(long, default_value_t = 10_000.0)]
    max_sessions: f64,
    /// --max-shards
    #[arg(long, default_value_t = 1_000_000.0)]
    max_shards: f64,
}

fn positive(values: &[(&str, f64)]) -> Result<(), Failure> {
    for (flag, value) in values {
        if !(*value > 0.0 && *value <= 1e9) {
            return Err(format!("--{flag} is {value}; above 0, up to 10^9 is allowed").into());
        }
    }
    Ok(())
}

impl Load {
    pub(crate) fn check(&self) -> Result<(), Failure> {
        positive(&[
            ("sessions", self.sessions),
            ("shards", self.shards),
            ("readers", self.readers),
            ("diffs", self.diffs),
            ("diff-size", self.diff_size),
        ])
    }
}

impl Machine {
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if !(1..=MOST_NATS).contains(&self.nats) {
            return Err(format!("--nats is {}; 1 to {MOST_NATS} is allowed", self.nats).into());
        }
        positive(&[
            ("cores", self.cores),
            ("memory", self.memory),
            ("busy", self.busy),
            ("keep", self.keep),
            ("window", self.window),
            ("max-sessions", self.max_sessions),
            ("max-shards", self.max_shards),
        ])
    }
}

/// A part of the whole: how much of it is used without environments, and by
/// each of them, where 1 is all.
#[derive(Clone, Copy, Debug)]
struct Part {
    name: &'static str,
    fixed: f64,
    each: f64,
}

impl Part {
    /// How many environments use it up.
    fn carries(&self) -> f64 {
        ((1.0 - self.fixed) / self.each.max(1e-12)).max(0.0)
    }
}

/// The part that gives out first.
fn first(parts: Vec<Part>) -> Part {
    let none = Part {
        name: "nothing",
        fixed: 0.0,
        each: 0.0,
    };
    let least = |a: Part, b: Part| if b.carries() < a.carries() { b } else { a };
    parts.into_iter().fold(none, least)
}

/// The figures with a load and machines.
struct Model<'a> {
    figures: &'a Figures,
    load: &'a Load,
    machine: &'a Machine,
}

/// How likely it is that somebody of `many` is at one of `places`.
fn anybody(many: f64, places: usize) -> f64 {
    1.0 - (1.0 - 1.0 / float(places)).powf(many)
}

impl Model<'_> {
    /// How many other replicas a diff goes to.
    fn hops(&self, replicas: usize) -> f64 {
        float(replicas - 1) * anybody(self.load.readers, replicas)
    }

    fn cores(&self) -> f64 {
        self.machine.cores * self.machine.busy
    }

    fn memory(&self) -> f64 {
        self.machine.memory * self.machine.busy * f64::from(1 << 30)
    }

    /// Questions a second of one replica about what it takes of one environment.
    fn audits(&self, replicas: usize) -> f64 {
        let l = self.load;
        let wanted = l.shards * anybody(l.readers, replicas);
        let here = anybody(l.sessions, replicas);
        here * (wanted / here / SHARDS_OF_QUESTION).ceil() / AUDIT
    }

    /// What a question to all others costs NATS, with their answers.
    fn question(&self, replicas: usize) -> f64 {
        let (f, others) = (self.figures, float(replicas - 1));
        f.nats_in + others * (f.nats_in + 2.0 * f.nats_out)
    }

    /// One replica of so many.
    fn of_a_replica(&self, replicas: usize) -> Vec<Part> {
        let (f, l, m) = (self.figures, self.load, self.machine);
        let n = float(replicas);
        let hops = self.hops(replicas);
        let several = if replicas > 1 { 1.0 } else { 0.0 };
        // Of one environment, at one replica.
        let (published, heard) = (l.diffs / n, l.diffs * hops / n);
        // Its own questions' answers, and its answers to the others'.
        let audits = (n - 1.0) * self.audits(replicas) * (f.receive + f.answer);
        let cpu = published * (f.publish + several * f.forward)
            + heard * f.receive
            + l.diffs * l.readers / n * f.deliver
            + audits;
        let wanted = l.shards * anybody(l.readers, replicas);
        let held = l.shards * anybody(l.readers + 1.0, replicas);
        let log = (published + heard) * m.keep * (f.diff_bytes - MEASURED_DIFF + l.diff_size);
        let memory = l.sessions / n * f.session_bytes
            + held * f.shard_bytes
            + several * wanted * f.interest_bytes
            + log;
        let part = |name, fixed, each| Part { name, fixed, each };
        let mut parts = vec![
            // Of three replicas, one without sessions.
            part(
                "CPU of a replica",
                several * f.idle_cpu * n / 3.0 / 1e6 / self.cores(),
                cpu / 1e6 / self.cores(),
            ),
            part(
                "memory of a replica",
                f.base_bytes / self.memory(),
                memory / self.memory(),
            ),
            part("--max-sessions", 0.0, l.sessions / n / m.max_sessions),
            part("--max-shards", 0.0, held / m.max_shards),
        ];
        if replicas > 1 {
            parts.push(part(
                "a replica's link",
                0.0,
                (published + heard) / f.link_rate,
            ));
            // Those of one that goes, at one of those that stay.
            let moved = wanted / float(replicas - 1) / m.window;
            parts.push(part("moving interest", 0.0, moved / f.interest_rate));
        }
        parts
    }

    /// One NATS server of so many, of so many replicas.
    fn of_nats(&self, replicas: usize, servers: usize) -> Vec<Part> {
        if replicas < 2 {
            return Vec::new();
        }
        let (f, l, m) = (self.figures, self.load, self.machine);
        let hops = self.hops(replicas);
        let routed = float(servers - 1) * anybody(hops, servers);
        let diff = f.nats_in + hops * f.nats_out + routed * (f.nats_in + f.nats_out);
        let audits = float(replicas) * self.audits(replicas) * self.question(replicas);
        let cpu = (l.diffs * diff + audits) / float(servers);
        // Every server knows the interest at every other.
        let wanted = l.shards * anybody(l.readers, replicas);
        let all = wanted * float(replicas);
        // A replica goes: its sessions subscribe elsewhere, and ask all others.
        let of_session = (l.shards * l.readers / l.sessions / SHARDS_OF_QUESTION).ceil();
        let asked = l.sessions / float(replicas) * of_session;
        let moving =
            wanted * f.interest_cpu_nats + asked * self.question(replicas) / float(servers);
        let part = |name, fixed, each| Part { name, fixed, each };
        vec![
            part("CPU of NATS", 0.0, cpu / 1e6 / self.cores()),
            part(
                "memory of NATS",
                f.base_bytes_nats / self.memory(),
                all * f.interest_bytes_nats / self.memory(),
            ),
            part(
                "CPU of NATS while sessions move",
                0.0,
                (cpu + moving / m.window) / 1e6 / m.cores,
            ),
        ]
    }

    /// What gives out first with so many of both.
    fn of(&self, replicas: usize, nats: usize) -> Part {
        let mut parts = self.of_a_replica(replicas);
        parts.extend(self.of_nats(replicas, nats));
        first(parts)
    }

    /// As few replicas, and then NATS servers, as carry so many environments.
    fn needed(&self, environments: f64) -> Option<(usize, usize)> {
        let carried = |parts| first(parts).carries() >= environments;
        let replicas = (1..=MOST_REPLICAS).find(|n| carried(self.of_a_replica(*n)))?;
        let nats = match replicas {
            1 => 0,
            _ => (1..=MOST_NATS).find(|n| carried(self.of_nats(replicas, *n)))?,
        };
        Some((replicas, nats))
    }
}

/// The model's tables.
pub(crate) fn text(figures: &Figures, load: &Load, machine: &Machine) -> String {
    let model = Model {
        figures,
        load,
        machine,
    };
    let mut out = format!(
        "\nAn environment: {} sessions, {} shards, {} subscribers each, {} diffs/s of {} bytes.\n\
         A replica, and a NATS server: {} cores, {} GiB, used to {} %.\n\n\
         With {} NATS servers\n\
         | replicas | environments | sessions | shards | diffs/s | deliveries/s | what gives out first |\n\
         |---|---|---|---|---|---|---|\n",
        load.sessions,
        load.shards,
        load.readers,
        load.diffs,
        load.diff_size,
        machine.cores,
        machine.memory,
        machine.busy * 100.0,
        machine.nats,
    );
    for replicas in [1, 2, 3, 5, 10, 20, 50, 100] {
        let part = model.of(replicas, machine.nats);
        let carried = part.carries().floor();
        // A String grows: writing to it cannot fail.
        let _ = writeln!(
            out,
            "| {replicas} | {} | {} | {} | {} | {} | {} |",
            number(carried),
            number(carried * load.sessions),
            number(carried * load.shards),
            number(carried * load.diffs),
            number(carried * load.diffs * load.readers),
            part.name,
        );
    }
    out.push_str(
        "\nAs few as carry so many\n\
         | environments | sessions | shards | replicas | NATS servers | what gives out next |\n\
         |---|---|---|---|---|---|\n",
    );
    for environments in [
        1.0, 10.0, 100.0, 1000.0, 3000.0, 10_000.0, 30_000.0, 100_000.0,
    ] {
        let (replicas, nats, next) = match model.needed(environments) {
            Some((replicas, nats)) => {
                let next = model.of(replicas, nats.max(1)).name;
                (replicas.to_string(), nats.to_string(), next)
            }
            None => (
                "more than 1,000".to_owned(),
                format!("or more than {MOST_NATS}"),
                "",
            ),
        };
        let _ = writeln!(
            out,
            "| {} | {} | {} | {replicas} | {nats} | {next} |",
            number(environments),
            number(environments * load.sessions),
            number(environments * load.shards),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        load: Load,
        #[command(flatten)]
        machine: Machine,
    }

    fn flags(more: &[&str]) -> Flags {
        Flags::parse_from([&["x"], more].concat())
    }

    /// Costs of one each, and room for everything else.
    fn figures() -> Figures {
        Figures {
            publish: 10.0,
            deliver: 5.0,
            forward: 10.0,
            receive: 10.0,
            nats_in: 1.0,
            nats_out: 1.0,
            link_rate: 1e6,
            interest_rate: 1e6,
            diff_bytes: 1000.0,
            ..Figures::default()
        }
    }

    fn of<'a>(figures: &'a Figures, flags: &'a Flags) -> Model<'a> {
        Model {
            figures,
            load: &flags.load,
            machine: &flags.machine,
        }
    }

    #[test]
    fn one_server_carries_what_its_cores_do() {
        let (figures, flags) = (figures(), flags(&["--busy=1", "--max-sessions=1000000"]));
        // 200 diffs a second of 10 us and two deliveries of 5 us: 4 ms.
        let part = of(&figures, &flags).of(1, 3);
        assert_eq!(part.name, "CPU of a replica");
        assert!((part.carries() - 1000.0).abs() < 1e-6, "{part:?}");
    }

    #[test]
    fn the_part_that_is_made_dear_gives_out_first() {
        for (name, change) in [
            (
                "memory of NATS",
                Figures {
                    interest_bytes_nats: 1e8,
                    ..figures()
                },
            ),
            (
                "CPU of NATS",
                Figures {
                    nats_in: 1e6,
                    ..figures()
                },
            ),
            (
                "a replica's link",
                Figures {
                    link_rate: 1.0,
                    ..figures()
                },
            ),
            (
                "moving interest",
                Figures {
                    interest_rate: 0.01,
                    ..figures()
                },
            ),
            (
                "memory of a replica",
                Figures {
                    session_bytes: 1e9,
                    ..figures()
                },
            ),
        ] {
            assert_eq!(of(&change, &flags(&[])).of(3, 3).name, name);
        }
        assert_eq!(
            of(&figures(), &flags(&["--max-shards=1"])).of(3, 3).name,
            "--max-shards"
        );
    }

    #[test]
    fn more_replicas_carry_more_and_what_is_needed_carries() {
        let (figures, flags) = (figures(), flags(&[]));
        let model = of(&figures, &flags);
        for replicas in 2..50 {
            let fewer = first(model.of_a_replica(replicas)).carries();
            let more = first(model.of_a_replica(replicas + 1)).carries();
            assert!(more > fewer, "{replicas}: {fewer}, {more}");
        }
        for environments in [1.0, 500.0, 20_000.0] {
            let (replicas, nats) = model.needed(environments).unwrap();
            assert!(model.of(replicas, nats.max(1)).carries() >= environments);
            if replicas > 1 {
                let fewer = first(model.of_a_replica(replicas - 1));
                assert!(fewer.carries() < environments);
            }
        }
        assert_eq!(model.needed(1e12), None);
    }

    #[test]
    fn a_diff_goes_to_as_many_as_read_it() {
        let (figures, flags) = (figures(), flags(&[]));
        let model = of(&figures, &flags);
        assert_eq!(model.hops(1), 0.0);
        // Two readers: each of the two replicas has one of them at three of
        // four times.
        assert!((model.hops(2) - 0.75).abs() < 1e-9);
        assert!((model.hops(1000) - 2.0).abs() < 0.01);
    }

    #[test]
    fn what_cannot_be_is_named() {
        let error = flags(&["--readers=0"]).load.check().unwrap_err();
        assert_eq!(
            error.to_string(),
            "--readers is 0; above 0, up to 10^9 is allowed"
        );
        let error = flags(&["--nats=0"]).machine.check().unwrap_err();
        assert_eq!(error.to_string(), "--nats is 0; 1 to 100 is allowed");
    }
}
