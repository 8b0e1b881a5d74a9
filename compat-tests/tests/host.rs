//! The example of a host: its adapter and its state cache are right, also
//! where diffs are missing, and its process ends as it should.

#[path = "../../client/examples/host/adapter.rs"]
mod adapter;
#[path = "../../client/examples/host/cache.rs"]
mod cache;
#[path = "../../client/examples/host/consensus.rs"]
mod consensus;

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use persist_pubsub_compat_tests::built;
use persist_pubsub_compat_tests::child::{Child, Folder};
use persist_pubsub_compat_tests::fencer::{Fencer, GENERATION, When};
use persist_pubsub_compat_tests::proxy::{Cut, Proxy};
use persist_pubsub_compat_tests::wait::within;
use persist_pubsub_proto::ShardId;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::task::JoinHandle;

use self::cache::{Cache, End, Shard, State};
use self::consensus::Consensus;
use super::{Failure, Verdict, quick_client, server, shards};

/// No poll helps a host that was not told.
const NO_POLL: Duration = Duration::from_secs(24 * 60 * 60);

fn host(
    url: Option<&str>,
    consensus: &Consensus,
    shards: &[ShardId],
    poll_every: Duration,
) -> Result<(Cache, JoinHandle<End>), Failure> {
    let config = url.map(quick_client).transpose()?;
    let (sender, receiver) = adapter::open(config);
    let cache = Cache::new(consensus.clone(), sender);
    for &shard in shards {
        cache.follow(shard);
    }
    let running = cache.clone();
    let task = tokio::spawn(async move { running.run(receiver, poll_every).await });
    Ok((cache, task))
}

/// Commits, as often as somebody else was first, and says the seqno.
async fn commit(cache: &Cache, shard: ShardId, diff: &str) -> Result<u64, Failure> {
    loop {
        let before = cache.state(shard).seqno;
        let diff = Bytes::copy_from_slice(diff.as_bytes());
        if cache.commit(shard, diff).await? {
            return Ok(cache.state(shard).seqno);
        }
        // The store told it so, and it fetches.
        comes_to(cache, shard, before + 1).await?;
    }
}

async fn comes_to(cache: &Cache, shard: ShardId, seqno: u64) -> Verdict {
    let mut watch = cache.watch();
    let what = format!("{shard} to be at {seqno}");
    let reached = |shards: &BTreeMap<ShardId, Shard>| {
        let shard = shards.get(&shard);
        shard.is_some_and(|shard| shard.state.seqno >= seqno)
    };
    within(&what, watch.wait_for(reached)).await??;
    Ok(())
}

/// Waits until the cache has each shard where the store has it, and finds the
/// states to be what the diffs make of it: applied in order, each once.
async fn reaches(cache: &Cache, consensus: &Consensus, shards: &[ShardId]) -> Verdict {
    for &shard in shards {
        let mut state = State::default();
        for diff in consensus.above(shard, 0).await? {
            state.apply(&diff);
        }
        comes_to(cache, shard, state.seqno).await?;
        assert_eq!(cache.state(shard), state);
    }
    Ok(())
}

/// What all shards of a cache count together: pushed, fetched, fetches.
fn counts(cache: &Cache) -> (u64, u64, u64) {
    cache.watch().borrow().values().fold((0, 0, 0), |sum, s| {
        (sum.0 + s.pushed, sum.1 + s.fetched, sum.2 + s.fetches)
    })
}

/// Two hosts write the same shards; a third writer commits to them too and
/// never pushes; connections are cut, and the server keeps next to nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn states_are_right_where_diffs_are_missing() -> Verdict {
    const COMMITS: usize = 600;
    let shards = shards(0xe0, 3);
    let folder = Folder::new()?;
    let consensus = Consensus::open(folder.path())?;
    let server = server(&["--log-entries-per-shard=4"]).await?;
    let proxy = Proxy::start(server.addresses().listen).await?;
    let (one, _one) = host(Some(&proxy.url()), &consensus, &shards, NO_POLL)?;
    let (two, _two) = host(Some(&server.url()), &consensus, &shards, NO_POLL)?;
    let (silent, _silent) = host(None, &consensus, &shards, Duration::from_millis(10))?;

    // All is well at first: diffs come as they are pushed, but for those that
    // were there before the subscription stood.
    for turn in 0..20 {
        let seqno = commit(&two, shards[0], &format!("first {turn}")).await?;
        comes_to(&one, shards[0], seqno).await?;
        let seqno = commit(&one, shards[1], &format!("first {turn}")).await?;
        comes_to(&two, shards[1], seqno).await?;
    }
    for cache in [&one, &two] {
        let (pushed, _, fetches) = counts(cache);
        assert!(pushed > 10, "{pushed} pushed, {fetches} fetches");
    }

    let mut rng = Rng::with_seed(4);
    for turn in 0..COMMITS {
        let writer = match rng.u8(0..10) {
            0 => &silent,
            1..5 => &one,
            _ => &two,
        };
        let shard = shards[rng.usize(0..shards.len())];
        commit(writer, shard, &turn.to_string()).await?;
        if turn % 150 == 75 {
            proxy.cut(Cut::Reset);
        }
    }
    // The last word on each shard is pushed.
    for &shard in &shards {
        commit(&two, shard, "last").await?;
    }
    for cache in [&one, &two, &silent] {
        reaches(cache, &consensus, &shards).await?;
    }
    for cache in [&one, &two] {
        let (pushed, fetched, fetches) = counts(cache);
        println!("{pushed} diffs applied as pushed, {fetched} in {fetches} fetches");
        assert!(fetched > 0);
    }
    let (pushed, fetched, _) = counts(&silent);
    assert!(pushed == 0 && fetched > 0);
    Ok(())
}

/// The last resort is enough by itself.
#[tokio::test]
async fn wholly_off_a_host_lives_from_its_poll() -> Verdict {
    let shards = shards(0xe1, 2);
    let folder = Folder::new()?;
    let consensus = Consensus::open(folder.path())?;
    let poll = Duration::from_millis(10);
    let (writer, _writer) = host(None, &consensus, &shards, poll)?;
    let (reader, _reader) = host(None, &consensus, &shards, poll)?;
    for shard in shards.iter().cycle().take(20) {
        assert!(writer.commit(*shard, Bytes::from_static(b"diff")).await?);
    }
    reaches(&reader, &consensus, &shards).await
}

/// The example itself, as a process.
struct Process {
    child: tokio::process::Child,
    folder: Folder,
}

impl Process {
    /// Its store is in `store`; what it says of itself is kept.
    async fn start(url: &str, store: &Folder) -> Result<Self, Failure> {
        let folder = Folder::new()?;
        let log = std::fs::File::create(folder.log())?;
        let child = Command::new(built::host().await?)
            .args([url.as_ref(), store.path().as_os_str()])
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self { child, folder })
    }
}

#[tokio::test]
async fn two_processes_hear_each_other() -> Verdict {
    let server = Child::start::<&str>(&[]).await?;
    let store = Folder::new()?;
    let mut processes = [
        Process::start(&server.url(), &store).await?,
        Process::start(&server.url(), &store).await?,
    ];
    // What a state is at a seqno, whichever process says so.
    let mut digests = BTreeMap::new();
    let mut open = Vec::new();
    for process in &mut processes {
        let stdout = process.child.stdout.take().ok_or("no stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        let heard = async {
            while let Some(line) = lines.next_line().await? {
                let (state, digest) = line.split_once(": ").ok_or("no state")?;
                let (counts, digest) = digest.split_once(", digest ").ok_or("no digest")?;
                let known = digests.insert(state.to_owned(), digest.to_owned());
                assert!(known.is_none_or(|known| known == digest), "{line}");
                if !counts.starts_with("0 pushed") {
                    return Ok(());
                }
            }
            Err(Failure::from("it has ended"))
        };
        within("a diff of the other process", heard).await??;
        // A process that nobody listens to ends.
        open.push(lines);
    }
    for process in &mut processes {
        assert_eq!(process.child.try_wait()?, None);
        let log = process.folder.read_log();
        assert!(log.contains("connected to the pubsub server"), "{log}");
        assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    }
    Ok(())
}

#[tokio::test]
async fn a_fenced_process_ends_with_exit_code_0_and_one_line() -> Verdict {
    for when in [When::AtHello, When::AtSubscribe] {
        let fencer = Fencer::start(when).await?;
        let store = Folder::new()?;
        let mut process = Process::start(&fencer.url(), &store).await?;
        let status = within("the process to end", process.child.wait()).await??;
        let log = process.folder.read_log();
        assert_eq!(status.code(), Some(0), "{when:?}: {log}");
        let fenced: Vec<_> = log.lines().filter(|line| line.contains("fence")).collect();
        let [line] = fenced[..] else {
            panic!("{when:?}: {log}");
        };
        let by = format!("generation={GENERATION}");
        assert!(line.contains(" INFO ") && line.contains(&by), "{line}");
        assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
        assert_eq!(fencer.sessions(), 1, "{when:?}: {log}");
    }
    Ok(())
}
