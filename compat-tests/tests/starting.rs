//! Starts that cannot be: the message names the flag and what is wrong.

use persist_pubsub_compat_tests::child::{Child, ChildError};

use super::{Failure, Verdict, server};

/// How a start failed: the exit code, and what was said.
async fn failed(flags: &[&str]) -> Result<(i32, String), Failure> {
    match Child::start(flags).await {
        Err(ChildError::Exited { status, log }) => Ok((status.code().unwrap_or(-1), log)),
        Err(other) => Err(other.into()),
        Ok(_) => Err(format!("{flags:?} started").into()),
    }
}

/// A flag and its value: a value given twice is an error of its own.
async fn binds(flag: &'static str, address: &str) -> Result<(i32, String), Failure> {
    // The instrument's own flags come first.
    let flag_and_value = format!("{flag}={address}");
    failed(&[&flag_and_value]).await
}

#[tokio::test]
async fn a_port_in_use_is_named() -> Verdict {
    let server = server(&[]).await?;
    let addresses = server.addresses();
    for (flag, address) in [
        ("--listen", addresses.listen),
        ("--admin-listen", addresses.admin_listen),
    ] {
        let (code, log) = binds(flag, &address.to_string()).await?;
        assert_eq!(code, 1, "{log}");
        assert!(
            log.contains(flag) && log.contains(&address.to_string()),
            "{log}"
        );
        assert!(log.contains("in use"), "{log}");
    }
    Ok(())
}

#[tokio::test]
async fn a_value_that_cannot_be_is_named() -> Verdict {
    for (flag, value) in [
        ("--listen", "nonsense"),
        ("--listen", "127.0.0.1"),
        ("--listen", "127.0.0.1:99999"),
        ("--admin-listen", "localhost"),
        ("--reorder-window", "50"),
        ("--reorder-window", "-1s"),
        ("--reorder-window", "1h"),
        ("--log-bytes-total", "plenty"),
        ("--log-age", "2days"),
        ("--max-shards", "0"),
        ("--max-message-bytes", "1GB1"),
        ("--v0-environment", ""),
        ("--v0-generation", "environmentd"),
        ("--v0-generation", "environmentd-*=0"),
        ("--log-filter", "a=b=c"),
    ] {
        let (code, log) = binds(flag, value).await?;
        assert_eq!(code, 2, "{flag}={value}: {log}");
        assert!(
            log.contains(flag) && log.contains(value),
            "{flag}={value}: {log}"
        );
        assert!(!log.contains("panicked"), "{log}");
    }
    Ok(())
}
