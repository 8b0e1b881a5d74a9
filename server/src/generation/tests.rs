use super::*;

#[test]
fn streams_are_counted_and_bounded() {
    let census = Census::new(2);
    let (a, b) = (census.admit().unwrap(), census.admit().unwrap());
    assert!(a > 0 && b > a);
    assert_eq!(census.admit(), None);
    assert_eq!(census.streams(), 2);
    census.release();
    assert!(
        census.admit().is_some_and(|c| c > b),
        "ids are not used again"
    );
}

#[tokio::test(start_paused = true)]
async fn it_is_empty_when_the_last_stream_goes_and_not_before() {
    let census = Arc::new(Census::new(10));
    census.emptied().await;
    census.admit();
    census.admit();
    let waiting = tokio::spawn({
        let census = Arc::clone(&census);
        async move { census.emptied().await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    census.release();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished());
    // One goes and another comes before the waiter looks.
    census.release();
    census.admit();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished(), "there is one again");
    census.release();
    waiting.await.unwrap();
}
