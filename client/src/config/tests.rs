use super::*;

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
