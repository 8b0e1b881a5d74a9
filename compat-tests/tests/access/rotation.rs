//! Certificates and tokens are renewed while everybody is at work.

use persist_pubsub_compat_tests::certificates::{Authority, Mount};
use persist_pubsub_compat_tests::entrant::Entrant;
use persist_pubsub_compat_tests::operator::Operator;
use persist_pubsub_compat_tests::v1_peer::Peer;
use persist_pubsub_compat_tests::wait::{until, within};
use persist_pubsub_proto::ShardId;
use tonic::Code;

use super::super::{Verdict, server};
use super::{Identities, QUICK, hello_of, https, refs, status, turned_away};

const SHARD: ShardId = ShardId::new([0x72; 16]);

async fn reloads(operator: &Operator, result: &str) -> Option<f64> {
    let series = format!("persist_pubsub_tls_reloads_total{{port=\"data\",result=\"{result}\"}}");
    operator.metric(&series).await.ok()
}

#[tokio::test]
async fn a_certificate_is_renewed_without_a_dropped_session() -> Verdict {
    let (first, second) = (Authority::new("first")?, Authority::new("second")?);
    let (old, new) = (first.issue(&["localhost"])?, second.issue(&["localhost"])?);
    let broken = second.issue(&["localhost"])?;
    let expired = first.issue_until(&["localhost"], 2001)?;
    std::fs::write(broken.file("tls.crt"), "half a certif")?;
    let mount = Mount::new(old.folder())?;
    let flags = [
        QUICK.to_owned(),
        format!("--tls-cert={}", mount.file("tls.crt").display()),
        format!("--tls-key={}", mount.file("tls.key").display()),
    ];
    let server = server(&refs(&flags)).await?;
    let operator = Operator::connect(&server).await?;
    let expires = "persist_pubsub_tls_certificate_expiry_timestamp_seconds{port=\"data\"}";
    // 2100-01-01
    assert_eq!(operator.metric(expires).await?, 4_102_444_800.0);
    let (before, after) = (
        Entrant::new(&https(&server)).trusting(&first),
        Entrant::new(&https(&server)).trusting(&second),
    );
    let mut reader = Peer::connect(&before, "reader").await?;
    reader.follow(SHARD, Some(0)).await?;
    assert!(Peer::connect(&after, "too early").await.is_err());

    mount.lead_to(new.folder())?;
    until("the new certificate to be in force", async || {
        (reloads(&operator, "ok").await? >= 1.0).then_some(())
    })
    .await?;
    let writer = Peer::connect(&after, "writer").await?;
    assert!(Peer::connect(&before, "too late").await.is_err());
    writer.sender().publish(SHARD, 1, 1, "renewed").await?;
    reader.receiver().expect_diff("the first diff").await?;

    mount.lead_to(broken.folder())?;
    until("the broken one to be told of", async || {
        (reloads(&operator, "error").await? >= 1.0).then_some(())
    })
    .await?;
    let another = Peer::connect(&after, "another writer").await?;
    another.sender().publish(SHARD, 2, 2, "kept").await?;
    reader.receiver().expect_diff("the second diff").await?;
    mount.lead_to(old.folder())?;
    until("a whole one to be in force again", async || {
        (reloads(&operator, "ok").await? >= 2.0).then_some(())
    })
    .await?;
    Peer::connect(&before, "back").await?;
    assert!(!server.log().contains("has expired"), "{}", server.log());

    // It is what there is: taken, and said.
    mount.lead_to(expired.folder())?;
    until("the expired one to be in force", async || {
        (reloads(&operator, "ok").await? >= 3.0).then_some(())
    })
    .await?;
    assert!(Peer::connect(&before, "refuses it").await.is_err());
    let log = server.log();
    let warned = log.lines().find(|line| line.contains("has expired"));
    assert!(warned.is_some_and(|l| l.contains("--tls-cert")), "{log}");
    // Told once, however often it was looked at.
    assert_eq!(log.matches("not reloaded").count(), 1, "{log}");
    assert!(log.contains("--tls-cert"), "{log}");
    assert_eq!(reloads(&operator, "error").await, Some(1.0));
    Ok(())
}

fn blue(tokens: &str, rights: &str) -> String {
    format!(
        "[[identity]]\nname = \"blue\"\nenvironment = \"blue-0\"\nrights = [{rights}]\ntokens = [{tokens}]\n"
    )
}

#[tokio::test]
async fn a_token_is_renewed_and_what_is_taken_away_ends_its_sessions() -> Verdict {
    let (both, subscribe) = ("\"publish\", \"subscribe\"", "\"subscribe\"");
    let (old, new) = ("\"the-older-token-1\"", "\"the-newer-token-2\"");
    let identities = Identities::new(&blue(old, both))?;
    let flags = [QUICK.to_owned(), identities.flag()];
    let server = server(&refs(&flags)).await?;
    let operator = Operator::connect(&server).await?;
    let done = async |count: f64, result: &str| {
        let series = format!("persist_pubsub_tokens_reloads_total{{result=\"{result}\"}}");
        until("the file to be read again", async || {
            (operator.metric(&series).await.ok()? >= count).then_some(())
        })
        .await
    };
    let older = Entrant::new(&server.url()).with_token("the-older-token-1");
    let newer = Entrant::new(&server.url()).with_token("the-newer-token-2");
    let mut first = Peer::connect(&older, "first").await?;
    first.follow(SHARD, Some(0)).await?;
    let early = turned_away(&newer, hello_of("")).await?;
    assert_eq!(early.code(), Code::Unauthenticated);

    identities.write(&blue(&format!("{new}, {old}"), both))?;
    done(1.0, "ok").await?;
    let mut second = Peer::connect(&newer, "second").await?;
    second.sender().publish(SHARD, 1, 1, "x").await?;
    first
        .receiver()
        .expect_diff("a diff on the older session")
        .await?;

    identities.write("[[identity]]\ntokens = \"the-newer-token-2\"\n")?;
    done(1.0, "error").await?;
    Peer::connect(&older, "still known").await?;

    identities.write(&blue(new, both))?;
    done(2.0, "ok").await?;
    let end = within("the older session's end", first.receiver().receive()).await?;
    let (code, _) = status(end.err().ok_or("it goes on")?)?;
    assert_eq!(code, Code::Unauthenticated);
    let late = turned_away(&older, hello_of("")).await?;
    assert_eq!(late.code(), Code::Unauthenticated);
    second.follow(SHARD, Some(1)).await?;

    // Less than it came with: it comes back as what it is now.
    identities.write(&blue(new, subscribe))?;
    done(3.0, "ok").await?;
    let end = within("the newer session's end", second.receiver().receive()).await?;
    assert!(end.is_err());
    let mut again = Peer::connect(&newer, "again").await?;
    again.sender().publish(SHARD, 2, 2, "x").await?;
    let rejected = again.receiver().expect_rejected("no right").await?;
    assert_eq!(rejected.seqno, Some(2));
    let log = server.log();
    assert!(!log.contains("er-token-"), "{log}");
    Ok(())
}
