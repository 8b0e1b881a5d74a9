//! What a server would not take for now: the seqno is announced later, so that
//! subscribers hear of it even if nothing else is published on the shard.

use std::sync::Arc;
use std::time::Duration;

use persist_pubsub_proto::ShardId;
use tokio::time::sleep;

use super::gate::LinkId;
use crate::shared::{Shared, lock};

/// No server makes an announcement wait for longer, whatever it asks for.
const LONGEST: Duration = Duration::from_secs(60);

/// A push that was refused until later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) shard: ShardId,
    pub(crate) seqno: u64,
    pub(crate) retry_after: Duration,
}

/// Has it announced by this session later; by others if that is gone by then.
pub(super) fn later(shared: &Arc<Shared>, link: LinkId, refused: Refused) {
    let Refused { shard, seqno, .. } = refused;
    if !lock(&shared.outbox).refused(link, shard, seqno, &shared.stats) {
        // Others wait already: it goes with them.
        return;
    }
    // One task a session. The client may end before it does.
    let shared = Arc::downgrade(shared);
    let delay = refused.retry_after.min(LONGEST);
    tokio::spawn(async move {
        sleep(delay).await;
        if let Some(shared) = shared.upgrade() {
            let waits = lock(&shared.outbox).announce_refused(link, &shared.stats);
            if waits {
                shared.ring_idle();
            }
        }
    });
}
