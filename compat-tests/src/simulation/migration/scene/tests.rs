//! What excuses a gap, and where each excuse ends.

use tokio::time::sleep;

use super::*;

const READER: Incarnation = (Who::Environmentd, 1);
const WRITER: Incarnation = (Who::ClusterA, 2);
const OTHER: Incarnation = (Who::ClusterB, 3);
const BOTH: [Server; 2] = Server::ALL;

const CRASHED: Option<&str> = Some("its writer crashed");
const APART: Option<&str> = Some("the two had no server together, or it crashed");
const OVERTAKEN: Option<&str> = Some("overtaken at every server that both had, for none waited");

fn shard() -> ShardId {
    ShardId::new([7; 16])
}

async fn pass(millis: u64) {
    sleep(Duration::from_millis(millis)).await;
}

/// These processes have been at both servers for long enough.
async fn settled(who: &[Incarnation]) -> Scene {
    let scene = Scene::new(&[shard()], false);
    for &who in who {
        scene.sessions(who, BOTH.into());
    }
    pass(300).await;
    scene
}

impl Scene {
    fn commits(&self, by: Incarnation) -> u64 {
        self.commit(by, shard()).0
    }

    /// Why the reader may be told of a gap there.
    fn why(&self, seqno: u64) -> Option<&'static str> {
        self.excuse(READER, shard(), seqno)
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_crash_nothing_is_excused() {
    let scene = Scene::new(&[shard()], false);
    // Neither is anywhere.
    let seqno = scene.commits(WRITER);
    assert_eq!(scene.why(seqno), None);
    scene.crash(Some(OTHER), None);
    assert_eq!(scene.why(seqno), APART);
    assert_eq!(scene.why(seqno + 1), None, "nobody committed that");
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_crashes_takes_along_what_was_under_way() {
    let scene = settled(&[READER, WRITER]).await;
    let before = scene.commits(WRITER);
    pass(1).await;
    let under_way = scene.commits(WRITER);
    pass(300).await;
    scene.crash(Some(WRITER), None);
    assert_eq!(scene.why(before), None);
    assert_eq!(scene.why(under_way), CRASHED);
    // Started again, it is another one.
    let again = (WRITER.0, 9);
    scene.sessions(again, BOTH.into());
    pass(300).await;
    let after = scene.commits(again);
    assert_eq!(scene.why(after), None);
}

#[tokio::test(start_paused = true)]
async fn who_has_no_server_with_the_writer_may_miss_it() {
    let scene = settled(&[READER, WRITER]).await;
    let before = scene.commits(WRITER);
    pass(301).await;
    scene.crash(None, Some(Server::Embedded));
    let without = scene.commits(WRITER);
    pass(301).await;
    // The one that is left does.
    assert_eq!(scene.why(without), None);
    scene.sessions(READER, [].into());
    let away = scene.commits(WRITER);
    // Again at a server, but on its way to being a home.
    scene.sessions(READER, [Server::Standalone].into());
    pass(299).await;
    let early = scene.commits(WRITER);
    pass(1).await;
    let late = scene.commits(WRITER);
    pass(1_000).await;
    assert_eq!(
        [before, away, early, late].map(|seqno| scene.why(seqno)),
        [None, APART, APART, None]
    );
    // Until it has come, the reader has to stay.
    let left = scene.commits(WRITER);
    pass(300).await;
    scene.sessions(READER, [].into());
    assert_eq!(scene.why(left), APART);
    assert_eq!(scene.why(late), None);
}

#[tokio::test(start_paused = true)]
async fn at_servers_with_a_hole_the_next_may_overtake() {
    for (pause, by, why) in [(20, OTHER, OVERTAKEN), (21, OTHER, None), (0, WRITER, None)] {
        let scene = settled(&[READER, WRITER, OTHER]).await;
        scene.crash(None, None);
        // Of one that is at no server: a hole at both.
        scene.commits((Who::ClusterB, 8));
        let seqno = scene.commits(WRITER);
        pass(pause).await;
        scene.commits(by);
        pass(301).await;
        assert_eq!(scene.why(seqno), why, "{by:?} after {pause} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_without_a_hole_waits_for_what_is_late() {
    for (holes, age, why) in [
        (&BOTH[..], 10_000, OVERTAKEN),
        // Forgotten.
        (&BOTH[..], 10_001, None),
        // One of the two has what the other lacks.
        (&BOTH[..1], 0, None),
        (&[], 0, None),
    ] {
        let scene = settled(&[READER, WRITER, OTHER]).await;
        scene.crash(None, None);
        let away = (Who::ClusterB, 8);
        let at = BOTH.into_iter().filter(|server| !holes.contains(server));
        scene.sessions(away, at.collect());
        pass(300).await;
        scene.commits(away);
        pass(age).await;
        let seqno = scene.commits(WRITER);
        scene.commits(OTHER);
        pass(301).await;
        assert_eq!(scene.why(seqno), why, "{holes:?}, {age} ms before");
    }
}
