use std::{
    fs,
    path::{Path, PathBuf},
};

use tinylb_sim::Level;

use crate::output::Failure;

/// Where bugs are kept, below the root of the sources.
const DIRECTORIES: [&str; 2] = ["core/tests/planted", "sim/zoo"];

/// What every level but the decisions runs.
const SHARED: [&str; 2] = ["core/src/server/delivery.rs", "core/src/server/ends.rs"];

/// A bug to plant: a patch, with words about it before its first `---`.
pub(super) struct Bug {
    pub(super) name: String,
    pub(super) path: PathBuf,
    text: String,
}

impl Bug {
    /// Whether it is one of the simulation itself. No law need tell of it: it may show in what the
    /// scenarios reach no more, or in traces that differ.
    pub(super) fn is_of_simulation(&self) -> bool {
        self.text.lines().any(|line| line.starts_with("--- a/sim/"))
    }

    /// Whether it is in what this level runs: the relay for sockets alone, or all but that.
    pub(super) fn is_in(&self, level: Level) -> bool {
        let files = || self.text.lines().filter_map(|line| line.strip_prefix("--- a/"));
        let is_shared = |file: &str| SHARED.contains(&file);
        let is_of_relay = |file: &str| {
            file.starts_with("sim/src/relay/")
                || file.starts_with("core/src/relay/") && file != "core/src/relay/copy.rs"
        };
        match level {
            Level::Relay => files().any(|file| is_shared(file) || is_of_relay(file)),
            Level::Decisions | Level::Driver => files().any(|file| !is_of_relay(file)),
        }
    }

    /// The bug that is planted with it, and that it keeps from being found: the only way in which
    /// an oracle that is off can show. Said by a line `Hides: NAME` before the patch.
    pub(super) fn hides(&self) -> Option<&str> {
        self.prose().find_map(|line| line.strip_prefix("Hides: ")).map(str::trim)
    }

    /// Why no scenario can show it: said by a line `Needs: SOMETHING` before the patch.
    pub(super) fn needs(&self) -> Option<&str> {
        self.prose().find_map(|line| line.strip_prefix("Needs: ")).map(str::trim)
    }

    fn prose(&self) -> impl Iterator<Item = &str> {
        self.text.lines().take_while(|line| !line.starts_with("--- "))
    }

    pub(super) fn first_sentence(&self) -> String {
        let prose = self.prose().collect::<Vec<_>>().join(" ");
        match prose.split_once(". ") {
            Some((first, _)) => format!("{first}."),
            None => prose.trim().into(),
        }
    }
}

/// Every bug, by name.
pub(super) fn all(root: &Path) -> Result<Vec<Bug>, Failure> {
    let mut bugs = Vec::new();
    for directory in DIRECTORIES {
        let directory = root.join(directory);
        let wrong = |error| {
            let directory = directory.display();
            let message = format!("{directory} can't be read: {error}; say where the sources are");
            Failure::Usage(format!("{message} with --root"))
        };
        for entry in fs::read_dir(&directory).map_err(wrong)? {
            let path = entry.map_err(wrong)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if let Some(name) = name.strip_suffix(".patch") {
                let text = fs::read_to_string(&path).map_err(wrong)?;
                let path = fs::canonicalize(&path).map_err(wrong)?;
                bugs.push(Bug { name: name.into(), path, text });
            }
        }
    }
    bugs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(bugs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bug(text: &str) -> Bug {
        Bug { name: String::new(), path: PathBuf::new(), text: text.into() }
    }

    #[test]
    fn a_bug_is_looked_for_where_it_is() {
        let levels = |file: &str| {
            let bug = bug(&format!("It is wrong.\n\n--- a/{file}\n+++ b/{file}\n"));
            [Level::Decisions, Level::Relay, Level::Driver].map(|level| bug.is_in(level))
        };
        assert_eq!(levels("core/src/relay/flow.rs"), [false, true, false]);
        assert_eq!(levels("core/src/relay/copy.rs"), [true, false, true]);
        assert_eq!(levels("core/src/balancer/mod.rs"), [true, false, true]);
        assert_eq!(levels("core/src/server/ends.rs"), [true, true, true]);
        assert_eq!(levels("sim/src/relay/tcp.rs"), [false, true, false]);
        assert_eq!(levels("sim/src/oracle/law.rs"), [true, false, true]);
    }

    #[test]
    fn the_words_before_a_patch_say_what_it_is() {
        let of_core = bug("It goes\nwrong. More.\n\n--- a/core/src/x.rs\n+++ b/core/src/x.rs\n");
        assert_eq!(of_core.first_sentence(), "It goes wrong.");
        assert_eq!((of_core.hides(), of_core.is_of_simulation()), (None, false));
        let of_sim = bug("It is off.\nHides: id-reused\n\n--- a/sim/src/x.rs\nHides: nothing\n");
        assert_eq!((of_sim.hides(), of_sim.is_of_simulation()), (Some("id-reused"), true));
    }
}
