//! Which scenario is meant.

use std::{env, fs};

use tinylb_sim::{AnyScenario, Level};

use crate::{
    args::{Way, What},
    output::Failure,
};

/// A seed is a number; everything else is a file.
pub(crate) fn read(what: &What) -> Result<AnyScenario, Failure> {
    if let Ok(seed) = what.what.parse() {
        return Ok(AnyScenario::from_seed(what.way.level, what.way.profile, seed));
    }
    let path = &what.what;
    let text = fs::read_to_string(path).map_err(|error| {
        Failure::Usage(format!("{path} can't be read: {error}; give a seed, or a scenario's file"))
    })?;
    let scenario: AnyScenario =
        text.parse().map_err(|error| Failure::Usage(format!("{path}: {error}")))?;
    let level = what.way.level;
    if !scenario.is_for(level) {
        let level = level.name();
        let levels = Level::ALL.iter().filter(|level| scenario.is_for(**level));
        let levels = levels.map(|level| level.name()).collect::<Vec<_>>().join(" or ");
        let remedy = format!("run it with --level {levels}");
        return Err(Failure::Usage(format!("{path} isn't for level {level}; {remedy}")));
    }
    Ok(scenario)
}

/// For people: which run it is.
pub(crate) fn name(what: &What) -> String {
    let Way { profile, level } = what.way;
    match what.what.parse::<u64>() {
        Ok(seed) => format!("seed {seed}, profile {}, level {}", profile.name, level.name()),
        Err(_) => format!("{}, level {}", what.what, level.name()),
    }
}

/// The command that shows this seed again.
pub(crate) fn replay_command(seed: u64, way: Way) -> String {
    let Way { profile, level } = way;
    let (profile, level) = (profile.name, level.name());
    format!("{} replay {seed} --profile {profile} --level {level}", program())
}

/// The command that shows this file again.
pub(crate) fn replay_file_command(path: &str, level: Level) -> String {
    format!("{} replay {path} --level {}", program(), level.name())
}

fn program() -> String {
    env::args().next().unwrap_or_else(|| "tinylb-sim".into())
}
