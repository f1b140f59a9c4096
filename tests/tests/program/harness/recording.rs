use std::{fs, process::Command, time::Duration};

use tempfile::NamedTempFile;
use tinylb_sim::recorded::{Judgement, judge};

/// How late a timer may be while other tests have the processors, beyond the program's own pauses.
const SLACK: Duration = Duration::from_secs(5);

/// Where a program records what happens to its connections.
pub(crate) struct Recording(NamedTempFile);

impl Recording {
    /// Has the program that this command starts record.
    pub(crate) fn of(command: &mut Command) -> Self {
        let file = NamedTempFile::new().unwrap();
        command.arg("--record").arg(file.path());
        Self(file)
    }

    pub(crate) fn read(&self) -> Vec<u8> {
        fs::read(self.0.path()).unwrap()
    }

    /// Fails if what has been recorded breaks a law; the recording stays then.
    pub(crate) fn check(self) {
        let text = self.read();
        // A program that couldn't start records nothing.
        if text.is_empty() {
            return;
        }
        let recording = tinylb_core::Recording::read(&text).unwrap();
        // The ledger can't number the backends of a very large set.
        let Ok(judgement) = judge(&recording, SLACK) else { return };
        if judgement.is_broken() {
            let path = self.0.keep().unwrap().1;
            panic!("the recording {} breaks a law: {judgement:#?}", path.display());
        }
    }
}

/// What comes of a recording.
pub(crate) fn judged(text: &[u8]) -> Judgement {
    let recording = tinylb_core::Recording::read(text).unwrap();
    judge(&recording, SLACK).unwrap()
}
