use super::*;

#[test]
fn an_endpoint_is_refused_early_and_says_why() {
    for bad in [
        "",
        "http://",
        "http://a b",
        "https://host:1",
        "unix:///tmp/x",
        ":6879",
        "host:notaport",
        "host:99999",
        "user@host:1",
        "http://host:1/path",
    ] {
        let error = Config::new(bad).expect_err(bad);
        assert!(
            error.to_string().contains("expected http://host:port"),
            "{error}"
        );
    }
}

#[test]
fn an_endpoint_may_leave_out_scheme_and_port() {
    for (given, host, port) in [
        ("http://pubsub:7000", "pubsub", 7000),
        ("pubsub:7000", "pubsub", 7000),
        ("pubsub", "pubsub", DEFAULT_PORT),
        ("http://127.0.0.1", "127.0.0.1", DEFAULT_PORT),
        ("http://[::1]:7", "::1", 7),
    ] {
        let config = Config::new(given).expect(given);
        assert_eq!((config.host.as_str(), config.port), (host, port), "{given}");
    }
}

#[test]
fn backoff_is_validated_when_configured() {
    let config = Config::new("h").unwrap();
    let second = Duration::from_secs(1);
    assert!(config.clone().backoff(Duration::ZERO, second).is_err());
    assert!(config.clone().backoff(second * 2, second).is_err());
    assert!(config.backoff(second, second).is_ok());
}

#[test]
fn texts_are_cut_between_characters() {
    let long = "é".repeat(200);
    let config = Config::new("h").unwrap().client_name(&long);
    assert_eq!(config.client_name.len(), 256);
    assert_eq!(cut("aé", 2), "a");
    assert_eq!(cut("", 2), "");
}
