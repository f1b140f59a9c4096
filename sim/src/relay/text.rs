//! Scenarios as text, to be read, edited and kept.

use std::{fmt, str::FromStr, str::SplitWhitespace};

use tinylb_core::Side;

use super::{CONFIG_FIELDS, Config, Operation, Scenario, Step};
use crate::scenario::ScenarioError;

/// The first line, which tells these scenarios from others.
pub(crate) const FIRST_LINE: &str = "level relay";

const SIDES: &[(&str, Side)] = &[("client", Side::Client), ("backend", Side::Backend)];

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FIRST_LINE}\nseed {}", self.seed)?;
        let (mut config, mut default) = (self.config, Config::default());
        for field in CONFIG_FIELDS {
            let value = *(field.of)(&mut config);
            if value != *(field.of)(&mut default) {
                writeln!(f, "{} {value}", field.name)?;
            }
        }
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {} {}", self.after, self.operation)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(side, bytes) => write!(f, "send {side} {bytes}"),
            Self::Urgent(side) => write!(f, "urgent {side}"),
            Self::End(side) => write!(f, "end {side}"),
            Self::Close(side) => write!(f, "close {side}"),
            Self::Abort(side) => write!(f, "abort {side}"),
            Self::Stop(side) => write!(f, "stop {side}"),
            Self::Go(side) => write!(f, "go {side}"),
            Self::Hold(side) => write!(f, "hold {side}"),
            Self::Release(side) => write!(f, "release {side}"),
            Self::Report(side) => write!(f, "report {side}"),
            Self::RefusePipes => f.write_str("refuse-pipes"),
            Self::FailSplices(count) => write!(f, "fail-splices {count}"),
            Self::ForbidSplices => f.write_str("forbid-splices"),
            Self::Kill => f.write_str("kill"),
        }
    }
}

impl FromStr for Scenario {
    type Err = ScenarioError;

    /// Reads a scenario: a line each. `#` begins a comment. What isn't given has its default.
    fn from_str(text: &str) -> Result<Self, ScenarioError> {
        let mut scenario = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let words = line.split('#').next().unwrap_or_default().split_whitespace();
            scenario.read(words).map_err(|cause| ScenarioError { line: number, cause })?;
        }
        Ok(scenario)
    }
}

impl Scenario {
    fn read(&mut self, mut words: SplitWhitespace<'_>) -> Result<(), String> {
        let Some(first) = words.next() else { return Ok(()) };
        match first {
            "level" => match words.next() {
                Some("relay") => {}
                _ => return Err("the level must be relay".into()),
            },
            "seed" => self.seed = number(words.next(), "seed", 0, u64::MAX)?,
            "after" => {
                let after = number(words.next(), "after", 0, 1_000_000)? as u32;
                self.steps.push(Step { after, operation: operation(&mut words)? });
            }
            name => {
                let field = CONFIG_FIELDS.iter().find(|field| field.name == name);
                let field = field.ok_or_else(|| {
                    format!("{name} is unknown; a line begins with seed, after or a setting")
                })?;
                let (least, most) = (field.least.into(), field.most.into());
                *(field.of)(&mut self.config) = number(words.next(), name, least, most)? as u32;
            }
        }
        match words.next() {
            Some(word) => Err(format!("{word} is too much; the line must end before it")),
            None => Ok(()),
        }
    }
}

fn operation(words: &mut SplitWhitespace<'_>) -> Result<Operation, String> {
    let name = words.next().unwrap_or_default();
    let mut side = || {
        let word = words.next().unwrap_or_default();
        let found = SIDES.iter().find(|(name, _)| *name == word);
        found.map(|(_, side)| *side).ok_or_else(|| "it must be client or backend".to_owned())
    };
    Ok(match name {
        "send" => Operation::Send(side()?, number(words.next(), "send", 1, 100_000)? as u32),
        "urgent" => Operation::Urgent(side()?),
        "end" => Operation::End(side()?),
        "close" => Operation::Close(side()?),
        "abort" => Operation::Abort(side()?),
        "stop" => Operation::Stop(side()?),
        "go" => Operation::Go(side()?),
        "hold" => Operation::Hold(side()?),
        "release" => Operation::Release(side()?),
        "report" => Operation::Report(side()?),
        "refuse-pipes" => Operation::RefusePipes,
        "fail-splices" => {
            Operation::FailSplices(number(words.next(), "fail-splices", 1, 100_000)? as u32)
        }
        "forbid-splices" => Operation::ForbidSplices,
        "kill" => Operation::Kill,
        name => return Err(format!("{name} is no operation; send, end or kill would be one")),
    })
}

fn number(word: Option<&str>, name: &str, least: u64, most: u64) -> Result<u64, String> {
    let word = word.unwrap_or("missing");
    let number = word.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("{name} is {word}; it must be {least} to {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for seed in 0..1_000 {
            let scenario = Scenario::from_seed(seed);
            assert_eq!(scenario.to_string().parse(), Ok(scenario));
        }
    }

    #[test]
    fn bad_text_says_which_line_and_what_would_be_right() {
        for (text, cause) in [
            ("seed 1\nsplice 3", "line 2: splice is 3; it must be 0 to 2"),
            ("after 1 send nobody 3", "line 1: it must be client or backend"),
            ("after 1 jump", "line 1: jump is no operation"),
            ("after 1 kill now", "line 1: now is too much"),
            ("clients 3", "line 1: clients is unknown"),
        ] {
            let error = text.parse::<Scenario>().unwrap_err().to_string();
            assert!(error.starts_with(cause), "{error}");
        }
    }
}
