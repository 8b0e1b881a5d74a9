//! The mutations of `../mutations` still fit the code; `mutants.sh` shows that the
//! tests notice them.

use std::collections::BTreeMap;

use persist_pubsub_compat_tests::child::workspace;
use persist_pubsub_compat_tests::mutation;

use super::Verdict;

#[test]
fn every_mutation_still_applies() -> Verdict {
    let mut promises = BTreeMap::new();
    for mutation in mutation::all()? {
        mutation.applied(workspace())?;
        *promises.entry(mutation.promise).or_insert(0) += 1;
    }
    let all = "advisory convergence isolation join no_echo no_silent_gap opaque order poison_free";
    for promise in all.split(' ') {
        let count = promises.get(promise).copied().unwrap_or(0);
        assert!(
            count >= 2,
            "{promise}: {count} mutations, at least 2 are due"
        );
    }
    Ok(())
}
