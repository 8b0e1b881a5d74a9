//! No message of one client silences a shard for the others: a seqno that
//! cannot be, on a shard that is known and on one that is not.

use bytes::Bytes;
use persist_pubsub_compat_tests::recording::Push;
use persist_pubsub_compat_tests::{v0_peer, v1_peer};
use persist_pubsub_proto::v1::session_response::Message as Response;
use persist_pubsub_proto::{MAX_SEQNO, ShardId};

use super::{Failure, Verdict, server};

const SHARD: ShardId = ShardId::new([0x66; 16]);
const ABSURD: u64 = 1 << 62;

/// Subscribers and a writer of a shard, and somebody who says nonsense.
struct Scene {
    v0: v0_peer::Peer,
    v1: v1_peer::Peer,
    writer: v0_peer::Peer,
    v0_liar: v0_peer::Peer,
    v1_liar: v1_peer::Peer,
}

fn push(seqno: u64) -> Push {
    Push {
        shard: SHARD,
        seqno,
        diff: Bytes::from(format!("diff {seqno}")),
    }
}

impl Scene {
    async fn set(url: &str) -> Result<Self, Failure> {
        let mut scene = Self {
            v0: v0_peer::Peer::connect(url, "v0").await?,
            v1: v1_peer::Peer::connect(url, "v1").await?,
            writer: v0_peer::Peer::connect(url, "writer").await?,
            v0_liar: v0_peer::Peer::connect(url, "v0-liar").await?,
            v1_liar: v1_peer::Peer::connect(url, "v1-liar").await?,
        };
        scene.v0.sender().subscribe(SHARD).await?;
        scene.v1.follow(SHARD, None).await?;
        Ok(scene)
    }

    /// Says every absurd thing, and returns when all of it was taken.
    async fn lie(&mut self) -> Verdict {
        let v0 = self.v0_liar.sender();
        let v1 = self.v1_liar.sender();
        for seqno in [u64::MAX, MAX_SEQNO + 1, ABSURD, MAX_SEQNO] {
            v0.push(push(seqno)).await?;
            v1.publish(SHARD, seqno, 1, "a lie").await?;
            v1.announce(SHARD, seqno).await?;
        }
        // v1 answers what follows; v0's stream ends when it was read.
        v1.unsubscribe(1, &[]).await?;
        for _ in 0..4 {
            let receiver = self.v1_liar.receiver();
            receiver
                .expect_rejected("the seqnos that cannot be")
                .await?;
        }
        let receiver = self.v1_liar.receiver();
        receiver.expect_unsubscribed("an answer").await?;
        Ok(())
    }

    /// What was published reaches the v0 subscriber; lies aside, and what it
    /// had before: that costs it nothing.
    async fn v0_hears(&mut self, seqno: u64) -> Verdict {
        loop {
            let got = self.v0.receiver().expect_push("a diff, for v0").await?;
            if got.seqno < ABSURD {
                assert!(got.seqno <= seqno && got == push(got.seqno), "{got:?}");
                if got.seqno == seqno {
                    return Ok(());
                }
            }
        }
    }

    /// The v1 subscriber is told: true by the diff, false by a gap.
    async fn v1_hears(&mut self, seqno: u64) -> Result<bool, Failure> {
        loop {
            match self.v1.receiver().expect("a diff, for v1").await? {
                // Doubted at first, and told by a gap; now believed.
                Response::Diff(diff) if diff.seqno < seqno => {
                    assert_eq!(diff.diff, push(diff.seqno).diff);
                }
                Response::Diff(diff) if diff.seqno < ABSURD => {
                    assert_eq!((diff.seqno, diff.diff), (seqno, push(seqno).diff));
                    return Ok(true);
                }
                Response::Gap(gap) if gap.from_seqno <= seqno && seqno <= gap.to_seqno => {
                    return Ok(false);
                }
                Response::Diff(_) | Response::Gap(_) => {}
                other => return Err(format!("{other:?}").into()),
            }
        }
    }
}

#[tokio::test]
async fn an_absurd_seqno_does_not_silence_a_shard() -> Verdict {
    // What is believed goes through at once, past whatever is missing.
    let server = server(&["--reorder-window=0s"]).await?;
    let mut scene = Scene::set(&server.url()).await?;
    let mut seqno = 0;
    for lie in [false, true, true] {
        if lie {
            scene.lie().await?;
        }
        for _ in 0..3 {
            seqno += 1;
            scene.writer.sender().push(push(seqno)).await?;
            scene.v0_hears(seqno).await?;
            assert!(scene.v1_hears(seqno).await?, "{seqno} was a gap to v1");
        }
    }
    // Nor is whoever comes later misled.
    let mut late = v1_peer::Peer::connect(&server.url(), "late").await?;
    assert_eq!(late.follow(SHARD, Some(seqno - 1)).await?, Some(seqno));
    let got = late.receiver().expect_diff("the last diff").await?;
    assert_eq!(got.seqno, seqno);
    Ok(())
}

#[tokio::test]
async fn an_absurd_first_seqno_does_not_silence_a_shard() -> Verdict {
    // At once, so that the test need not wait for it.
    let server = server(&["--jump-confirm=0s", "--reorder-window=0s"]).await?;
    let mut scene = Scene::set(&server.url()).await?;
    scene.lie().await?;
    let mut believed = false;
    for seqno in 10..30 {
        scene.writer.sender().push(push(seqno)).await?;
        scene.v0_hears(seqno).await?;
        let told = scene.v1_hears(seqno).await?;
        assert!(
            told || !believed,
            "{seqno} was a gap to v1, those before not"
        );
        believed = told;
    }
    assert!(believed, "v1 hears of gaps alone");
    Ok(())
}
