//! Scenarios as text, to be read, edited and kept.

use std::{fmt, str::FromStr};

use tinylb_core::Side;

use super::{CONFIG_FIELDS, Config, Operation, Scenario, Step};
use crate::scenario::{ScenarioError, Words};

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
            let read = scenario.read_line(Words::of(line));
            read.map_err(|cause| ScenarioError { line: number, cause })?;
        }
        Ok(scenario)
    }
}

impl Scenario {
    fn read_line(&mut self, mut words: Words<'_>) -> Result<(), String> {
        match words.first() {
            None => return Ok(()),
            Some("level") => words.one_of("the level", &[("relay", ())])?,
            Some("seed") => self.seed = words.number("a seed", 0, u64::MAX)?,
            Some("after") => {
                let after = words.small("how much happens before", 0, 1_000_000)?;
                self.steps.push(Step { after, operation: operation(&mut words)? });
            }
            Some(name) => {
                let field = CONFIG_FIELDS.iter().find(|field| field.name == name);
                let field = field.ok_or_else(|| {
                    let names: Vec<_> = CONFIG_FIELDS.iter().map(|field| field.name).collect();
                    format!(
                        "{name} is unknown; it must be level, seed, after, {}",
                        names.join(", ")
                    )
                })?;
                *(field.of)(&mut self.config) = words.small(name, field.least, field.most)?;
            }
        }
        words.end()
    }
}

fn operation(words: &mut Words<'_>) -> Result<Operation, String> {
    let name = words.next("an operation")?;
    let mut side = || words.one_of("the side", SIDES);
    Ok(match name {
        "send" => Operation::Send(side()?, words.small("how many bytes", 1, 100_000)?),
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
        "fail-splices" => Operation::FailSplices(words.small("how many splices", 1, 100_000)?),
        "forbid-splices" => Operation::ForbidSplices,
        "kill" => Operation::Kill,
        word => {
            return Err(format!(
                "{word} is no operation; it must be send, urgent, end, close, abort, stop, go, \
                 hold, release, report, refuse-pipes, fail-splices, forbid-splices or kill"
            ));
        }
    })
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
            ("after 1 send nobody 3", "line 1: the side is nobody; it must be client, backend"),
            ("after 1 jump", "line 1: jump is no operation"),
            ("after 1 kill now", "line 1: now is too much"),
            ("clients 3", "line 1: clients is unknown"),
        ] {
            let error = text.parse::<Scenario>().unwrap_err().to_string();
            assert!(error.starts_with(cause), "{error}");
        }
    }
}
