//! The status page, in a real browser.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use persist_pubsub_client::{Config, connect};
use persist_pubsub_compat_tests::browser::{Browser, BrowserError, Look};
use persist_pubsub_compat_tests::child::{Child, workspace};
use persist_pubsub_compat_tests::nats::conf::Conf;
use persist_pubsub_compat_tests::nats::{self, Nats};
use persist_pubsub_compat_tests::recording;
use persist_pubsub_compat_tests::replay::{Inversions, Speed, replay};
use persist_pubsub_compat_tests::replicas::Replicas;
use persist_pubsub_compat_tests::store::Store;
use persist_pubsub_compat_tests::tools::left_out;
use persist_pubsub_compat_tests::v0_peer;
use persist_pubsub_compat_tests::v1_peer;
use serde_json::json;
use tokio::task::JoinSet;

use super::{Failure, Verdict, server, shards};

const DESK: Look = Look {
    width: 1280,
    height: 1500,
    dark: false,
};
const PHONE: Look = Look {
    width: 390,
    height: 844,
    dark: true,
};
/// What a peer calls itself that wants to be more than a name.
const HOSTILE: &str =
    "</td><img src=x onerror=document.title='owned'><script>document.title='owned'</script>";
/// Which pictures are written where nobody asked for a folder.
const PICTURES: &str = "target/tmp/pictures";

/// A browser, unless the test is to be left out.
async fn installed(test: &str) -> Result<Option<Browser>, Failure> {
    match Browser::start().await {
        Ok(browser) => Ok(Some(browser)),
        Err(BrowserError::Missing(missing)) => {
            left_out(&format!("status_page::{test}"), &missing);
            Ok(None)
        }
        Err(other) => Err(other.into()),
    }
}

/// Keeps a picture for people to look at: PICTURES=folder says where.
async fn picture(browser: &mut Browser, name: &str) -> Verdict {
    let folder = std::env::var_os("PICTURES").map_or_else(
        || workspace().join(PICTURES),
        |folder| Path::new(&folder).to_owned(),
    );
    std::fs::create_dir_all(&folder)?;
    browser.picture(&folder.join(name)).await?;
    Ok(())
}

async fn open(browser: &mut Browser, server: &Child, look: Look) -> Verdict {
    browser.look(look).await?;
    browser.open(&format!("{}/", server.admin_url())).await?;
    let heard = "document.getElementById('state')?.textContent === 'serving'";
    browser.until(heard).await?;
    Ok(())
}

/// Two generations side by side: in each one that writes and one that reads.
struct Generations(#[expect(dead_code, reason = "ends them when dropped")] JoinSet<()>);

impl Generations {
    fn begin(url: &str) -> Result<Self, Failure> {
        let mut tasks = JoinSet::new();
        let shared = shards(8, 12);
        let seqnos = Arc::new(AtomicU64::new(0));
        for generation in [1, 2] {
            for role in ["environmentd", "clusterd"] {
                let config = Config::new(url)?
                    .client_name(&format!("{role}-{generation}"))
                    .role(role)
                    .deploy_generation(generation);
                let (client, mut events) = connect(config);
                let tokens: Vec<_> = shared.iter().map(|s| client.subscribe(s)).collect();
                tasks.spawn(async move {
                    while events.next().await.is_some() {}
                    drop(tokens);
                });
                if role == "environmentd" {
                    let (shared, seqnos) = (shared.clone(), Arc::clone(&seqnos));
                    tasks.spawn(async move {
                        let mut ticks = tokio::time::interval(Duration::from_millis(10));
                        loop {
                            ticks.tick().await;
                            let n = seqnos.fetch_add(1, Ordering::Relaxed);
                            let turn = n / shared.len() as u64;
                            if let Some(shard) = shared.get(n as usize % shared.len()) {
                                client.push_diff(shard, turn + 1, Bytes::from(vec![7; 900]));
                            }
                        }
                    });
                }
            }
        }
        Ok(Self(tasks))
    }
}

#[tokio::test]
async fn it_shows_recorded_traffic_as_it_comes() -> Verdict {
    let Some(mut browser) = installed("it_shows_recorded_traffic_as_it_comes").await? else {
        return Ok(());
    };
    let server = server(&[]).await?;
    open(&mut browser, &server, DESK).await?;
    browser
        .until("document.getElementById('findings').innerText.includes('Nobody is connected')")
        .await?;

    // Beside those of the recording, which cannot say theirs.
    let _generations = Generations::begin(&server.url())?;
    if std::env::var_os("PICTURES").is_some() {
        // The one of the README: two generations that write, for a while.
        browser
            .until(
                "document.querySelector('#charts path').getAttribute('d').split('L').length > 50",
            )
            .await?;
        picture(&mut browser, "status.png").await?;
    }
    let recording = recording::named("v0-contended")?;
    let (url, store) = (server.url(), Store::default());
    // Slowly, so that it lasts for longer than any browser takes to show it.
    let speed = Speed::Times(0.2);
    let playing = replay(&recording, &url, speed, Inversions::Raced, &store);
    let watching = async {
        let shows = |what: &str| format!("document.getElementById({what}");
        browser
            .until(&shows(
                "'groups').innerText.match(/unknown\\s+v0/) !== null",
            ))
            .await?;
        browser
            .until(&shows(
                "'groups').innerText.match(/\\s2\\s+v1\\s+environmentd/) !== null",
            ))
            .await?;
        // Several shards that move, and charts that have more than a point.
        browser
            .until("[...document.querySelectorAll('#shards tbody tr')].filter(row => row.cells[3].textContent !== '0').length > 3")
            .await?;
        browser
            .until("[...document.querySelectorAll('#charts path')].every(path => path.getAttribute('d').split('L').length > 3)")
            .await?;
        // Live: without a reload other numbers come.
        let published = "document.querySelector('#shards tbody tr').cells[2].textContent";
        let first = browser.worth(published).await?;
        browser.until(&format!("{published} !== {first}")).await?;
        picture(&mut browser, "status-light.png").await?;
        browser.look(Look { dark: true, ..DESK }).await?;
        picture(&mut browser, "status-dark.png").await?;
        browser.look(PHONE).await?;
        // The page itself is no wider than the phone.
        browser
            .until("document.documentElement.scrollWidth <= window.innerWidth")
            .await?;
        picture(&mut browser, "status-phone.png").await?;
        Ok::<_, Failure>(())
    };
    tokio::select! {
        watched = watching => watched?,
        played = playing => return Err(format!("the recording ended before all was seen: {played:?}").into()),
    }
    assert_eq!(browser.complaints(), [] as [&str; 0]);
    Ok(())
}

#[tokio::test]
async fn a_hostile_name_is_only_text() -> Verdict {
    let Some(mut browser) = installed("a_hostile_name_is_only_text").await? else {
        return Ok(());
    };
    let server = server(&[]).await?;
    let _v0 = v0_peer::Peer::connect(&server.url(), HOSTILE).await?;
    let mut hello = v1_peer::hello(HOSTILE);
    hello.role = HOSTILE.to_owned();
    hello.environment_id = HOSTILE.to_owned();
    let peer = v1_peer::Peer::connect_as(&server.url(), hello).await?;
    peer.sender().publish(shards(9, 1)[0], 1, 1, "a").await?;
    open(&mut browser, &server, DESK).await?;
    // v0's name, v1's name and environment, in sessions, groups and shards.
    let shown = json!(HOSTILE);
    for table in ["sessions", "groups", "shards"] {
        browser
            .until(&format!(
                "[...document.querySelectorAll('#{table} td')].some(cell => cell.textContent === {shown})"
            ))
            .await?;
    }
    assert_eq!(browser.worth("document.images.length").await?, 0);
    assert_eq!(browser.worth("document.scripts.length").await?, 1);
    assert_eq!(browser.worth("document.title").await?, "persist-pubsub");
    assert_eq!(browser.complaints(), [] as [&str; 0]);
    // And were there markup, it would not run.
    browser
        .worth("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title=1\">')")
        .await?;
    browser
        .until("document.images[0].complete && document.title === 'persist-pubsub'")
        .await?;
    assert_ne!(browser.complaints(), [] as [&str; 0]);
    Ok(())
}

/// Of several replicas: all, and each by itself.
#[tokio::test]
async fn it_shows_all_replicas_or_one() -> Verdict {
    let test = "it_shows_all_replicas_or_one";
    let Some(mut browser) = installed(test).await? else {
        return Ok(());
    };
    if !nats::found(&format!("status_page::{test}")) {
        return Ok(());
    }
    let nats = Nats::start(&Conf::default()).await?;
    let replicas = Replicas::start(&[nats.address()], 2, &[]).await?;
    let mut peers = Vec::new();
    for replica in replicas.all() {
        let hello = v1_peer::hello("reader");
        peers.push(v1_peer::Peer::connect_as(&replica.url(), hello).await?);
    }
    open(&mut browser, replicas.one(0).child(), DESK).await?;
    let column = |table: &str, names: &[&str]| {
        let rows = format!("[...document.querySelectorAll('#{table} tbody tr')]");
        let names = json!(names);
        format!("JSON.stringify({rows}.map(row => row.cells[0].textContent)) === '{names}'")
    };
    let both = ["replica-0", "replica-1"];
    for table in ["replicas", "sessions", "groups"] {
        browser.until(&column(table, &both)).await?;
    }
    picture(&mut browser, "status-replicas.png").await?;
    browser
        .worth("(() => { const of = document.getElementById('replica'); of.value = 'replica-1'; of.dispatchEvent(new Event('change')); return 1 })()")
        .await?;
    for table in ["replicas", "sessions", "groups"] {
        browser.until(&column(table, &both[1..])).await?;
    }
    let address = json!(replicas.one(1).address().to_string());
    browser
        .until(&format!(
            "document.getElementById('server').textContent.includes({address})"
        ))
        .await?;
    assert_eq!(browser.complaints(), [] as [&str; 0]);
    // One that there is not is said not to be, and there is a way back.
    let url = replicas.one(0).child().admin_url();
    browser.open(&format!("{url}/?replica=nobody")).await?;
    browser
        .until("document.getElementById('lost').innerText.includes('called nobody?') && !document.getElementById('of').hidden")
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_lost_server_is_said_to_be_lost() -> Verdict {
    let Some(mut browser) = installed("a_lost_server_is_said_to_be_lost").await? else {
        return Ok(());
    };
    let first = server(&[]).await?;
    let port = format!("--admin-listen={}", first.addresses().admin_listen);
    open(&mut browser, &first, DESK).await?;
    assert_eq!(
        browser
            .worth("document.getElementById('lost').hidden")
            .await?,
        true
    );
    drop(first);
    browser
        .until("document.getElementById('lost').innerText.includes('The connection to the server is lost')")
        .await?;
    browser
        .until("document.getElementById('main').classList.contains('stale')")
        .await?;
    assert_eq!(
        browser
            .worth("document.getElementById('state').textContent")
            .await?,
        "unknown"
    );
    picture(&mut browser, "status-lost.png").await?;
    let _second = server(&[&port]).await?;
    browser
        .until("document.getElementById('lost').hidden && document.getElementById('state').textContent === 'serving'")
        .await?;
    Ok(())
}

#[tokio::test]
async fn two_thousand_sessions_are_counted_and_the_first_hundred_shown() -> Verdict {
    let test = "two_thousand_sessions_are_counted_and_the_first_hundred_shown";
    let Some(mut browser) = installed(test).await? else {
        return Ok(());
    };
    let server = server(&[]).await?;
    let mut sessions = Vec::new();
    for n in 0..2000 {
        let peer = v0_peer::Peer::connect(&server.url(), &format!("clusterd-{n}")).await?;
        sessions.push(peer);
    }
    open(&mut browser, &server, DESK).await?;
    browser
        .until("document.querySelector('#numbers dd').textContent === '2,000'")
        .await?;
    assert_eq!(
        browser
            .worth("document.querySelectorAll('#sessions tbody tr').length")
            .await?,
        100
    );
    browser
        .until("document.getElementById('sessions-note').textContent.startsWith('1,900 more')")
        .await?;
    picture(&mut browser, "status-2000.png").await?;
    assert_eq!(browser.complaints(), [] as [&str; 0]);
    Ok(())
}
