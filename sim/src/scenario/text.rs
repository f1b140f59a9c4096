//! Scenarios as text, to be read, edited and kept.

use std::{fmt, str::FromStr};

use super::{
    AcceptError, Act, Backends, CONFIG_FIELDS, Config, DialError, Key, Leaving, Link, Manner,
    Operation, Place, Plan, Reply, Rule, Scenario, ScenarioError, Setting, Step, Trigger, Words,
};

const TRIGGERS: &[(&str, Trigger)] = &[
    ("dial-started", Trigger::DialStarted),
    ("dial-failed", Trigger::DialFailed),
    ("connected", Trigger::Connected),
    ("half-closed", Trigger::HalfClosed),
    ("ended", Trigger::Ended),
    ("replaced", Trigger::Replaced),
    ("drain-began", Trigger::DrainBegan),
    ("ejected", Trigger::Ejected),
    ("returned", Trigger::Returned),
    ("probe-started", Trigger::ProbeStarted),
    ("check-started", Trigger::CheckStarted),
];

const ACTS: &[(&str, Act)] = &[
    ("remove", Act::Remove),
    ("remove-and-back", Act::RemoveAndBack),
    ("retarget", Act::Retarget),
    ("share", Act::Share),
    ("rename", Act::Rename),
    ("add", Act::Add),
    ("empty", Act::Empty),
    ("again", Act::Again),
    ("restore", Act::Restore),
    ("crash", Act::Crash),
    ("bounce", Act::Bounce),
    ("partition", Act::Partition),
    ("hold", Act::Hold),
    ("release", Act::Release),
    ("shutdown", Act::Shutdown),
];

const MANNERS: &[(&str, Manner)] = &[
    ("ask", Manner::Ask),
    ("both", Manner::Both),
    ("tell", Manner::Tell),
    ("client-aborts", Manner::ClientAborts),
    ("backend-aborts", Manner::BackendAborts),
    ("stall", Manner::Stall),
    ("idle", Manner::Idle),
];

const LEAVINGS: &[(&str, Leaving)] = &[("close", Leaving::Close), ("abort", Leaving::Abort)];

const ACCEPT_ERRORS: &[(&str, AcceptError)] =
    &[("aborted", AcceptError::Aborted), ("no-descriptors", AcceptError::NoDescriptors)];

const DIAL_ERRORS: &[(&str, DialError)] = &[
    ("no-descriptors", DialError::NoDescriptors),
    ("refused", DialError::Refused),
    ("reset", DialError::Reset),
    ("unreachable", DialError::Unreachable),
];

const REPLIES: &[(&str, Reply)] =
    &[("pass", Reply::Pass), ("no", Reply::No), ("nothing", Reply::Nothing)];

const SWITCH: &[(&str, bool)] = &[("on", true), ("off", false)];

fn name_of<T: PartialEq>(names: &[(&'static str, T)], value: &T) -> &'static str {
    names.iter().find(|(_, named)| named == value).map_or("?", |(name, _)| name)
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}", self.seed)?;
        let (mut config, mut default) = (self.config.clone(), Config::default());
        for field in CONFIG_FIELDS {
            let value = *(field.of)(&mut config);
            if value != *(field.of)(&mut default) {
                writeln!(f, "{} {value}", field.name)?;
            }
        }
        for rule in &self.rules {
            writeln!(f, "{rule}")?;
        }
        for step in &self.steps {
            writeln!(f, "at {} {}", step.at, step.operation)?;
        }
        Ok(())
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { on, chance, act, after, times } = self;
        let (on, act) = (name_of(TRIGGERS, on), name_of(ACTS, act));
        write!(f, "on {on} chance {chance} {act} after {after} times {times}")
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backend(place) => place.fmt(f),
            Self::Clients => f.write_str("clients"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { up, down, pace, manner } = self;
        write!(f, "{} up {up} down {down} pace {pace}", name_of(MANNERS, manner))
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = |f: &mut fmt::Formatter<'_>, verb: &str, backends: &Backends| {
            f.write_str(verb)?;
            backends.iter().try_for_each(|(key, place)| write!(f, " {key}={place}"))
        };
        match self {
            Self::Replace(backends) => set(f, "replace", backends),
            Self::Flap(backends) => set(f, "flap", backends),
            Self::Again => f.write_str("again"),
            Self::LoseSource => f.write_str("lose-source"),
            Self::Spoil => f.write_str("spoil"),
            Self::Connect(count, plan) => write!(f, "connect {count} {plan}"),
            Self::Leave(how) => write!(f, "leave {}", name_of(LEAVINGS, how)),
            Self::Partition(link) => write!(f, "partition {link}"),
            Self::CutTo(link) => write!(f, "cut-to {link}"),
            Self::CutFrom(link) => write!(f, "cut-from {link}"),
            Self::Hold(link) => write!(f, "hold {link}"),
            Self::Release(link) => write!(f, "release {link}"),
            Self::Latency(link, time) => write!(f, "latency {link} {time}"),
            Self::Crash(place) => write!(f, "crash {place}"),
            Self::PowerLoss(place) => write!(f, "power-loss {place}"),
            Self::Bounce(place) => write!(f, "bounce {place}"),
            Self::FailAccept(count, error) => {
                write!(f, "fail-accept {count} {}", name_of(ACCEPT_ERRORS, error))
            }
            Self::PanicDial(place) => write!(f, "panic-dial {place}"),
            Self::FailDial(place, count, error) => {
                write!(f, "fail-dial {place} {count} {}", name_of(DIAL_ERRORS, error))
            }
            Self::Check(place, reply, after) => {
                write!(f, "check {place} {} after {after}", name_of(REPLIES, reply))
            }
            Self::Ejection(is_on) => write!(f, "ejection {}", name_of(SWITCH, is_on)),
            Self::Set(setting, value) => write!(f, "set {} {value}", setting.name()),
            Self::Drain(time) => write!(f, "drain {time}"),
            Self::ResetCycle => f.write_str("reset-cycle"),
            Self::Shutdown(grace) => write!(f, "shutdown {grace}"),
        }
    }
}

impl FromStr for Scenario {
    type Err = ScenarioError;

    /// Reads a scenario: a line each, in any order but for the steps, which ascend in time. `#`
    /// begins a comment. What isn't given has its default.
    fn from_str(text: &str) -> Result<Self, ScenarioError> {
        let mut scenario = Self::default();
        let is_step = |line: &&str| line.trim_start().starts_with("at ");
        let lines = || (1..).zip(text.lines());
        // The number of backends may come after the steps that name some.
        let others = lines().filter(|(_, line)| !is_step(line));
        for (number, line) in others.chain(lines().filter(|(_, line)| is_step(line))) {
            scenario
                .read_line(Words::of(line))
                .map_err(|cause| ScenarioError { line: number, cause })?;
        }
        let (least, most) = (scenario.config.latency_min, scenario.config.latency_max);
        if least > most {
            let is_it = |line: &str| line.trim_start().starts_with("latency-m");
            let line = text.lines().position(is_it).map_or(1, |number| number + 1);
            let cause = format!("latency-max is {most}; it must be at least latency-min, {least}");
            return Err(ScenarioError { line, cause });
        }
        Ok(scenario)
    }
}

impl Scenario {
    fn read_line(&mut self, mut words: Words<'_>) -> Result<(), String> {
        match words.first() {
            None => return Ok(()),
            Some("seed") => self.seed = words.number("a seed", 0, u64::MAX)?,
            Some("on") => self.rules.push(words.rule()?),
            Some("at") => {
                let at = words.small("a time in milliseconds", 0, 600_000)?;
                if self.steps.last().is_some_and(|before| before.at > at) {
                    return Err(format!("the time {at} is before the last step's: sort the steps"));
                }
                let operation = words.operation(&self.config)?;
                self.steps.push(Step { at, operation });
            }
            Some(name) => {
                let field = CONFIG_FIELDS.iter().find(|field| field.name == name);
                let field = field.ok_or_else(|| {
                    let names: Vec<_> = CONFIG_FIELDS.iter().map(|field| field.name).collect();
                    format!("{name} is unknown; it must be seed, on, at, {}", names.join(", "))
                })?;
                *(field.of)(&mut self.config) = words.small(name, field.least, field.most)?;
            }
        }
        words.end()
    }
}

impl Words<'_> {
    fn rule(&mut self) -> Result<Rule, String> {
        Ok(Rule {
            on: self.one_of("what the rule answers to", TRIGGERS)?,
            chance: self.named("chance", 100)?,
            act: self.one_of("what the rule does", ACTS)?,
            after: self.named("after", 60_000)?,
            times: self.named("times", 1_000_000)?,
        })
    }

    fn place(&mut self, config: &Config) -> Result<Place, String> {
        place(self.next("a backend such as b0")?, config)
    }

    fn link(&mut self, config: &Config) -> Result<Link, String> {
        match self.next("a link: a backend such as b0, or clients")? {
            "clients" => Ok(Link::Clients),
            word => Ok(Link::Backend(place(word, config)?)),
        }
    }

    fn set(&mut self, config: &Config) -> Result<Backends, String> {
        let mut backends = Vec::new();
        for word in self.rest() {
            let parsed = word.split_once('=').and_then(|(key, target)| {
                let key: u8 = key.strip_prefix('k')?.parse().ok()?;
                Some((Key(key.into()), target))
            });
            let (key, target) =
                parsed.ok_or_else(|| format!("{word} is no backend; it must look like k0=b0"))?;
            backends.push((key, place(target, config)?));
        }
        backends.sort();
        if backends.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err("a key is there twice: a key names one backend".into());
        }
        Ok(backends)
    }

    fn operation(&mut self, config: &Config) -> Result<Operation, String> {
        let most = 600_000;
        Ok(match self.next("an operation")? {
            "replace" => Operation::Replace(self.set(config)?),
            "flap" => Operation::Flap(self.set(config)?),
            "again" => Operation::Again,
            "lose-source" => Operation::LoseSource,
            "spoil" => Operation::Spoil,
            "connect" => {
                let count = self.small("how many clients connect", 1, 1000)?;
                let manner = self.one_of("the manner", MANNERS)?;
                let (up, down) = (self.named("up", 1 << 20)?, self.named("down", 1 << 20)?);
                let pace = self.named("pace", 1000)?;
                Operation::Connect(count, Plan { up, down, pace, manner })
            }
            "leave" => Operation::Leave(self.one_of("how clients leave", LEAVINGS)?),
            "partition" => Operation::Partition(self.link(config)?),
            "cut-to" => Operation::CutTo(self.link(config)?),
            "cut-from" => Operation::CutFrom(self.link(config)?),
            "hold" => Operation::Hold(self.link(config)?),
            "release" => Operation::Release(self.link(config)?),
            "latency" => {
                Operation::Latency(self.link(config)?, self.small("a latency", 0, 10_000)?)
            }
            "crash" => Operation::Crash(self.place(config)?),
            "power-loss" => Operation::PowerLoss(self.place(config)?),
            "bounce" => Operation::Bounce(self.place(config)?),
            "fail-accept" => {
                let count = self.small("how many accepts fail", 1, 1000)?;
                Operation::FailAccept(count, self.one_of("the error", ACCEPT_ERRORS)?)
            }
            "panic-dial" => Operation::PanicDial(self.place(config)?),
            "fail-dial" => {
                let place = self.place(config)?;
                let count = self.small("how many dials fail", 1, 1000)?;
                Operation::FailDial(place, count, self.one_of("the error", DIAL_ERRORS)?)
            }
            "check" => {
                let place = self.place(config)?;
                let reply = self.one_of("what a check finds", REPLIES)?;
                Operation::Check(place, reply, self.named("after", 60_000)?)
            }
            "ejection" => Operation::Ejection(self.one_of("ejection", SWITCH)?),
            "set" => {
                let names = Setting::ALL.map(|setting| (setting.name(), setting));
                let setting = self.one_of("the setting", &names)?;
                let field = setting.field();
                Operation::Set(setting, self.small(field.name, field.least, field.most)?)
            }
            "drain" => Operation::Drain(self.small("the time to drain", 0, most)?),
            "reset-cycle" => Operation::ResetCycle,
            "shutdown" => Operation::Shutdown(self.small("the grace", 0, most)?),
            word => {
                return Err(format!(
                    "{word} is no operation; it must be replace, flap, again, lose-source, \
                     spoil, connect, leave, partition, cut-to, cut-from, hold, release, latency, crash, \
                     power-loss, bounce, fail-accept, panic-dial, fail-dial, check, ejection, \
                     set, drain, reset-cycle or shutdown"
                ));
            }
        })
    }
}

fn place(word: &str, config: &Config) -> Result<Place, String> {
    let place: Option<u16> = word.strip_prefix('b').and_then(|number| number.parse().ok());
    place.filter(|place| u32::from(*place) < config.backends).map(Place).ok_or_else(|| {
        format!("{word} is no backend; it must be b0 to b{}", config.backends.saturating_sub(1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = "\
seed 42
backends 3
clients 1
latency-max 20
idle 9
keep-absent 1500
on dial-started chance 30 remove after 0 times 5
on replaced chance 1 release after 20 times 1000
on probe-started chance 50 remove after 3 times 2
on check-started chance 20 remove-and-back after 0 times 3
at 0 replace k0=b0 k1=b1 k7=b0
at 0 replace
at 5 flap k1=b2
at 5 again
at 6 lose-source
at 6 spoil
at 7 connect 10 backend-aborts up 1 down 20 pace 3
at 8 leave abort
at 9 partition clients
at 10 cut-to b1
at 11 cut-from b1
at 12 hold b2
at 13 release b2
at 14 latency clients 50
at 15 crash b0
at 16 power-loss b1
at 17 bounce b0
at 18 fail-accept 2 no-descriptors
at 19 panic-dial b0
at 19 fail-dial b1 3 unreachable
at 19 check b1 no after 30
at 19 ejection off
at 19 set connections 4
at 20 drain 300
at 21 reset-cycle
at 30 shutdown 100
";

    #[test]
    fn what_is_written_is_read_again() {
        let scenario: Scenario = ALL.parse().unwrap();
        assert_eq!(scenario.to_string(), ALL);
        assert_eq!(scenario.config.manners[6], 9);
        assert_eq!(scenario.steps.len(), 26);
    }

    #[test]
    fn comments_and_empty_lines_are_skipped() {
        let scenario: Scenario = "# A scenario.\n\nseed 7 # Any.\n".parse().unwrap();
        assert_eq!(scenario, Scenario { seed: 7, ..Scenario::default() });
    }

    #[test]
    fn steps_name_the_backends_that_there_are_wherever_their_number_is_given() {
        let cause = |text: &str| text.parse::<Scenario>().unwrap_err().to_string();
        let beyond = "line 1: b4 is no backend; it must be b0 to b2";
        assert_eq!(cause("at 5 crash b4\nbackends 3"), beyond);
        assert_eq!(cause("at 5 replace k0=b0 k1=b4\nbackends 3"), beyond);
        assert_eq!(cause("at 5 hold b4\nbackends 3"), beyond);
        let scenario: Scenario = "at 5 crash b7\nbackends 8".parse().unwrap();
        assert_eq!((scenario.config.backends, scenario.steps.len()), (8, 1));
    }

    #[test]
    fn a_bad_line_is_named_with_its_cause_and_a_remedy() {
        let cause = |text: &str| text.parse::<Scenario>().unwrap_err().to_string();
        assert!(cause("seed 1\nbananas 3").starts_with("line 2: bananas is unknown; it must be"));
        assert_eq!(cause("backends 0"), "line 1: backends is 0; it must be 1 to 32");
        assert_eq!(cause("at 5 crash b5"), "line 1: b5 is no backend; it must be b0 to b4");
        assert_eq!(cause("at 5 replace k1"), "line 1: k1 is no backend; it must look like k0=b0");
        assert_eq!(
            cause("latency-max 3\nlatency-min 4"),
            "line 1: latency-max is 3; it must be at least latency-min, 4"
        );
        assert_eq!(cause("at 5"), "line 1: an operation is missing at the end");
        assert_eq!(cause("at 5 again now"), "line 1: now is too much at the end");
        assert!(cause("at 5 again\nat 4 again").contains("sort the steps"));
        assert!(cause("at 5 replace k1=b0 k1=b1").contains("a key is there twice"));
        assert!(cause("at 5 explode").contains("explode is no operation; it must be replace"));
        let waiting = "line 1: waiting is 1001; it must be 0 to 1000";
        assert_eq!(cause("at 5 set waiting 1001"), waiting);
        assert!(cause("at 5 set backends 3").contains("the setting is backends; it must be"));
        assert!(cause("on fire chance 3").contains("it must be dial-started"));
    }
}
