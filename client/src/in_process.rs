//! A server in the host's own process, reached without a network.

use std::pin::Pin;

use futures_core::Stream;
use persist_pubsub_proto::v1;

use crate::event::Reason;

/// What a client says in a session: `Hello` first. The server polls it when it
/// has room to answer, as a network would. It ends when the client is done.
pub type Requests = Pin<Box<dyn Stream<Item = v1::SessionRequest> + Send>>;

/// What the server says. The client polls it when its host has room. It ends
/// in good order, or with an error as its last item; dropping it ends the
/// session.
pub type Responses = Pin<Box<dyn Stream<Item = Result<v1::SessionResponse, Reason>> + Send>>;

/// A server in this process, as `Server::in_process` of persist-pubsub-server
/// gives it: sessions of `persist.pubsub.v1` whose messages are handed over as
/// they are. Nothing is encoded, and a diff's bytes are never copied.
///
/// What a stream of a network promises, these promise too: each side takes
/// what the other says in order and when it has room, holds a bounded number
/// of messages for it, and hears of its end.
pub trait InProcess: Send + Sync + 'static {
    /// Names this run of the server. Handles of one server say the same, and
    /// no two servers do.
    fn instance_id(&self) -> &str;

    /// Opens a session. Does not wait; the answer to `Hello` is the first of
    /// the responses. Called from any runtime, or from none.
    ///
    /// # Errors
    /// The server drains, has as many sessions as it takes, or is gone. A
    /// retry can help with the first two.
    fn open(&self, requests: Requests) -> Result<Responses, Reason>;
}
