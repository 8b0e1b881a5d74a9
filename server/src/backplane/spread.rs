//! Sessions spread over the replicas: one that has clearly more than its share
//! asks a few of its own to go elsewhere. Of v1 alone: they open their next
//! session first. A v0 client would be deaf for seconds.

use std::sync::Arc;
use std::time::Duration;

use super::hub::Me;
use super::link::Link;
use super::presence::Peers;
use crate::drain::DrainState;
use crate::error::EndReason;
use crate::frame::Wire;
use crate::metrics::BackplaneMetrics;
use crate::outbox::When;
use crate::service::v1;
use crate::session::{Address, Session};

/// More than this many times the mean is more than a replica's share.
const ABOVE_MEAN: f64 = 1.25;
/// By more than so many sessions: few are not worth moving.
const ABOVE_BY: f64 = 8.0;
/// Of the sessions that can be moved, the part that is at a time.
const PART: f64 = 0.05;

/// See the module.
pub(super) struct Spread {
    pub(super) me: Arc<Me>,
    pub(super) link: Arc<Link>,
    pub(super) peers: Arc<Peers>,
    pub(super) metrics: BackplaneMetrics,
    pub(super) every: Duration,
    /// How long a session is given to open its next one.
    pub(super) window: Duration,
}

impl Spread {
    /// Runs until it is dropped.
    pub(super) async fn run(self) {
        loop {
            // Two that have too many do not send theirs away in one moment.
            let pause = self.every.mul_f64(0.9 + 0.2 * fastrand::f64());
            tokio::time::sleep(pause).await;
            let away = self.send_away();
            if away.is_empty() {
                continue;
            }
            tokio::time::sleep(self.window).await;
            for session in away {
                session.end(EndReason::Moved, When::Flushed);
            }
        }
    }

    /// Asks as many to go as it is time for.
    fn send_away(&self) -> Vec<Arc<Session>> {
        if !self.link.is_up() || self.me.drain.state() != DrainState::Serving {
            return Vec::new();
        }
        let all = self.me.census.all();
        let serving = DrainState::Serving.as_str();
        let peers = self.peers.all();
        let theirs = peers.iter().filter(|peer| peer.state == serving);
        let theirs: Vec<u64> = theirs.map(|peer| peer.sessions).collect();
        let mine = all.len();
        let mut movable = all;
        movable.retain(|session| is_movable(session));
        let few = to_move(mine, movable.len(), &theirs);
        if few == 0 {
            return Vec::new();
        }
        fastrand::shuffle(&mut movable);
        movable.truncate(few);
        let told = "this replica has more sessions than its share";
        for session in &movable {
            session.answer(v1::draining(told, self.window));
        }
        self.metrics.moved.inc_by(movable.len() as u64);
        tracing::info!(
            sessions = mine,
            moved = movable.len(),
            replicas = theirs.len() + 1,
            "backplane: sessions are asked to go to other replicas"
        );
        movable
    }
}

/// Whether a session can be moved without a gap.
pub(super) fn is_movable(session: &Session) -> bool {
    session.wire == Wire::V1 && matches!(session.address, Address::Network(_))
}

/// How many of `movable` sessions go, of `mine`, where the others have
/// `theirs`.
fn to_move(mine: usize, movable: usize, theirs: &[u64]) -> usize {
    if theirs.is_empty() {
        return 0;
    }
    // Counts of sessions: exact.
    let mine = mine as f64;
    let all = theirs.iter().map(|&n| n as f64).sum::<f64>() + mine;
    let mean = all / (theirs.len() + 1) as f64;
    if mine <= mean * ABOVE_MEAN || mine <= mean + ABOVE_BY {
        return 0;
    }
    let part = (movable as f64 * PART).ceil();
    // Small, and not below 0.
    part.min((mine - mean).floor()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_new_replica_gets_some_of_many() {
        assert_eq!(to_move(300, 300, &[300, 0]), 15);
        assert_eq!(to_move(300, 100, &[300, 0]), 5);
        assert_eq!(to_move(300, 0, &[300, 0]), 0);
        assert_eq!(to_move(230, 230, &[200, 200]), 0, "no more than its share");
        assert_eq!(to_move(10, 10, &[0]), 0, "few are not worth it");
        assert_eq!(to_move(300, 300, &[]), 0, "there is nobody else");
        assert_eq!(to_move(0, 0, &[300]), 0);
    }

    proptest! {
        /// It never sends so many that it has less than its share, and so comes
        /// to an end.
        #[test]
        fn it_comes_to_an_end(mine in 0_usize..10_000, theirs in prop::collection::vec(0_u64..10_000, 1..6)) {
            let (mut mine, mut theirs) = (mine, theirs);
            for _ in 0..1000 {
                let few = to_move(mine, mine, &theirs);
                if few == 0 {
                    break;
                }
                mine -= few;
                let least = theirs.iter_mut().min().unwrap();
                *least += few as u64;
                let all = theirs.iter().sum::<u64>() + mine as u64;
                prop_assert!(mine as u64 >= all / (theirs.len() as u64 + 1));
            }
            prop_assert_eq!(to_move(mine, mine, &theirs), 0);
        }
    }
}
