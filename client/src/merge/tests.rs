use std::fmt::Write as _;

use bytes::Bytes;
use persist_pubsub_proto::ShardId;

use super::*;
use crate::event::Event;

mod belief;
mod homes;
mod overlap;
mod owed;
mod own;

/// The old session, the new one, and one more.
const A: LinkId = LinkId::new(1);
const B: LinkId = LinkId::new(2);
const C: LinkId = LinkId::new(3);
const SPREAD: Duration = Duration::from_secs(2);
const GRACE: Duration = Duration::from_secs(1);

/// A run, and what it told: "d4" a diff, "g5-6" a gap, "r7" a resync.
struct Bench {
    run: Run,
    told: Told,
}

impl Bench {
    /// The host has the shard at `have`, and the old session brings it.
    fn new(have: u64) -> Self {
        let mut bench = Self::bare(Some(have));
        bench.joins(A, have);
        assert_eq!(bench.told(), "");
        bench
    }

    fn bare(have: Option<u64>) -> Self {
        Self {
            run: Run::new(have),
            told: Told::default(),
        }
    }

    fn with<T>(&mut self, change: impl FnOnce(&mut Run, &mut Tell) -> T) -> T {
        let mut tell = Tell {
            shard: ShardId::new([1; 16]),
            incarnation: 1,
            told: &mut self.told,
        };
        change(&mut self.run, &mut tell)
    }

    fn answered(&mut self, link: LinkId, asked: Position, highest: Option<u64>) -> Option<u64> {
        self.with(|run, tell| run.answered(link, asked, highest, clock(), tell))
    }

    /// A v1 session subscribes from where the host is. Its server knows the
    /// shard, or has never heard of it.
    fn subscribes(&mut self, link: LinkId, highest: Option<u64>) -> Option<u64> {
        let asked = self.run.position();
        self.answered(link, asked, highest)
    }

    fn joins(&mut self, link: LinkId, highest: u64) {
        assert_eq!(self.subscribes(link, Some(highest)), None);
    }

    fn diff(&mut self, link: LinkId, seqno: u64) -> Outcome {
        let diff = Diff {
            shard: ShardId::new([1; 16]),
            seqno,
            committed: 0,
            diff: Bytes::new(),
        };
        self.with(|run, tell| run.diff(link, diff, Instant::now(), tell))
    }

    fn gap(&mut self, link: LinkId, from: u64, to: u64) -> Outcome {
        self.gap_at(link, from, to, to)
    }

    fn gap_at(&mut self, link: LinkId, from: u64, to: u64, highest: u64) -> Outcome {
        let gap = Gap {
            shard: ShardId::new([1; 16]),
            from,
            to,
            highest,
        };
        self.with(|run, tell| run.gap(link, &gap, Instant::now(), tell))
    }

    fn left(&mut self, link: LinkId, end: End) {
        self.with(|run, tell| run.left(link, end, clock(), tell));
    }

    fn pushes(&mut self, seqno: u64) -> Pushed {
        let pushed = self.run.pushed(seqno);
        if pushed.frees {
            self.with(Run::advance);
        }
        pushed
    }

    /// Time passes, and what is due happens at its moment.
    async fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        let mut rounds = 0;
        while let Some(due) = self.run.next_due(GRACE).filter(|due| *due <= end) {
            rounds += 1;
            assert!(rounds < 100, "what is due stays due");
            tokio::time::sleep_until(due).await;
            self.with(|run, tell| run.due(Instant::now(), GRACE, tell));
        }
        tokio::time::sleep_until(end).await;
    }

    /// What was told since the last call.
    fn told(&mut self) -> String {
        let mut text = String::new();
        for queued in self.told.events.drain(..) {
            match queued.event() {
                Event::Diff { seqno, .. } => write!(text, "d{seqno} "),
                Event::Gap { from, to, .. } => write!(text, "g{from}-{to} "),
                Event::Resync { highest, .. } => match highest {
                    Some(highest) => write!(text, "r{highest} "),
                    None => write!(text, "r? "),
                },
                other => panic!("{other:?}"),
            }
            .unwrap();
        }
        text.trim_end().to_owned()
    }
}

fn clock() -> Clock {
    Clock {
        now: Instant::now(),
        spread: SPREAD,
    }
}

fn position(have: u64, sure: u64) -> Position {
    Position {
        have: Some(have),
        sure: Some(sure),
    }
}
