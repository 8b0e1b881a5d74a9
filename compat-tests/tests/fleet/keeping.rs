//! Where JetStream cannot be had: it is said why, and the replicas agree.

use persist_pubsub_compat_tests::nats::conf::{Conf, Denied};
use persist_pubsub_compat_tests::nats::{self, Nats};
use persist_pubsub_compat_tests::replicas::{Replica, next_prefix};

use super::super::{Failure, Verdict};
use super::{ask, refuses};

/// Raises a fence on one of two replicas: what is said of it.
async fn raised_over(conf: &Conf, flags: &[String]) -> Result<String, Failure> {
    let nats = Nats::start(conf).await?;
    let prefix = next_prefix();
    let start =
        async |name: &str| Replica::start(name.to_owned(), &[nats.address()], &prefix, flags).await;
    let (a, b) = (start("a").await?, start("b").await?);
    a.knows(1).await?;
    let (code, said) = ask(&a, &["fence", "--below", "2"]).await?;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("confirmed by a, b"), "{said}");
    refuses(&b, 1).await?;
    let log = a.child().log();
    let lines = log
        .lines()
        .filter(|line| line.contains("between the replicas alone"));
    assert_eq!(lines.count(), 1, "{log}");
    Ok(said)
}

#[tokio::test]
async fn an_account_without_jetstream_is_named() -> Verdict {
    if !nats::found("fleet::keeping::an_account_without_jetstream_is_named") {
        return Ok(());
    }
    let folder = persist_pubsub_compat_tests::child::Folder::new()?;
    let password = folder.path().join("password");
    std::fs::write(&password, "secret")?;
    let login = [
        "--backplane-user=me".to_owned(),
        format!("--backplane-password-file={}", password.display()),
    ];
    let conf = Conf::default()
        .jetstream()
        .line("accounts { PLAIN: { users: [ { user: me, password: secret } ] }, OTHER: { jetstream: enabled } }");
    let said = raised_over(&conf, &login).await?;
    assert!(said.contains("the NATS account has no JetStream"), "{said}");

    let denied = Denied {
        publish: &["$JS.API.>"],
        subscribe: &[],
    };
    let conf = Conf::default().jetstream().user("me", "secret", denied);
    let said = raised_over(&conf, &login).await?;
    assert!(said.contains("no permission for $JS.API.>"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_limit_that_is_reached_is_named() -> Verdict {
    if !nats::found("fleet::keeping::a_limit_that_is_reached_is_named") {
        return Ok(());
    }
    let folder = persist_pubsub_compat_tests::child::Folder::new()?;
    let conf = Conf::default().line(format!(
        "jetstream {{ store_dir: {:?}, max_file_store: 1KB, max_memory_store: 1KB }}",
        folder.path().display().to_string()
    ));
    let said = raised_over(&conf, &[]).await?;
    assert!(
        said.contains("JetStream has no room for the bucket"),
        "{said}"
    );
    Ok(())
}
