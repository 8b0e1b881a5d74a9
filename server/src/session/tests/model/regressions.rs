//! What failures of the model shrank to, as the model printed them.

use super::Seqno::{Far, Near};
use super::Step::*;
use super::{Bounds, Step, run};

#[track_caller]
fn holds(bounds: Bounds, steps: Vec<Step>) {
    if let Err(error) = run(bounds, steps) {
        panic!("{error}");
    }
}

/// A cursor in a run that was given up passed the session's own diff without
/// standing there: evicted, the diff was a gap to who had published it.
#[test]
fn own_diffs_in_an_adopted_run_are_no_gap() {
    holds(
        Bounds {
            entries: 2,
            bytes: 2000,
            bytes_total: 80460,
            window_ms: 0,
            confirm_ms: 0,
        },
        vec![
            Publish {
                who: 0,
                shard: 0,
                seqno: Far(0, 0),
                announce: false,
            },
            Publish {
                who: 0,
                shard: 0,
                seqno: Near(1),
                announce: false,
            },
            Publish {
                who: 0,
                shard: 0,
                seqno: Near(1),
                announce: false,
            },
            Subscribe {
                who: 0,
                shard: 0,
                have: None,
            },
            Publish {
                who: 0,
                shard: 0,
                seqno: Near(1),
                announce: false,
            },
            Publish {
                who: 0,
                shard: 0,
                seqno: Near(2),
                announce: false,
            },
            Connect { v1: false },
            Poll { who: 4 },
            Run {
                who: 1,
                shard: 0,
                len: 2,
                without: 2,
                own: false,
            },
            Poll { who: 0 },
        ],
    );
}

/// Own diffs that were doubted were not kept in mind.
#[test]
fn own_diffs_that_were_doubted_are_no_gap() {
    holds(
        Bounds {
            entries: 2,
            bytes: 60452,
            bytes_total: 1000,
            window_ms: 0,
            confirm_ms: 0,
        },
        vec![
            Publish {
                who: 0,
                shard: 0,
                seqno: Far(0, 0),
                announce: false,
            },
            Subscribe {
                who: 0,
                shard: 0,
                have: None,
            },
            Publish {
                who: 0,
                shard: 0,
                seqno: Near(1),
                announce: false,
            },
            Publish {
                who: 0,
                shard: 0,
                seqno: Near(1),
                announce: false,
            },
            Connect { v1: false },
            Poll { who: 4 },
            Connect { v1: false },
            Publish {
                who: 0,
                shard: 0,
                seqno: Near(2),
                announce: false,
            },
            Publish {
                who: 1,
                shard: 0,
                seqno: Near(4),
                announce: false,
            },
            Run {
                who: 0,
                shard: 0,
                len: 1,
                without: 0,
                own: false,
            },
        ],
    );
}

/// Nor those that another had published before.
#[test]
fn own_diffs_that_were_doubted_before_are_no_gap() {
    holds(
        Bounds {
            entries: 2,
            bytes: 163968,
            bytes_total: 41523,
            window_ms: 0,
            confirm_ms: 100,
        },
        vec![
            Publish {
                who: 0,
                shard: 0,
                seqno: Far(0, 0),
                announce: false,
            },
            Subscribe {
                who: 0,
                shard: 0,
                have: None,
            },
            Publish {
                who: 0,
                shard: 0,
                seqno: Near(53),
                announce: false,
            },
            Run {
                who: 0,
                shard: 0,
                len: 4,
                without: 2,
                own: false,
            },
            Subscribe {
                who: 2,
                shard: 0,
                have: None,
            },
            Publish {
                who: 2,
                shard: 0,
                seqno: Near(55),
                announce: false,
            },
            Publish {
                who: 0,
                shard: 0,
                seqno: Near(1),
                announce: false,
            },
            Poll { who: 2 },
            Run {
                who: 0,
                shard: 0,
                len: 2,
                without: 2,
                own: false,
            },
        ],
    );
}

/// Who named a seqno that nobody had reached was not told of what had left the
/// log before it read.
#[test]
fn who_is_absurdly_ahead_is_told_of_what_was_evicted() {
    holds(
        Bounds {
            entries: 2,
            bytes: 2000,
            bytes_total: 1000,
            window_ms: 0,
            confirm_ms: 0,
        },
        vec![
            Connect { v1: true },
            Disconnect { who: 0 },
            Disconnect { who: 4 },
            Subscribe {
                who: 1,
                shard: 1,
                have: Some(Far(0, 0)),
            },
            Publish {
                who: 0,
                shard: 1,
                seqno: Near(6),
                announce: false,
            },
        ],
    );
}

/// What had left the log of an adopted run before it was read was no gap.
#[test]
fn what_is_evicted_of_an_adopted_run_is_a_gap() {
    holds(
        Bounds {
            entries: 2,
            bytes: 2000,
            bytes_total: 20226,
            window_ms: 0,
            confirm_ms: 0,
        },
        vec![
            Subscribe {
                who: 2,
                shard: 1,
                have: None,
            },
            Connect { v1: false },
            Publish {
                who: 0,
                shard: 1,
                seqno: Far(0, 0),
                announce: false,
            },
            Poll { who: 2 },
            Pass { ms: 10 },
            Run {
                who: 0,
                shard: 1,
                len: 7,
                without: 0,
                own: false,
            },
        ],
    );
}

/// Who had published the last of a run that was given up was not told of the
/// others of it.
#[test]
fn what_was_not_read_of_a_run_that_is_given_up_is_told() {
    holds(
        Bounds {
            entries: 2,
            bytes: 241808,
            bytes_total: 1000,
            window_ms: 0,
            confirm_ms: 0,
        },
        vec![
            Connect { v1: false },
            Connect { v1: false },
            Run {
                who: 0,
                shard: 0,
                len: 2,
                without: 2,
                own: false,
            },
            Run {
                who: 0,
                shard: 0,
                len: 3,
                without: 0,
                own: false,
            },
            Run {
                who: 0,
                shard: 0,
                len: 6,
                without: 0,
                own: false,
            },
            Run {
                who: 0,
                shard: 0,
                len: 6,
                without: 0,
                own: false,
            },
            Connect { v1: false },
            Publish {
                who: 0,
                shard: 1,
                seqno: Near(1),
                announce: false,
            },
            Subscribe {
                who: 4,
                shard: 0,
                have: None,
            },
            Publish {
                who: 1,
                shard: 0,
                seqno: Far(2, 0),
                announce: false,
            },
            Run {
                who: 0,
                shard: 0,
                len: 7,
                without: 0,
                own: false,
            },
            Publish {
                who: 0,
                shard: 0,
                seqno: Far(2, 1),
                announce: false,
            },
            Run {
                who: 0,
                shard: 0,
                len: 7,
                without: 0,
                own: false,
            },
            Pass { ms: 1 },
            Run {
                who: 0,
                shard: 0,
                len: 3,
                without: 3,
                own: false,
            },
        ],
    );
}

/// A cursor in a run that was given up stood where the session then published
/// in the new one: it counted as passed, and the cursor went back before it.
#[test]
fn own_diffs_where_a_cursor_of_the_old_run_stands_are_no_gap() {
    let far = |n| Publish {
        who: 0,
        shard: 0,
        seqno: Far(1, n),
        announce: false,
    };
    holds(
        Bounds {
            entries: 2,
            bytes: 2000,
            bytes_total: 41265,
            window_ms: 0,
            confirm_ms: 0,
        },
        vec![
            Connect { v1: false },
            Publish {
                who: 0,
                shard: 0,
                seqno: Near(53),
                announce: false,
            },
            far(0),
            far(1),
            Subscribe {
                who: 4,
                shard: 0,
                have: Some(Near(57)),
            },
            far(3),
            Run {
                who: 0,
                shard: 0,
                len: 6,
                without: 6,
                own: true,
            },
            Connect { v1: false },
        ],
    );
}
