//! The mutations of `../mutations` still fit the code, and each promise's test
//! names its own; `mutants.sh` shows that the tests notice them.

use std::collections::BTreeMap;

use persist_pubsub_compat_tests::child::workspace;
use persist_pubsub_compat_tests::mutation;

use super::Verdict;

#[test]
fn every_mutation_still_applies() -> Verdict {
    let mut promises = BTreeMap::new();
    for mutation in mutation::all()? {
        mutation.applied(workspace())?;
        let promise = mutation.promise;
        let (_, name) = mutation
            .name
            .split_once(&format!("{promise}-"))
            .ok_or("a mutation's name begins with its promise")?;
        let test = format!("compat-tests/tests/promises/{promise}.rs");
        let text = std::fs::read_to_string(workspace().join(&test))?;
        assert!(text.contains(&format!("`{name}`")), "{test}: {name}");
        *promises.entry(promise).or_insert(0) += 1;
    }
    let all =
        "advisory convergence fence isolation join no_echo no_silent_gap opaque order poison_free";
    for promise in all.split(' ') {
        let count = promises.get(promise).copied().unwrap_or(0);
        assert!(
            count >= 2,
            "{promise}: {count} mutations, at least 2 are due"
        );
    }
    Ok(())
}
