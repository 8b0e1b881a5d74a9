//! Orders that come as lines on the standard input.

use std::io::BufRead as _;

use tokio::sync::mpsc;

/// Orders that may wait: the drill gives one at a time.
const WAITING: usize = 16;

/// Each line, until the input ends.
///
/// Read by a thread of its own, and not by the runtime, which would not end
/// before somebody has said one more.
pub(in crate::drill) fn lines() -> mpsc::Receiver<String> {
    let (give, orders) = mpsc::channel(WAITING);
    std::thread::spawn(move || {
        let lines = std::io::stdin().lock().lines();
        for line in lines.map_while(Result::ok) {
            if give.blocking_send(line).is_err() {
                return;
            }
        }
    });
    orders
}
