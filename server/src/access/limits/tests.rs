use super::*;

fn accounts(limits: IdentityLimits) -> Arc<Accounts> {
    let metrics = AccessMetrics::new(&prometheus::Registry::new()).unwrap();
    Accounts::new(limits, metrics).unwrap()
}

fn admit(all: &Arc<Accounts>, address: &str) -> Result<Lease, usize> {
    Accounts::admit(all, None, address.parse().unwrap())
}

fn publishes(n: u32) -> IdentityLimits {
    IdentityLimits {
        publishes_per_second: NonZeroU32::new(n),
        ..IdentityLimits::default()
    }
}

#[test]
fn no_limit_is_no_account() {
    let metrics = AccessMetrics::new(&prometheus::Registry::new()).unwrap();
    assert!(Accounts::new(IdentityLimits::default(), metrics).is_none());
}

#[tokio::test(start_paused = true)]
async fn sessions_count_by_name_or_by_network() {
    let all = accounts(IdentityLimits {
        sessions: Some(1),
        ..IdentityLimits::default()
    });
    let first = admit(&all, "2001:db8::1").unwrap();
    assert_eq!(admit(&all, "2001:db8::2").unwrap_err(), 1);
    let _other = admit(&all, "2001:db8:0:1::1").unwrap();
    let _v4 = admit(&all, "10.0.0.1").unwrap();
    assert_eq!(admit(&all, "::ffff:10.0.0.1").unwrap_err(), 1);
    let name: Arc<str> = "blue".into();
    let address = "10.0.0.1".parse().unwrap();
    let _named = Accounts::admit(&all, Some(&name), address).unwrap();
    drop(first);
    let _again = admit(&all, "2001:db8::2").unwrap();
    assert_eq!(all.metrics.limited_sessions.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn coming_back_brings_no_new_allowance_until_it_is_forgotten() {
    let all = accounts(publishes(2));
    let spend = |lease: &Lease| (0..10).take_while(|_| lease.pay(0).is_ok()).count();
    let first = admit(&all, "10.0.0.1").unwrap();
    assert_eq!(spend(&first), 2);
    drop(first);
    let second = admit(&all, "10.0.0.1").unwrap();
    assert_eq!(spend(&second), 0);
    drop(second);
    tokio::time::advance(REMEMBERED).await;
    all.lock().sweep_at = 0;
    let _third = admit(&all, "10.0.0.2").unwrap();
    assert_eq!(all.lock().by_holder.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn addresses_that_come_and_go_are_forgotten() {
    let all = accounts(publishes(1));
    for n in 0..3 * MAX_REMEMBERED {
        let address = Ipv6Addr::from((n as u128) << 64);
        drop(Accounts::admit(&all, None, address.into()).unwrap());
        assert!(all.lock().by_holder.len() <= MAX_REMEMBERED + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn subscriptions_are_counted_over_all_sessions() {
    let all = accounts(IdentityLimits {
        subscriptions: Some(3),
        ..IdentityLimits::default()
    });
    let (a, b) = (
        admit(&all, "10.0.0.1").unwrap(),
        admit(&all, "10.0.0.1").unwrap(),
    );
    assert!(a.room_for(3).is_ok() && a.room_for(4).is_err());
    a.subscribe().unwrap();
    b.subscribe().unwrap();
    assert!(b.room_for(2).is_err());
    b.subscribe().unwrap();
    let refusal = a.subscribe().unwrap_err();
    assert_eq!(refusal.code, RefusalCode::ResourceExhausted);
    assert!(refusal.retry_after.is_some());
    b.unsubscribe(2);
    a.subscribe().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_publication_is_paid_for_once_and_the_hint_is_right() {
    let all = accounts(IdentityLimits {
        publishes_per_second: NonZeroU32::new(10),
        bytes_per_second: NonZeroU32::new(1000),
        largest: 4000,
        ..IdentityLimits::default()
    });
    let lease = admit(&all, "10.0.0.1").unwrap();
    lease.pay(4000).unwrap();
    let hint = lease.pay(500).unwrap_err().retry_after.unwrap();
    assert!(hint <= Duration::from_millis(501), "{hint:?}");
    tokio::time::advance(hint).await;
    lease.pay(500).unwrap();
    // One that waits does not pay for its bytes again.
    let mut paid = 0;
    while lease.pay(0).is_ok() {
        paid += 1;
    }
    assert!(paid <= 10, "{paid}");
    tokio::time::advance(Duration::from_millis(50)).await;
    let mut payment = lease.payment(50).unwrap();
    let (until, flag) = payment.advance().unwrap();
    assert_eq!(flag, "--max-publishes-per-second");
    tokio::time::advance(until - Instant::now()).await;
    assert!(payment.advance().is_none());
    assert_eq!(all.metrics.limited_bytes.get(), 1);
}
