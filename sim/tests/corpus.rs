//! The scenarios of `sim/corpus`: they broke a law once, or could, and do so no more.

#![allow(clippy::unwrap_used)] // Tests and what serves only them.

use std::{fs, path::Path};

use tinylb_sim::{AnyScenario, Level};

#[test]
fn a_scenario_that_was_worth_keeping_breaks_no_law_on_any_of_its_levels() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut count = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let scenario: AnyScenario =
            text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for level in Level::ALL.iter().filter(|level| scenario.is_for(**level)) {
            let first = level.run_any(&scenario, false).violations.into_iter().next();
            assert!(first.is_none(), "{}: {}: {}", path.display(), level.name(), first.unwrap());
        }
        count += 1;
    }
    assert!(count > 3, "{count} scenarios were found");
}
