use std::{fmt, path::Path, process::Command};

use tinylb_sim::Level;

use super::bug::Bug;
use crate::output::Failure;

/// Between two starts, so that they have no seeds in common.
const STRIDE: u64 = 1_000_000;
/// How many seeds are tried on the decisions for each on the driver: they are that much faster.
const DECISIONS_FACTOR: u64 = 10;
/// This many times the seeds must have seen all that the level reaches.
const SOMETIMES_FACTOR: u64 = 5;

/// How a planted bug is found on a level.
pub(super) enum Found {
    /// By runs that break a law: after this many seeds, or more, in half of the starts.
    ByLaw { seeds: u64, hits: u64, starts: u64, law: String },
    /// By a check of the simulation, this one.
    ByCheck(String),
    /// Not at all.
    Blind,
}

impl Found {
    /// How many seeds it took to break a law, if one was broken.
    pub(super) fn seeds(&self) -> Option<u64> {
        match self {
            Self::ByLaw { seeds, .. } => Some(*seeds),
            Self::ByCheck(_) | Self::Blind => None,
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByLaw { seeds, hits, starts, law } if hits < starts => {
                write!(f, "{seeds} seeds: {law} ({hits} of {starts})")
            }
            Self::ByLaw { seeds, law, .. } => write!(f, "{seeds} seeds: {law}"),
            Self::ByCheck(what) => f.write_str(what),
            Self::Blind => f.write_str("blind"),
        }
    }
}

/// Looks for a bug that is planted in this build.
pub(super) fn look_for(bug: &Bug, program: &Path, level: Level, starts: u64, limit: u64) -> Found {
    let limit = match level {
        Level::Decisions => limit * DECISIONS_FACTOR,
        Level::Driver => limit,
    };
    let hits: Vec<_> =
        (0..starts).filter_map(|start| first_hit(program, level, start * STRIDE, limit)).collect();
    if let Some(hidden) = bug.hides() {
        let what = format!("{hidden} isn't found");
        return if hits.is_empty() { Found::ByCheck(what) } else { Found::Blind };
    }
    if hits.is_empty() && bug.is_of_simulation() {
        return look_at_simulation(program, level, limit);
    }
    let Some((_, law)) = hits.first().cloned() else { return Found::Blind };
    let mut seeds: Vec<_> = hits.iter().map(|(seeds, _)| *seeds).collect();
    let hits = seeds.len() as u64;
    // Where it was not found, it would have taken more than all seeds.
    seeds.resize(starts as usize, limit.saturating_add(1));
    seeds.sort_unstable();
    Found::ByLaw { seeds: seeds[seeds.len() / 2], hits, starts, law }
}

/// How many seeds from `start` it takes until one fails, and which law it breaks.
fn first_hit(program: &Path, level: Level, start: u64, limit: u64) -> Option<(u64, String)> {
    let seeds = format!("{start}..{}", start + limit);
    let (is_good, text) =
        run(program, level, &["run", "--first", "--hang", "20s", "--seeds", &seeds]);
    if is_good {
        return None;
    }
    Some(hit(&text, start).unwrap_or_else(|| (limit, "the program dies".into())))
}

/// Reads what `run` prints of the first seed that fails.
fn hit(text: &str, start: u64) -> Option<(u64, String)> {
    text.lines().find_map(|line| {
        let mut words = line.strip_prefix("seed ")?.split_whitespace();
        let seed: u64 = words.next()?.parse().ok()?;
        let law = match words.next()? {
            "breaks" => words.next()?,
            verb => verb.trim_end_matches(':'),
        };
        Some((seed - start + 1, law.to_owned()))
    })
}

/// A bug of the simulation may make it see too little, or not the same each time.
fn look_at_simulation(program: &Path, level: Level, limit: u64) -> Found {
    let seeds = format!("0..{}", limit * SOMETIMES_FACTOR);
    let (is_good, text) = run(program, level, &["run", "--require-sometimes", "--seeds", &seeds]);
    if !is_good {
        let never = text.lines().find(|line| line.starts_with("never: "));
        let what = never.unwrap_or("a law, late").to_owned();
        return Found::ByCheck(what);
    }
    match run(program, level, &["meta"]) {
        (true, _) => Found::Blind,
        (false, _) => Found::ByCheck("traces differ".into()),
    }
}

/// Whether the program without any bug passes all that finds bugs.
pub(super) fn check_clean(program: &Path, level: Level, limit: u64) -> Result<(), Failure> {
    let seeds = format!("0..{}", limit * SOMETIMES_FACTOR);
    for args in [&["run", "--require-sometimes", "--seeds", &seeds][..], &["meta"]] {
        let (is_good, text) = run(program, level, args);
        if !is_good {
            let (what, level) = (args[0], level.name());
            let message =
                format!("without any planted bug, {what} on level {level} fails:\n{text}");
            return Err(Failure::Error(message));
        }
    }
    Ok(())
}

/// Whether the program ends well, and what it prints.
fn run(program: &Path, level: Level, args: &[&str]) -> (bool, String) {
    match Command::new(program).args(args).args(["--level", level.name()]).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            (output.status.success(), text + &String::from_utf8_lossy(&output.stderr))
        }
        Err(error) => (false, format!("{}: {error}", program.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_seed_is_read_from_what_run_prints() {
        let law = "seed 107 breaks in-set at 1.000 ms: something | tinylb-sim replay 107\n";
        assert_eq!(hit(law, 100), Some((8, "in-set".into())));
        let hang = "\nseed 100 hangs: it runs for more than 20 s | tinylb-sim replay 100\n";
        assert_eq!(hit(hang, 100), Some((1, "hangs".into())));
        assert_eq!(hit("thread main panicked\n", 100), None);
    }
}
