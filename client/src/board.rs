//! How the client stands with each of its places: what their tasks post, and
//! what the host and the task that keeps them read.

use std::collections::BTreeMap;

use crate::connection::gate::LinkId;
use crate::event::{Reason, ServerInfo, Wire};
use crate::home::{HomeState, HomeStatus, Place, PlaceId};

/// One line per place whose task lives.
#[derive(Default)]
pub(crate) struct Board {
    lines: BTreeMap<PlaceId, Line>,
    /// The generation is fenced out.
    pub(crate) fenced: bool,
    /// No session counts any more.
    pub(crate) ended: bool,
    /// Something has happened that names may have new addresses for.
    pub(crate) look_up: bool,
}

pub(crate) struct Line {
    pub(crate) place: Place,
    pub(crate) session: Option<Session>,
    /// Why there is no session.
    reason: Option<Reason>,
    /// Its server is about to go; its task has a next session to open.
    pub(crate) draining: bool,
    /// It is not wanted any more.
    pub(crate) leaving: bool,
}

/// The newest session with a place.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) link: LinkId,
    pub(crate) wire: Wire,
    pub(crate) server: ServerInfo,
}

impl Board {
    pub(crate) fn open(&mut self, id: PlaceId, place: Place) {
        self.lines.insert(
            id,
            Line {
                place,
                session: None,
                reason: None,
                draining: false,
                leaving: false,
            },
        );
    }

    pub(crate) fn close(&mut self, id: PlaceId) -> Option<Line> {
        self.lines.remove(&id)
    }

    pub(crate) fn line(&self, id: PlaceId) -> Option<&Line> {
        self.lines.get(&id)
    }

    pub(crate) fn line_mut(&mut self, id: PlaceId) -> Option<&mut Line> {
        self.lines.get_mut(&id)
    }

    /// How many places there are sessions with.
    pub(crate) fn connected(&self) -> usize {
        if self.ended {
            return 0;
        }
        self.sessions(None).count()
    }

    /// Whether there is a session with another place than this.
    pub(crate) fn has_other(&self, id: PlaceId) -> bool {
        self.sessions(Some(id)).next().is_some()
    }

    /// Whether another place than this has a session with the same run of a
    /// server: it has several addresses.
    pub(crate) fn has_instance(&self, id: PlaceId, instance: &str) -> bool {
        !instance.is_empty()
            && self
                .sessions(Some(id))
                .any(|session| session.server.instance_id == instance)
    }

    pub(crate) fn statuses(&self) -> Vec<HomeStatus> {
        let status = |line: &Line| HomeStatus {
            home: line.place.home.clone(),
            address: line.place.address,
            state: match &line.session {
                Some(session) => HomeState::Connected {
                    wire: session.wire,
                    server: session.server.clone(),
                    leaving: line.leaving || line.draining,
                },
                None => HomeState::Connecting {
                    reason: line.reason.clone(),
                },
            },
        };
        self.lines.values().map(status).collect()
    }

    fn sessions(&self, but: Option<PlaceId>) -> impl Iterator<Item = &Session> {
        self.lines
            .iter()
            .filter(move |(id, _)| Some(**id) != but)
            .filter_map(|(_, line)| line.session.as_ref())
    }
}

impl Line {
    /// There is no session, for this reason.
    pub(crate) fn lost(&mut self, reason: Reason) {
        self.session = None;
        self.draining = false;
        self.reason = Some(reason);
    }

    /// There is no session, and an attempt or a session came to an end.
    pub(crate) fn has_failed(&self) -> bool {
        self.session.is_none() && self.reason.is_some()
    }
}
