//! `tinylb-sim corpus`: scenarios that were worth keeping, on every level.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tinylb_sim::{AnyScenario, Level};

use crate::{
    catch,
    output::{Failure, print},
    scenario_arg,
};

pub(crate) fn corpus(dir: &Path) -> Result<(), Failure> {
    let files = files(dir).map_err(|error| {
        let dir = dir.display();
        Failure::Usage(format!("{dir} can't be read: {error}; name a directory of scenarios"))
    })?;
    if files.is_empty() {
        let dir = dir.display();
        return Err(Failure::Usage(format!("{dir} holds no scenario: put files of .txt there")));
    }
    let mut failed = 0;
    for path in &files {
        let text = fs::read_to_string(path)
            .map_err(|error| Failure::Error(format!("{}: {error}", path.display())))?;
        let scenario: AnyScenario =
            text.parse().map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
        let levels = Level::ALL.iter().filter(|level| scenario.is_for(**level));
        let broken = levels.filter(|level| !holds(path, &scenario, **level)).count();
        failed += usize::from(broken > 0);
    }
    print(format_args!("{failed} of {} scenarios break a law\n", files.len()));
    if failed == 0 { Ok(()) } else { Err(Failure::Reported) }
}

fn holds(path: &Path, scenario: &AnyScenario, level: Level) -> bool {
    let outcome = catch::run(level, scenario, false);
    for violation in &outcome.violations {
        let path = path.display().to_string();
        let command = scenario_arg::replay_file_command(&path, level);
        print(format_args!("{path}: level {}: {violation}\n    {command}\n", level.name()));
    }
    outcome.violations.is_empty()
}

fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path()));
    let mut files = paths.collect::<io::Result<Vec<_>>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    Ok(files)
}
