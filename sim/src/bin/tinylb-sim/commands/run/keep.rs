use std::{fs, path::Path};

use tinylb_sim::{AnyScenario, Violation, timeline};

use crate::{
    args::Way,
    catch,
    commands::minimize,
    output::{Failure, print, write_file},
};

const KEPT_MAX: usize = 10;

/// A seed, and the first law that its run broke.
pub(super) struct Found {
    pub(super) seed: u64,
    pub(super) violation: Violation,
}

/// Writes a smaller scenario and its timeline for each of the first failures.
pub(super) fn keep(dir: &Path, found: &[Found], way: Way) -> Result<(), Failure> {
    if found.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(|error| {
        let dir = dir.display();
        Failure::Usage(format!("{dir} can't be made: {error}; name another directory"))
    })?;
    for Found { seed, violation } in found.iter().take(KEPT_MAX) {
        let name = format!("seed {seed}, profile {}", way.profile.name);
        let scenario = AnyScenario::from_seed(way.level, way.profile, *seed);
        let (smaller, _) = minimize::smaller(way.level, &scenario, violation);
        let path = dir.join(format!("seed-{seed}.txt"));
        write_file(&path, &minimize::text(&name, &smaller, violation))?;
        print(format_args!("{}: {} steps\n", path.display(), smaller.steps()));
        let outcome = catch::run(way.level, &smaller, true);
        if let AnyScenario::Balancer(smaller) = &smaller {
            let page = timeline::page(&format!("{name}, made smaller"), smaller, &outcome);
            write_file(&path.with_extension("html"), &page)?;
        }
    }
    Ok(())
}
