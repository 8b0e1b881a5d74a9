//! What servers would not take for now, until it is announced.

use persist_pubsub_proto::ShardId;

use super::{Announce, Outbox, raise};
use crate::connection::gate::LinkId;
use crate::home::PlaceId;
use crate::stats::Counters;

/// Of one session.
pub(super) struct Refused {
    link: LinkId,
    place: PlaceId,
    announce: Announce,
}

impl Outbox {
    /// The server of this session would not take a push for now. True: it is
    /// the first, and `announce_refused` has to be called later.
    pub(crate) fn refused(
        &mut self,
        link: LinkId,
        shard: ShardId,
        seqno: u64,
        stats: &Counters,
    ) -> bool {
        let waits = self.refused.iter().any(|refused| refused.link == link);
        if !waits {
            let Some(reader) = self.readers.iter().find(|r| r.link == link) else {
                return false;
            };
            self.refused.push(Refused {
                link,
                place: reader.place,
                announce: Announce::new(),
            });
        }
        for refused in self.refused.iter_mut().filter(|r| r.link == link) {
            if !raise(&mut refused.announce, shard, seqno, self.max_shards) {
                stats.announcements_dropped.one();
            }
        }
        !waits
    }

    /// What was refused is announced: by the session itself, or by another one
    /// with its place, or by the next. A place that is wanted no more hears
    /// nothing. Whether a session waits, as of a push.
    pub(crate) fn announce_refused(&mut self, link: LinkId, stats: &Counters) -> bool {
        let Some(at) = self.refused.iter().position(|r| r.link == link) else {
            return false;
        };
        let Refused {
            place, announce, ..
        } = self.refused.swap_remove(at);
        let exact = self.readers.iter().position(|r| r.link == link);
        let reader = exact.or_else(|| self.readers.iter().position(|r| r.place == place));
        let reader = reader.and_then(|at| self.readers.get_mut(at));
        let behind = match reader {
            Some(reader) => Some(&mut reader.behind),
            None => {
                let published = self.places.iter_mut().find(|p| p.place == place);
                published.and_then(|published| published.absent.as_mut())
            }
        };
        let Some(behind) = behind else { return false };
        for (shard, seqno) in announce {
            if !raise(&mut behind.announce, shard, seqno, self.max_shards) {
                stats.announcements_dropped.one();
            }
        }
        self.readers.iter().any(|reader| reader.idle)
    }
}
