//! Whom NATS does not let in, or does not let do what a replica has to, does
//! not start: exit code 1, and one sentence that says what to mend. Who shows
//! the right thing does.

use std::path::{Path, PathBuf};

use nkeys::KeyPair;
use persist_pubsub_compat_tests::certificates::Authority;
use persist_pubsub_compat_tests::child::{Child, ChildError, Folder};
use persist_pubsub_compat_tests::nats::conf::{Conf, Denied};
use persist_pubsub_compat_tests::nats::jwt::Operator;
use persist_pubsub_compat_tests::nats::{self, Nats};
use persist_pubsub_compat_tests::operator;
use persist_pubsub_compat_tests::replicas::{CONNECTED, next_prefix};
use persist_pubsub_compat_tests::wait::until;

use super::super::{Failure, Verdict};

/// In the sentence of every start that NATS prevents.
const FLAG: &str = "--backplane";

/// Files of a replica's flags, as a Secret has them.
struct Secrets(Folder);

impl Secrets {
    fn new() -> Result<Self, Failure> {
        Ok(Self(Folder::new()?))
    }

    /// A flag with a new file of this content.
    fn flag(&self, flag: &str, content: &str) -> Result<String, Failure> {
        let name = format!("{:x}", fastrand::u64(..));
        let file = self.0.path().join(name);
        std::fs::write(&file, content)?;
        Ok(format!("{flag}={}", file.display()))
    }
}

fn file(flag: &str, path: &Path) -> String {
    format!("{flag}={}", path.display())
}

/// What a replica of this nats-server is started with.
fn replica(nats: &Nats, prefix: &str, flags: &[String]) -> Vec<String> {
    let mut all = vec![
        format!("--backplane={}", nats.url()),
        format!("--backplane-prefix={prefix}"),
    ];
    all.extend_from_slice(flags);
    all
}

/// It starts, and is connected.
async fn starts(nats: &Nats, flags: &[String]) -> Verdict {
    let child = Child::start(&replica(nats, &next_prefix(), flags)).await?;
    let admin = child.addresses().admin_listen;
    let connected = until("a replica to be connected", async || {
        let (_, metrics) = operator::get(admin, "/metrics").await.ok()?;
        let line = format!("{CONNECTED} 1");
        metrics.lines().any(|it| it == line).then_some(())
    });
    match connected.await {
        Ok(()) => Ok(()),
        Err(late) => Err(format!("{late}; it wrote:\n{}", child.log()).into()),
    }
}

/// It does not start, and says this. What it said goes to the test's output.
async fn refused(nats: &Nats, prefix: &str, flags: &[String], said: &[&str]) -> Verdict {
    let flags = replica(nats, prefix, flags);
    let log = match Child::start(&flags).await {
        Err(ChildError::Exited { status, log }) => {
            assert_eq!(status.code(), Some(1), "{flags:?}: {log}");
            log
        }
        Err(other) => return Err(other.into()),
        Ok(child) => return Err(format!("{flags:?} started:\n{}", child.log()).into()),
    };
    let sentence = log.lines().find(|line| line.contains(FLAG));
    let sentence = sentence.ok_or_else(|| format!("{flags:?}: no word of {FLAG}: {log}"))?;
    println!("{sentence}");
    for word in said {
        assert!(sentence.contains(word), "no {word:?} in {log}");
    }
    assert!(!log.contains("panicked"), "{log}");
    assert!(!log.contains(SECRET), "it tells a secret: {log}");
    Ok(())
}

/// A password, and a token.
const SECRET: &str = "correct-horse-battery-staple";

#[tokio::test]
async fn passwords_and_tokens() -> Verdict {
    if !nats::found("passwords_and_tokens") {
        return Ok(());
    }
    let secrets = Secrets::new()?;
    let flag = |name: &str, content: &str| secrets.flag(name, content);
    let user = "--backplane-user=replica".to_owned();
    // Files end with a line break, as editors leave them.
    let right = flag("--backplane-password-file", &format!("{SECRET}\n"))?;
    let wrong = flag("--backplane-password-file", "wrong")?;
    let conf = Conf::default().user("replica", SECRET, Denied::default());
    let nats = Nats::start(&conf).await?;
    starts(&nats, &[user.clone(), right.clone()]).await?;
    refused(&nats, "p", &[user, wrong], &["replica"]).await?;
    let other = "--backplane-user=somebody-else".to_owned();
    refused(&nats, "p", &[other, right], &["somebody-else"]).await?;
    refused(&nats, "p", &[], &["--backplane-user"]).await?;

    let nats = Nats::start(&Conf::default().token(SECRET)).await?;
    starts(
        &nats,
        &[flag("--backplane-token-file", &format!("{SECRET}\n"))?],
    )
    .await?;
    let wrong = flag("--backplane-token-file", "wrong")?;
    refused(&nats, "p", &[wrong], &["--backplane-token-file"]).await
}

#[tokio::test]
async fn keys_and_credentials() -> Verdict {
    if !nats::found("keys_and_credentials") {
        return Ok(());
    }
    let secrets = Secrets::new()?;
    let (ours, others) = (KeyPair::new_user(), KeyPair::new_user());
    let conf = Conf::default().nkey(&ours.public_key(), Denied::default());
    let nats = Nats::start(&conf).await?;
    let key =
        |pair: &KeyPair| secrets.flag("--backplane-nkey-file", &format!("{}\n", pair.seed()?));
    starts(&nats, &[key(&ours)?]).await?;
    refused(&nats, "p", &[key(&others)?], &["--backplane-nkey-file"]).await?;

    let (operator, other) = (Operator::new()?, Operator::new()?);
    let nats = Nats::start(&operator.trusted_by(Conf::default())).await?;
    let file = |of: &Operator| secrets.flag("--backplane-credentials-file", &of.credentials()?);
    starts(&nats, &[file(&operator)?]).await?;
    refused(
        &nats,
        "p",
        &[file(&other)?],
        &["--backplane-credentials-file"],
    )
    .await
}

#[tokio::test]
async fn certificates() -> Verdict {
    if !nats::found("certificates") {
        return Ok(());
    }
    let (ours, others) = (Authority::new("ours")?, Authority::new("others")?);
    let server = ours.issue(&["127.0.0.1"])?;
    let nats = Nats::start(&Conf::default().tls(&server, true)).await?;
    let flags = |authority: PathBuf, folder: Option<&Path>| {
        let mut flags = vec![file("--backplane-tls-ca", &authority)];
        if let Some(folder) = folder {
            flags.push(file("--backplane-tls-cert", &folder.join("tls.crt")));
            flags.push(file("--backplane-tls-key", &folder.join("tls.key")));
        }
        flags
    };
    let client = ours.issue(&["replica"])?;
    starts(&nats, &flags(client.file("ca.crt"), Some(client.folder()))).await?;
    // Of an authority that NATS does not know; none; one that has expired.
    let stranger = others.issue(&["replica"])?;
    let shown = flags(client.file("ca.crt"), Some(stranger.folder()));
    refused(&nats, "p", &shown, &["certificate"]).await?;
    let shown = flags(client.file("ca.crt"), None);
    refused(&nats, "p", &shown, &["certificate"]).await?;
    let old = ours.issue_until(&["replica"], 2020)?;
    let shown = flags(client.file("ca.crt"), Some(old.folder()));
    refused(&nats, "p", &shown, &["certificate"]).await?;
    // NATS itself shows one that the replica does not trust; or has let its
    // own expire; or is another than was asked for.
    let shown = flags(stranger.file("ca.crt"), Some(client.folder()));
    refused(&nats, "p", &shown, &["certificate"]).await?;
    for server in [
        ours.issue_until(&["127.0.0.1"], 2020)?,
        ours.issue(&["nats.example.com"])?,
    ] {
        let nats = Nats::start(&Conf::default().tls(&server, false)).await?;
        let shown = flags(client.file("ca.crt"), None);
        refused(&nats, "p", &shown, &["certificate"]).await?;
    }
    Ok(())
}

/// Whatever a replica has to publish or to hear, and may not, is named.
#[tokio::test]
async fn permissions() -> Verdict {
    if !nats::found("permissions") {
        return Ok(());
    }
    let secrets = Secrets::new()?;
    let flags = [
        "--backplane-user=replica".to_owned(),
        secrets.flag("--backplane-password-file", SECRET)?,
    ];
    for kind in ["diff", "heads", "ask", "replica", "to"] {
        let subjects = [format!("p.v1.{kind}"), format!("p.v1.{kind}.>")];
        let subjects = subjects.each_ref().map(String::as_str);
        let denied = [
            Denied {
                publish: &subjects,
                ..Denied::default()
            },
            Denied {
                subscribe: &subjects,
                ..Denied::default()
            },
        ];
        for (denied, what) in denied.into_iter().zip(["publish", "subscribe"]) {
            let conf = Conf::default().user("replica", SECRET, denied);
            let nats = Nats::start(&conf).await?;
            let subject = format!("p.v1.{kind}");
            refused(&nats, "p", &flags, &[what, &subject]).await?;
        }
    }
    // No answers: they go to subjects of their own.
    let conf = Conf::default().user(
        "replica",
        SECRET,
        Denied {
            subscribe: &["_INBOX.>"],
            ..Denied::default()
        },
    );
    let nats = Nats::start(&conf).await?;
    refused(&nats, "p", &flags, &["subscribe", "_INBOX"]).await?;
    // Of others nothing is asked.
    let conf = Conf::default().user(
        "replica",
        SECRET,
        Denied {
            publish: &["other.>"],
            subscribe: &["other.>"],
        },
    );
    starts(&Nats::start(&conf).await?, &flags).await
}
