//! What this replica answers another one's questions.
//!
//! Only what is listed here is answered: calls that change nothing, for which
//! the operator was authorised where the call came in, and fences.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use persist_pubsub_proto::admin_v1 as pb;
use persist_pubsub_proto::backplane_v1 as wire;
use persist_pubsub_proto::backplane_v1::operator_answer::Answer;
use persist_pubsub_proto::backplane_v1::operator_question::Question;
use prost::Message;
use tonic::Status;

use super::{Agreement, Call};
use crate::admin::{Facts, listing};
use crate::status::Board;

/// Bytes of an answer's rows: half of what NATS carries in a message unless it
/// is told otherwise. What does not fit goes into the next page, or is counted
/// as left out.
pub(crate) const MAX_ANSWER: usize = 512 * 1024;
/// How long the next look may take: the asker gives up a little later.
const LOOK_WITHIN: Duration = Duration::from_secs(3);

/// Answers.
#[derive(Clone, Debug)]
pub(crate) struct Answering {
    facts: Facts,
    board: Arc<Board>,
    agreement: Arc<Agreement>,
}

impl Answering {
    pub(crate) fn new(facts: Facts, board: Arc<Board>, agreement: Arc<Agreement>) -> Self {
        Self {
            facts,
            board,
            agreement,
        }
    }

    /// The answer to a question, whatever its bytes are.
    pub(crate) async fn answer(&self, question: Bytes) -> Bytes {
        let answer = match wire::OperatorQuestion::decode(question) {
            Ok(question) => self.answer_to(question.question).await,
            Err(e) => Err(Status::invalid_argument(format!("no question: {e}"))),
        };
        let answer = answer.unwrap_or_else(|status| {
            Answer::Refusal(wire::Refusal {
                code: u32::try_from(i32::from(status.code())).unwrap_or_default(),
                why: status.message().to_owned(),
            })
        });
        let answer = wire::OperatorAnswer {
            answer: Some(answer),
        };
        answer.encode_to_vec().into()
    }

    async fn answer_to(&self, question: Option<Question>) -> Result<Answer, Status> {
        match question {
            Some(Question::Call(call)) => Ok(Answer::Call(self.call(call).await?)),
            Some(Question::Fence(told)) => Ok(Answer::Fence(self.agreement.told(told).await?)),
            Some(Question::Fences(asked)) => Ok(Answer::Fences(self.agreement.hold(&asked))),
            None => Err(Status::unimplemented(
                "it does not know the question: it is of another release",
            )),
        }
    }

    async fn call(&self, call: wire::ForwardedCall) -> Result<wire::ForwardedAnswer, Status> {
        let facts = &self.facts;
        let mut newest = 0;
        let request = call.request;
        let response = match call.name.as_str() {
            pb::GetServerInfoRequest::NAME => facts.info().encode_to_vec(),
            pb::ListSessionsRequest::NAME => {
                listing::sessions(facts, decode(request)?, MAX_ANSWER)?.encode_to_vec()
            }
            pb::ListShardsRequest::NAME => {
                listing::shards(facts, decode(request)?, MAX_ANSWER)?.encode_to_vec()
            }
            pb::WatchGenerationsRequest::NAME => {
                let request: pb::WatchGenerationsRequest = decode(request)?;
                let mut census = match self.look(0).await {
                    Ok((look, _)) => look.generations(&request.environment),
                    // There are many shards; sessions alone are soon counted.
                    Err(_) => self.board.census(&request.environment),
                };
                census.groups_left_out += cut(&mut census.groups);
                // Who asks has them, too.
                census.fences = Vec::new();
                let census = Some(census);
                pb::WatchGenerationsResponse { census }.encode_to_vec()
            }
            pb::WatchStatusRequest::NAME => {
                let look = self.look(call.seen).await;
                // Rather one of a while ago than none.
                let (look, samples) = match (look, self.board.last(call.seen)) {
                    (Err(_), Some(last)) => last,
                    (look, _) => look?,
                };
                newest = look.newest();
                let mut look = look.message(samples);
                look.groups_left_out += cut(&mut look.groups);
                cut(&mut look.sessions);
                look.encode_to_vec()
            }
            pb::GetFenceRequest::NAME => {
                let request: pb::GetFenceRequest = decode(request)?;
                let response = pb::GetFenceResponse {
                    fence: facts.fence(&request.environment),
                    ..pb::GetFenceResponse::default()
                };
                response.encode_to_vec()
            }
            name => {
                return Err(Status::unimplemented(format!(
                    "it does not answer '{}' to a replica",
                    name.escape_debug()
                )));
            }
        };
        Ok(wire::ForwardedAnswer {
            response: response.into(),
            newest,
        })
    }

    /// The next look at everything, and the samples after `seen`.
    async fn look(
        &self,
        seen: u64,
    ) -> Result<(Arc<crate::status::Status>, Vec<pb::StatusSample>), Status> {
        let look = tokio::time::timeout(LOOK_WITHIN, self.board.next(seen)).await;
        look.map_err(|_| Status::deadline_exceeded("it takes long to look at all its shards"))?
            .ok_or_else(|| Status::unavailable("it goes"))
    }
}

fn decode<M: Message + Default>(bytes: Bytes) -> Result<M, Status> {
    M::decode(bytes).map_err(|e| Status::invalid_argument(format!("no such request: {e}")))
}

/// Leaves the rows that fit in an answer: how many it cut off.
fn cut<M: Message>(rows: &mut Vec<M>) -> u64 {
    let all = rows.len();
    rows.truncate(fitting(rows, MAX_ANSWER / 2));
    (all - rows.len()) as u64
}

/// How many rows of a list fit into some bytes.
pub(crate) fn fitting<M: Message>(rows: &[M], bytes: usize) -> usize {
    let mut left = bytes;
    let fits = rows.iter().take_while(|row| {
        // Its tag and its length are a few more.
        let rest = left.checked_sub(row.encoded_len() + 8);
        left = rest.unwrap_or(0);
        rest.is_some()
    });
    fits.count()
}
