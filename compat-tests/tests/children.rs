//! The instrument that starts servers, against a stand-in that behaves as it
//! is told: the failures of a server are to be reported, not hung on.

use std::path::PathBuf;
use std::time::Duration;

use persist_pubsub_compat_tests::child::{Child, ChildError};
use persist_pubsub_compat_tests::wait::within;

use super::Verdict;

async fn stand_in(behaviour: &str) -> Result<Child, ChildError> {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/stand_in_server.sh");
    Child::start_binary(&script, &["--behaviour", behaviour]).await
}

#[tokio::test]
async fn a_child_that_serves_says_where() -> Verdict {
    let mut child = stand_in("serve").await?;
    assert_eq!(child.url(), "http://127.0.0.1:1001");
    assert_eq!(child.admin_url(), "http://127.0.0.1:1002");
    assert!(child.log().contains("serving"), "{}", child.log());
    child.terminate().await?;
    assert!(child.wait().await?.success());
    assert!(child.log().contains("terminated"), "{}", child.log());
    // It has been waited for: its process number may be another's by now.
    assert!(child.terminate().await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_child_that_ends_is_reported_with_what_it_wrote() -> Verdict {
    match stand_in("fail").await {
        Err(ChildError::Exited { status, log }) => {
            assert_eq!(status.code(), Some(3));
            assert!(log.contains("the port is in use"), "{log}");
        }
        other => panic!("{other:?}"),
    }
    Ok(())
}

#[tokio::test]
async fn a_child_that_talks_nonsense_is_reported() -> Verdict {
    let error = stand_in("babble").await.expect_err("nonsense");
    assert!(matches!(error, ChildError::Addresses(_)), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_binary_that_is_not_there_is_reported() -> Verdict {
    let nowhere = PathBuf::from("/nonexistent/persist-pubsub");
    let error = Child::start_binary::<&str>(&nowhere, &[])
        .await
        .expect_err("not there");
    assert!(
        error.to_string().contains("/nonexistent/persist-pubsub"),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn a_dropped_child_is_killed() -> Verdict {
    let child = stand_in("serve").await?;
    let pid = child.addresses().pid.to_string();
    drop(child);
    let gone = async {
        let mut looks = tokio::time::interval(Duration::from_millis(10));
        loop {
            looks.tick().await;
            let alive = tokio::process::Command::new("sh")
                .args(["-c", "kill -0 \"$1\" 2>/dev/null", "sh", &pid])
                .status()
                .await?;
            if !alive.success() {
                return Ok::<_, std::io::Error>(());
            }
        }
    };
    within("the end of a dropped child", gone).await??;
    Ok(())
}
