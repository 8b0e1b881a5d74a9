//! The Admin calls that one replica puts to another: those that change
//! nothing.

use persist_pubsub_proto::admin_v1 as pb;
use prost::Message;

/// A request of the Admin service.
pub(crate) trait Call: Message + Clone + Default + 'static {
    /// Its name in the service.
    const NAME: &'static str;
    type Answer: Message + Default + 'static;

    /// Which replicas it is about.
    fn replica(&mut self) -> &mut String;
}

macro_rules! calls {
    ($($name:literal $request:ident $answer:ident,)*) => {
        $(impl Call for pb::$request {
            const NAME: &'static str = $name;
            type Answer = pb::$answer;

            fn replica(&mut self) -> &mut String {
                &mut self.replica
            }
        })*
    };
}

calls! {
    "GetServerInfo" GetServerInfoRequest GetServerInfoResponse,
    "ListSessions" ListSessionsRequest ListSessionsResponse,
    "ListShards" ListShardsRequest ListShardsResponse,
    "WatchGenerations" WatchGenerationsRequest WatchGenerationsResponse,
    "WatchStatus" WatchStatusRequest WatchStatusResponse,
    "GetFence" GetFenceRequest GetFenceResponse,
}

/// A call that is answered page by page.
pub(crate) trait Paged: Call {
    type Row;

    fn page(&mut self) -> (&mut u32, &mut String);
    /// The rows, and the next page's token.
    fn rows(answer: Self::Answer) -> (Vec<Self::Row>, String);
    /// Names a row's replica.
    fn name(row: &mut Self::Row, replica: &str);
    fn answer(rows: Vec<Self::Row>, token: String, replicas: Vec<pb::Replica>) -> Self::Answer;
}

macro_rules! paged {
    ($($request:ident $row:ident $rows:ident,)*) => {
        $(impl Paged for pb::$request {
            type Row = pb::$row;

            fn page(&mut self) -> (&mut u32, &mut String) {
                (&mut self.page_size, &mut self.page_token)
            }

            fn rows(answer: Self::Answer) -> (Vec<Self::Row>, String) {
                (answer.$rows, answer.next_page_token)
            }

            fn name(row: &mut Self::Row, replica: &str) {
                replica.clone_into(&mut row.replica);
            }

            fn answer(
                $rows: Vec<Self::Row>,
                next_page_token: String,
                replicas: Vec<pb::Replica>,
            ) -> Self::Answer {
                Self::Answer { $rows, next_page_token, replicas }
            }
        })*
    };
}

paged! {
    ListSessionsRequest Session sessions,
    ListShardsRequest Shard shards,
}
