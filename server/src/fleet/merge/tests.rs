use super::*;

fn sample(publishes: f64, gaps: u64, p99: Option<f64>) -> pb::StatusSample {
    pb::StatusSample {
        publishes_per_second: publishes,
        gaps,
        sessions: gaps,
        latency_p99_seconds: p99,
        ..pb::StatusSample::default()
    }
}

fn row(sample: &pb::StatusSample) -> (f64, u64, Option<f64>) {
    (
        sample.publishes_per_second,
        sample.gaps,
        sample.latency_p99_seconds,
    )
}

/// Whoever samples a moment later than the others: its rates stay, and nothing
/// that happened is counted twice, or not at all.
#[test]
fn samples_of_several_become_one_row() {
    let mut mixer = Mixer::default();
    let mut mix = |a: &[pb::StatusSample], b: Option<&[pb::StatusSample]>| {
        let mut parts = vec![("a".to_owned(), a.to_vec())];
        parts.extend(b.map(|b| ("b".to_owned(), b.to_vec())));
        let mixed = mixer.mix(parts);
        mixed.iter().map(row).collect::<Vec<_>>()
    };
    let one = sample(1.0, 1, Some(0.1));
    let two = sample(2.0, 2, None);
    let five = sample(5.0, 5, Some(0.3));
    // From the newest back.
    assert_eq!(
        mix(&[one, two], Some(&[five])),
        [(1.0, 1, Some(0.1)), (7.0, 7, Some(0.3))]
    );
    assert_eq!(mix(&[one], Some(&[])), [(6.0, 1, Some(0.3))]);
    assert_eq!(
        mix(&[one], Some(&[five, sample(7.0, 1, None)])),
        [(7.0, 7, Some(0.3))]
    );
    assert_eq!(mix(&[two], None), [(2.0, 2, None)]);
    assert_eq!(mix(&[two], Some(&[five])), [(7.0, 7, Some(0.3))]);
    assert_eq!(mix(&[], None), [(2.0, 0, None)]);
}

fn group(environment: &str, generation: u64, sessions: u64) -> pb::StatusGroup {
    pb::StatusGroup {
        environment: environment.to_owned(),
        generation: Some(generation),
        sessions,
        ..pb::StatusGroup::default()
    }
}

#[test]
fn the_census_of_all_names_each_row_and_each_that_is_missing() {
    let of = |groups: &[pb::StatusGroup], seconds| pb::GenerationCensus {
        groups: groups.to_vec(),
        groups_left_out: 1,
        server_running_for: Duration::from_secs(seconds).try_into().ok(),
        ..pb::GenerationCensus::default()
    };
    let [a, b, c] = ["a", "b", "c"].map(|name| Peer::new(name, name));
    let lost = show_replica(&Peer::new("d", "d"), "not heard of");
    let whole = census(
        vec![
            (b, Ok(of(&[group("e", 2, 3), group("e", 1, 4)], 50))),
            (a, Ok(of(&[group("d", 7, 1), group("e", 2, 5)], 20))),
            (c, Err(Status::unavailable("no answer in time"))),
        ],
        vec![lost],
    );
    let rows = whole.groups.iter();
    let rows: Vec<_> = rows
        .map(|g| {
            (
                &*g.environment,
                g.generation.unwrap(),
                &*g.replica,
                g.sessions,
            )
        })
        .collect();
    assert_eq!(
        rows,
        [
            ("d", 7, "a", 1),
            ("e", 2, "a", 5),
            ("e", 2, "b", 3),
            ("e", 1, "b", 4)
        ]
    );
    assert_eq!(whole.groups_left_out, 2);
    assert_eq!(length(whole.server_running_for.as_ref()).as_secs(), 20);
    let replicas = whole.replicas.iter();
    let replicas: Vec<_> = replicas.map(|r| (&*r.name, &*r.missing)).collect();
    assert_eq!(
        replicas,
        [
            ("a", ""),
            ("b", ""),
            ("c", "no answer in time"),
            ("d", "not heard of")
        ]
    );
}

#[test]
fn the_status_of_all_sums_up_and_warns_of_who_is_missing() {
    let of = |sessions| pb::WatchStatusResponse {
        server: Some(pb::GetServerInfoResponse {
            sessions,
            instance_id: sessions.to_string(),
            ..pb::GetServerInfoResponse::default()
        }),
        groups: vec![group("e", 2, sessions)],
        ..pb::WatchStatusResponse::default()
    };
    let [a, b, c] = ["a", "b", "c"].map(|name| Peer::new(name, name));
    let parts = vec![
        (a, Ok(of(3))),
        (b, Err(Status::unavailable("no answer in time"))),
        (c, Ok(of(4))),
    ];
    let whole = status(parts, Vec::new(), &mut Mixer::default());
    let server = whole.server.unwrap();
    assert_eq!((server.sessions, &*server.instance_id), (7, "3"));
    assert_eq!(whole.groups.len(), 2);
    let finding = &whole.findings[0];
    assert_eq!(finding.replica, "b");
    assert!(finding.what.contains("no answer in time"), "{finding:?}");
    let each: Vec<_> = whole
        .replicas
        .iter()
        .map(|r| r.server.as_ref().map(|s| s.sessions))
        .collect();
    assert_eq!(each, [Some(3), None, Some(4)]);
}
