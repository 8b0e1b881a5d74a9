//! Generated sequences against the few lines that a reader would write down.
//!
//! Seqnos are near each other here; those that are doubted are in `doubt`.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// One step. Readers are named modulo those that there are.
#[derive(Clone, Debug)]
enum Step {
    Publish {
        seqno: u64,
        own: Option<usize>,
    },
    Announce {
        seqno: u64,
    },
    /// The next few in order, but for one that is left out.
    Run {
        len: u64,
        without: u64,
    },
    Join {
        v1: bool,
        start: Option<u64>,
    },
    Leave {
        reader: usize,
    },
    Read {
        reader: usize,
        room: usize,
    },
    Pass {
        ms: u64,
    },
    Age {
        ms: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let seqno = || 1_u64..40;
    prop_oneof![
        6 => (seqno(), prop::option::weighted(0.3, 0_usize..4))
            .prop_map(|(seqno, own)| Step::Publish { seqno, own }),
        1 => seqno().prop_map(|seqno| Step::Announce { seqno }),
        4 => (1_u64..6, 0_u64..8).prop_map(|(len, without)| Step::Run { len, without }),
        2 => (any::<bool>(), prop::option::of(0_u64..40))
            .prop_map(|(v1, start)| Step::Join { v1, start }),
        1 => (0_usize..4).prop_map(|reader| Step::Leave { reader }),
        6 => (0_usize..4, 0_usize..4).prop_map(|(reader, room)| Step::Read { reader, room }),
        2 => (1_u64..80).prop_map(|ms| Step::Pass { ms }),
        1 => (0_u64..300).prop_map(|ms| Step::Age { ms }),
    ]
}

/// A reader, and what it can say of what it was told.
struct Model {
    subscription: Subscription,
    /// Where it began; None: with whatever comes first.
    from: Option<u64>,
    /// Told by a diff or a gap, or published by itself.
    covered: BTreeSet<u64>,
    own: BTreeSet<u64>,
    /// Published by itself when another had before. A v0 reader may be sent
    /// these once more with a run that is sent again: stale, to it.
    also: BTreeSet<u64>,
    diffs: Vec<u64>,
    checked: usize,
    told: Vec<Told>,
}

impl Model {
    fn new(subscription: Subscription) -> Self {
        let from = Some(subscription.cursor.next()).filter(|&next| next != 0);
        Self {
            covered: subscription
                .gap
                .into_iter()
                .flat_map(|(a, b)| a..=b)
                .collect(),
            subscription,
            from,
            own: BTreeSet::new(),
            also: BTreeSet::new(),
            diffs: Vec::new(),
            checked: 0,
            told: Vec::new(),
        }
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let v1 = self.subscription.reader.wire == Wire::V1;
        for &told in &self.told[self.checked..] {
            match told {
                D(n) => {
                    prop_assert!(!self.own.contains(&n), "no_echo: {n}");
                    prop_assert!(!v1 || !self.also.contains(&n), "no_echo: {n}");
                    let last = self.diffs.last().copied();
                    self.diffs.push(n);
                    if v1 {
                        prop_assert!(last < Some(n), "order: {n} after {last:?}");
                        for missing in self.from.or(last).unwrap_or(n)..n {
                            prop_assert!(
                                self.covered.contains(&missing),
                                "no_silent_gap: {missing} before {n}"
                            );
                        }
                        self.covered.insert(n);
                    }
                }
                G(from, to) => {
                    for n in from..=to {
                        let own = self.own.contains(&n) || self.also.contains(&n);
                        prop_assert!(!own, "no_echo: gap at {n}");
                        self.covered.insert(n);
                    }
                }
            }
        }
        self.checked = self.told.len();
        Ok(())
    }

    /// A reader that applies the seqno above its state and discards the rest.
    fn applied(&self, mut state: u64) -> u64 {
        let own = |mut state: u64| {
            while self.own.contains(&(state + 1)) || self.also.contains(&(state + 1)) {
                state += 1;
            }
            state
        };
        state = own(state);
        for &n in &self.diffs {
            if n == state + 1 {
                state = own(n);
            }
        }
        state
    }
}

fn run(limits: TopicLimits, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut bench = Bench::with(limits);
    let mut readers: Vec<Model> = Vec::new();
    let mut highest = None;
    let mut sessions = 0;
    for step in steps {
        let any = readers.len().max(1);
        match step {
            Step::Publish { seqno, own } => {
                match own.and_then(|own| readers.get_mut(own % any)) {
                    Some(reader) => {
                        let verdict = bench.publish_own(&mut reader.subscription, seqno);
                        let own = if verdict == Verdict::Duplicate {
                            &mut reader.also
                        } else {
                            &mut reader.own
                        };
                        own.insert(seqno);
                        reader.covered.insert(seqno);
                    }
                    None => {
                        bench.publish(seqno);
                    }
                }
                highest = highest.max(Some(seqno));
            }
            Step::Announce { seqno } => {
                bench.announce(seqno);
                highest = highest.max(Some(seqno));
            }
            Step::Run { len, without } => {
                let first = highest.map_or(1, |h| h + 1);
                for seqno in (first..first + len).filter(|s| s - first != without) {
                    bench.publish(seqno);
                    highest = Some(seqno);
                }
            }
            Step::Join { v1, start } if readers.len() < 4 => {
                sessions += 1;
                let start = match start {
                    Some(have) if v1 => Start::After(have),
                    None if v1 => Start::Now,
                    _ => Start::Replay,
                };
                let wire = if v1 { Wire::V1 } else { Wire::V0 };
                readers.push(Model::new(bench.join(wire, sessions, start)));
            }
            Step::Join { .. } => {}
            Step::Leave { reader } => {
                if !readers.is_empty() {
                    let gone = readers.swap_remove(reader % any);
                    bench.topic.unsubscribe(gone.subscription.index);
                }
            }
            Step::Read { reader, room } => {
                if let Some(reader) = readers.get_mut(reader % any) {
                    let sub = &mut reader.subscription;
                    bench.read_some(sub, room, &mut reader.told);
                    reader.check()?;
                }
            }
            Step::Pass { ms } => bench.pass(super::ms(ms)),
            Step::Age { ms } => {
                bench.age(super::ms(ms));
            }
        }
        let status = bench.status();
        prop_assert!(status.entries <= bench.limits.log_entries);
        prop_assert!(
            status.held == 0 || bench.timer.is_some(),
            "held, and no timer"
        );
    }
    // Publishing stops: what waits is let through, and everybody reads.
    bench.pass(ms(10_000));
    let status = bench.status();
    prop_assert_eq!(status.held, 0);
    prop_assert_eq!(status.head, highest);
    let Some(head) = status.head else {
        return Ok(());
    };
    let run = bench.topic.last_run();
    for reader in &mut readers {
        let mut reads = 0;
        while bench.read_some(&mut reader.subscription, 1, &mut reader.told) {
            reads += 1;
            prop_assert!(reads < 10_000, "a reading that does not end");
        }
        reader.check()?;
        match reader.subscription.reader.wire {
            Wire::V1 => {
                // A client that said it has more than there is has it.
                let first = reader.from.unwrap_or(head);
                for n in first..=head {
                    prop_assert!(reader.covered.contains(&n), "convergence: {n} of {head}");
                }
            }
            Wire::V0 => {
                let first = run.max(reader.from.unwrap_or(run));
                if first <= head {
                    let applied = reader.applied(first - 1);
                    prop_assert_eq!(
                        applied,
                        head,
                        "the run from {} on: {:?}",
                        first,
                        &reader.diffs
                    );
                }
            }
        }
        prop_assert!(
            reader.subscription.own.is_empty() || reader.subscription.cursor.next() > head + 1
        );
    }
    for reader in readers {
        bench.topic.unsubscribe(reader.subscription.index);
    }
    bench.age(ms(0));
    prop_assert_eq!(bench.accounted, 0);
    prop_assert!(bench.topic.close_if_idle());
    Ok(())
}

proptest! {
    // More with PROPTEST_CASES.
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(1_000),
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_promise_holds_on_a_topic(
        log_entries in 2_usize..30,
        log_bytes in 500_usize..20_000,
        window in prop_oneof![Just(0_u64), Just(50)],
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let limits = TopicLimits { log_entries, log_bytes, reorder_window: ms(window), ..limits() };
        run(limits, steps)?;
    }
}
