//! `persist-pubsub healthcheck` and `check`: what a container and a chart ask.

use persist_pubsub_compat_tests::child::Child;
use persist_pubsub_compat_tests::command_line::{Said, run};
use persist_pubsub_compat_tests::v1_peer;
use persist_pubsub_compat_tests::wait::until;
use tokio::net::TcpListener;

use super::{Failure, Verdict, server};

async fn healthcheck(url: &str, service: &str) -> Result<Said, Failure> {
    // The time is the machine's matter, not the test's.
    Ok(run(&[
        "healthcheck",
        "--timeout=1m",
        "--server",
        url,
        "--service",
        service,
    ])
    .await?)
}

fn serving(said: &Said) -> bool {
    (said.code, said.output.as_str()) == (Some(0), "serving\n")
}

fn failed(said: &Said, why: &str) -> bool {
    said.code == Some(1) && said.error.contains(why)
}

/// A server that stays with its last session after a SIGTERM.
async fn lingering() -> Result<Child, Failure> {
    Ok(server(&["--drain-window=1h", "--drain-timeout=1h"]).await?)
}

#[tokio::test]
async fn both_ports_tell_the_health_of_a_server() -> Verdict {
    let server = lingering().await?;
    let both = [server.url(), server.admin_url()];
    for url in &both {
        for service in ["", "persist.pubsub.v1.PubSubService", "live"] {
            let said = healthcheck(url, service).await?;
            assert!(serving(&said), "{url} {service}: {said:?}");
        }
        let said = healthcheck(url, "nobody").await?;
        assert!(failed(&said, "no service \"nobody\""), "{said:?}");
    }

    let peer = v1_peer::Peer::connect(&server.url(), "peer").await?;
    server.signal("TERM").await?;
    until("the server to be not ready", async || {
        let said = healthcheck(&both[1], "").await.ok()?;
        failed(&said, "not serving: NOT_SERVING").then_some(())
    })
    .await?;
    // Whoever ends what is not live must not cut the drain short.
    let said = healthcheck(&both[1], "live").await?;
    assert!(serving(&said), "{said:?}");
    drop(peer);
    Ok(())
}

#[tokio::test]
async fn a_server_that_cannot_be_asked_is_not_healthy() -> Verdict {
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", silent.local_addr()?);
    let said = run(&["healthcheck", "--timeout=200ms", "--server", &url]).await?;
    assert!(failed(&said, "no answer within 200ms"), "{said:?}");

    drop(silent);
    let said = healthcheck(&url, "").await?;
    assert!(failed(&said, "cannot reach"), "{said:?}");

    let said = run(&["healthcheck", "--server", "ftp://x"]).await?;
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.error.contains("--server"), "{said:?}");
    Ok(())
}

#[tokio::test]
async fn a_check_publishes_and_hears() -> Verdict {
    let server = server(&[]).await?;
    for (wire, environment, says) in [
        ("v1", "", "heard over v1"),
        ("v1", "other", "heard over v1"),
        ("auto", "", "heard over v1"),
        ("v0", "", "heard over v0"),
    ] {
        let url = server.url();
        let said = run(&[
            "check",
            "--timeout=1m",
            "--server",
            &url,
            "--wire",
            wire,
            "--environment",
            environment,
        ])
        .await?;
        assert_eq!(said.code, Some(0), "{wire}: {said:?}");
        assert!(said.output.contains(says), "{wire}: {said:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_check_says_what_did_not_come() -> Verdict {
    // Room for one session: the second, which publishes, is refused.
    let server = server(&["--max-sessions=1"]).await?;
    let url = server.url();
    let said = run(&["check", "--timeout=2s", "--server", &url]).await?;
    // Usually the diff; on a machine that stalls what comes before it.
    assert!(failed(&said, "has not come within 2s"), "{said:?}");

    let said = run(&["check", "--timeout=300ms", "--server", "127.0.0.1:1"]).await?;
    assert!(
        failed(&said, "a session has not come within 300ms"),
        "{said:?}"
    );
    Ok(())
}
