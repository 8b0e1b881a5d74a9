//! Replicas without a network: each question is answered where it is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, Weak};

use persist_pubsub_proto::ShardId;
use persist_pubsub_proto::backplane_v1 as wire;
use persist_pubsub_proto::backplane_v1::operator_answer::Answer;
use persist_pubsub_proto::backplane_v1::operator_question::Question;
use proptest::prelude::*;
use prost::Message as _;
use tokio::time::Instant;

use super::*;
use crate::admin::Facts;
use crate::config::Config;
use crate::drain::Drain;
use crate::frame::Publication;
use crate::session::Shared;
use crate::status::Board;

/// Some replicas.
#[derive(Debug, Default)]
pub(super) struct Net {
    replicas: Mutex<BTreeMap<String, Replica>>,
    /// Those that nobody reaches, and that reach nobody.
    cut_off: Mutex<BTreeSet<String>>,
}

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Replica {
    pub(super) peer: Peer,
    pub(super) shared: Arc<Shared>,
    pub(super) agreement: Arc<Agreement>,
    pub(super) gather: Gather,
    answering: Answering,
}

/// What one of them sees of the others.
#[derive(Debug)]
struct Side {
    me: Peer,
    net: Weak<Net>,
}

impl Net {
    pub(super) fn start(self: &Arc<Self>, name: &str) -> Replica {
        let me = Peer::new(name, &format!("{name}-run"));
        let side = Side {
            me: me.clone(),
            net: Arc::downgrade(self),
        };
        let fleet = Fleet::new(me.clone(), Some(Arc::new(side)));
        let shared = Shared::bare(&Config::default());
        let agreement = Agreement::new(Arc::clone(&shared), fleet.clone(), None);
        let facts = Facts {
            shared: Arc::clone(&shared),
            drain: Drain::new(),
            instance_id: me.instance.clone(),
            started_at: shared.clock.now(),
            started: Instant::now(),
            data_addr: ([127, 0, 0, 1], 1).into(),
            v0_environment: "default".to_owned(),
            fleet,
            backplane: None,
        };
        let board = Board::new(facts.clone());
        let replica = Replica {
            shared,
            gather: Gather::new(facts.clone(), Arc::clone(&board)),
            answering: Answering::new(facts, board, Arc::clone(&agreement)),
            agreement,
            peer: me.clone(),
        };
        let mut replicas = self.replicas.lock().unwrap();
        replicas.insert(me.instance, replica.clone());
        replica
    }

    pub(super) fn cut(&self, replica: &Replica) {
        let mut cut_off = self.cut_off.lock().unwrap();
        cut_off.insert(replica.peer.instance.clone());
    }

    pub(super) fn mend(&self) {
        self.cut_off.lock().unwrap().clear();
    }

    fn reaches(&self, one: &str, other: &str) -> bool {
        let cut_off = self.cut_off.lock().unwrap();
        !cut_off.contains(one) && !cut_off.contains(other)
    }
}

impl Peers for Side {
    fn roll(&self) -> Roll {
        let net = self.net.upgrade().unwrap();
        let replicas = net.replicas.lock().unwrap();
        let others = replicas.values().map(|replica| replica.peer.clone());
        let others = others.filter(|peer| *peer != self.me);
        let (present, lost) =
            others.partition::<Vec<_>, _>(|peer| net.reaches(&self.me.instance, &peer.instance));
        let silent = |peer| (peer, Duration::from_secs(7));
        Roll {
            connected: !net.cut_off.lock().unwrap().contains(&self.me.instance),
            present,
            lost: lost.into_iter().map(silent).collect(),
        }
    }

    fn ask<'a>(&'a self, instance: &'a str, question: Bytes, _: Duration) -> Asking<'a> {
        let net = self.net.upgrade().unwrap();
        Box::pin(async move {
            if !net.reaches(&self.me.instance, instance) {
                return Err("no answer in time".to_owned());
            }
            let replica = net.replicas.lock().unwrap().get(instance).cloned();
            Ok(replica.unwrap().answering.answer(question).await)
        })
    }
}

fn fleet_of(names: &[&str]) -> (Arc<Net>, Vec<Replica>) {
    let net = Arc::new(Net::default());
    let replicas = names.iter().map(|name| net.start(name)).collect();
    (net, replicas)
}

#[test]
fn a_call_is_about_one_or_about_all() {
    let (net, replicas) = fleet_of(&["a", "b", "c"]);
    let fleet = replicas[0].gather.fleet();
    let one = |i: usize| Scope::One(replicas[i].peer.clone());
    for (named, scope) in [
        ("", Scope::All),
        ("all", Scope::All),
        ("this", Scope::This),
        ("a", Scope::This),
        ("a-run", Scope::This),
        ("b", one(1)),
        ("c-run", one(2)),
    ] {
        assert_eq!(fleet.scope(named).unwrap(), scope, "{named}");
    }
    let unknown = fleet.scope("x").unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
    assert!(unknown.message().contains("a, b, c"), "{unknown:?}");
    net.cut(&replicas[2]);
    let lost = fleet.scope("c").unwrap_err();
    assert_eq!(lost.code(), tonic::Code::Unavailable);
    assert!(lost.message().contains("7 s"), "{lost:?}");

    let alone = Fleet::new(Peer::new("a", "a-run"), None);
    for named in ["", "all", "this", "a", "a-run"] {
        assert_eq!(alone.scope(named).unwrap(), Scope::This, "{named}");
    }
    assert!(
        alone
            .scope("b")
            .unwrap_err()
            .message()
            .contains("no --backplane")
    );
}

/// However small the pages: each row once, each replica named.
#[tokio::test]
async fn pages_go_from_one_replica_to_the_next() {
    let (net, replicas) = fleet_of(&["a", "b", "c"]);
    let shards = |first: u8, n: u8| (first..first + n).map(|i| ShardId::new([i; 16]));
    for (replica, first, n) in [(0, 1, 7), (1, 3, 0), (2, 5, 9)] {
        let registry = &replicas[replica].shared.registry;
        let environment = registry.environment("e");
        for shard in shards(first, n) {
            let announced = Publication {
                shard,
                seqno: 1,
                diff: None,
            };
            let now = Instant::now();
            registry
                .publish(&environment, announced, 1, None, now)
                .unwrap();
        }
    }
    let list = async |page_size| {
        let mut rows = Vec::new();
        let mut missing = Vec::new();
        let mut token = String::new();
        loop {
            let call = pb::ListShardsRequest {
                page_size,
                page_token: token,
                ..pb::ListShardsRequest::default()
            };
            let page = replicas[1].gather.page(call, |facts, call| {
                crate::admin::listing::shards(facts, call, usize::MAX)
            });
            let page = page.await.unwrap();
            assert!(page.shards.len() <= page_size as usize);
            rows.extend(page.shards.into_iter().map(|s| (s.replica, s.shard_id)));
            let silent = page.replicas.into_iter().filter(|r| !r.missing.is_empty());
            missing.extend(silent.map(|replica| replica.name));
            token = page.next_page_token;
            if token.is_empty() {
                return (rows, missing);
            }
        }
    };
    let a = shards(1, 7).map(|s| ("a".to_owned(), s.to_string()));
    let c = shards(5, 9).map(|s| ("c".to_owned(), s.to_string()));
    let expected: Vec<_> = a.chain(c).collect();
    for page_size in [1, 2, 7, 8, 1000] {
        assert_eq!(list(page_size).await, (expected.clone(), vec![]));
    }
    net.cut(&replicas[0]);
    let (rows, missing) = list(2).await;
    assert_eq!(rows, expected[7..]);
    assert_eq!(missing, ["a"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// Whatever comes over the backplane is answered, and does nothing.
    #[test]
    fn what_is_no_question_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (_net, replicas) = fleet_of(&["a"]);
        let answer = runtime.block_on(replicas[0].answering.answer(bytes.clone().into()));
        let answer = wire::OperatorAnswer::decode(answer).unwrap();
        prop_assert!(answer.answer.is_some());
        prop_assert!(replicas[0].shared.fences.all().len() <= 1);
    }
}

#[tokio::test]
async fn only_what_changes_nothing_is_forwarded() {
    let (_net, replicas) = fleet_of(&["a"]);
    for name in ["Drain", "SetFence", "WatchShards", "", "x"] {
        let question = wire::OperatorQuestion {
            question: Some(Question::Call(wire::ForwardedCall {
                name: name.to_owned(),
                ..wire::ForwardedCall::default()
            })),
        };
        let answer = replicas[0]
            .answering
            .answer(question.encode_to_vec().into());
        let answer = wire::OperatorAnswer::decode(answer.await).unwrap();
        let Some(Answer::Refusal(refusal)) = answer.answer else {
            panic!("{name}: {answer:?}");
        };
        assert_eq!(refusal.code, tonic::Code::Unimplemented as u32);
    }
}
