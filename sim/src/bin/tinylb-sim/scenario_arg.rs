//! Which scenario is meant.

use std::{env, fs};

use tinylb_sim::{Level, Scenario};

use crate::{
    args::{Way, What},
    output::Failure,
};

/// A seed is a number; everything else is a file.
pub(crate) fn read(what: &What) -> Result<Scenario, Failure> {
    if let Ok(seed) = what.what.parse() {
        return Ok(Scenario::from_seed(what.way.profile, seed));
    }
    let path = &what.what;
    let text = fs::read_to_string(path).map_err(|error| {
        Failure::Usage(format!("{path} can't be read: {error}; give a seed, or a scenario's file"))
    })?;
    text.parse().map_err(|error| Failure::Usage(format!("{path}: {error}")))
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
