//! The recordings are what their README says, and the schema reads them.

use persist_pubsub_compat_tests::recording;
use persist_pubsub_compat_tests::recording::Recording;
use persist_pubsub_compat_tests::store::CREATED;
use prost::Message as _;

use super::Verdict;

#[test]
fn recorded_messages_decode_and_encode_to_the_same_bytes() -> Verdict {
    for name in ["v0-steady", "v0-contended"] {
        let recording = recording::named(name)?;
        for (index, record) in recording.records.iter().enumerate() {
            assert_eq!(
                record.message.encode_to_vec(),
                record.raw,
                "{name}: record {index}, {:?}",
                record.message
            );
            assert!(
                record.shard.is_some(),
                "{name}: record {index} says nothing"
            );
        }
    }
    Ok(())
}

#[test]
fn the_steady_recording_is_as_described() -> Verdict {
    let recording = recording::named("v0-steady")?;
    assert_eq!(recording.callers, ["gen1-writer", "gen2-reader"]);
    assert_eq!(recording.pushes().count(), 382);
    assert_eq!(recording.diffs().len(), 12);
    assert_eq!(recording.inversions(), []);
    assert_every_hole_is_filled(&recording);
    Ok(())
}

#[test]
fn the_contended_recording_is_as_described() -> Verdict {
    let recording = recording::named("v0-contended")?;
    assert_eq!(
        recording.callers,
        ["gen1-writer", "gen2-reader", "gen2-writer"]
    );
    assert_eq!(recording.pushes().count(), 2_555);
    assert_eq!(recording.diffs().len(), 16);
    let inversions = recording.inversions();
    let early: std::collections::BTreeSet<_> = inversions.iter().map(|i| i.early).collect();
    assert_eq!(early.len(), 6, "pushes that overtook: {inversions:?}");
    for inversion in inversions {
        let (early, late) = (
            &recording.records[inversion.early],
            &recording.records[inversion.late],
        );
        assert_ne!(early.caller, late.caller, "{inversion:?}");
        let behind = (late.at - early.at).as_micros();
        assert!((90..=4_700).contains(&behind), "{inversion:?}: {behind} us");
    }
    assert_every_hole_is_filled(&recording);
    Ok(())
}

#[track_caller]
fn assert_every_hole_is_filled(recording: &Recording) {
    for (shard, diffs) in recording.diffs() {
        let expected = CREATED + 1..;
        assert!(
            diffs.keys().copied().eq(expected.take(diffs.len())),
            "{shard}: {:?}",
            diffs.keys()
        );
    }
}
