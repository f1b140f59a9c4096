use std::{fmt, path::Path, process::Command};

use tinylb_sim::Level;

use super::bug::Bug;
use crate::output::Failure;

/// Between two starts, so that they have no seeds in common.
const STRIDE: u64 = 1_000_000;
/// How many seeds are tried on the decisions for each on the driver: they are that much faster.
const DECISIONS_FACTOR: u64 = 10;
/// The same for the relay, which is faster still.
const RELAY_FACTOR: u64 = 250;
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
pub(super) fn look_for(bug: &Bug, build: Build<'_>, starts: u64, limit: u64) -> Found {
    let limit = match build.level {
        Level::Decisions => limit * DECISIONS_FACTOR,
        Level::Relay => limit * RELAY_FACTOR,
        Level::Driver => limit,
    };
    let hits: Vec<_> =
        (0..starts).filter_map(|start| build.first_hit(start * STRIDE, limit)).collect();
    if let Some(hidden) = bug.hides() {
        let what = format!("{hidden} isn't found");
        return if hits.is_empty() { Found::ByCheck(what) } else { Found::Blind };
    }
    if hits.is_empty() && bug.is_of_simulation() {
        return look_at_simulation(build, limit);
    }
    let Some((_, law)) = hits.first().cloned() else { return Found::Blind };
    let mut seeds: Vec<_> = hits.iter().map(|(seeds, _)| *seeds).collect();
    let hits = seeds.len() as u64;
    // Where it was not found, it would have taken more than all seeds.
    seeds.resize(starts as usize, limit.saturating_add(1));
    seeds.sort_unstable();
    Found::ByLaw { seeds: seeds[seeds.len() / 2], hits, starts, law }
}

/// A bug of the simulation may make it see too little, or not the same each time.
fn look_at_simulation(build: Build<'_>, limit: u64) -> Found {
    let (is_good, text) = build.reach(limit);
    if !is_good {
        let never = text.lines().find(|line| line.starts_with("never: "));
        let what = never.unwrap_or("a law, late").to_owned();
        return Found::ByCheck(what);
    }
    match build.meta() {
        (true, _) => Found::Blind,
        (false, _) => Found::ByCheck("traces differ".into()),
    }
}

/// Whether the program without any bug passes all that finds bugs.
pub(super) fn check_clean(build: Build<'_>, limit: u64) -> Result<(), Failure> {
    for (what, (is_good, text)) in [("run", build.reach(limit)), ("meta", build.meta())] {
        if !is_good {
            let level = build.level.name();
            let message =
                format!("without any planted bug, {what} on level {level} fails:\n{text}");
            return Err(Failure::Error(message));
        }
    }
    Ok(())
}

/// A build of this program, and how it is run.
#[derive(Clone, Copy)]
pub(super) struct Build<'a> {
    pub(super) program: &'a Path,
    pub(super) level: Level,
    /// How many seeds it runs at once.
    pub(super) threads: usize,
}

impl Build<'_> {
    /// How many seeds from `start` it takes until one fails, and which law it breaks.
    fn first_hit(self, start: u64, limit: u64) -> Option<(u64, String)> {
        let seeds = format!("{start}..{}", start + limit);
        let (is_good, text) = self.seeds(&seeds, &["--first", "--hang", "20s"]);
        if is_good {
            return None;
        }
        Some(hit(&text, start).unwrap_or_else(|| (limit, "the program dies".into())))
    }

    /// Whether seeds see all that the level reaches.
    fn reach(self, limit: u64) -> (bool, String) {
        self.seeds(&format!("0..{}", limit * SOMETIMES_FACTOR), &["--require-sometimes"])
    }

    fn seeds(self, seeds: &str, args: &[&str]) -> (bool, String) {
        let threads = self.threads.to_string();
        self.run(&[&["run", "--jobs", &threads, "--seeds", seeds], args].concat())
    }

    fn meta(self) -> (bool, String) {
        self.run(&["meta"])
    }

    /// Whether the program ends well, and what it prints.
    fn run(self, args: &[&str]) -> (bool, String) {
        let level = self.level.name();
        match Command::new(self.program).args(args).args(["--level", level]).output() {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                (output.status.success(), text + &String::from_utf8_lossy(&output.stderr))
            }
            Err(error) => (false, format!("{}: {error}", self.program.display())),
        }
    }
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
