//! Records in words, a line each.

use std::fmt;

use tinylb_core::Fault;

use super::record::{By, Failure, Host, Note, Record, Sight};
use crate::{
    PacketFate, PacketKind, Scenario,
    scenario::{Backends, Place, Reply},
};

/// A record with what its step or rule says, which the record itself has only the number of.
pub struct RecordOf<'a>(pub &'a Record, pub &'a Scenario);

impl fmt::Display for RecordOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(record, scenario) = self;
        record.fmt(f)?;
        match record.note {
            Note::Step(number) => match scenario.steps.get(number as usize) {
                Some(step) => write!(f, ": {}", step.operation),
                None => Ok(()),
            },
            Note::Act(number, _) => match scenario.rules.get(number as usize) {
                Some(rule) => write!(f, ": {rule}"),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6}.{:03} {}", self.at / 1000, self.at % 1000, self.note)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(number) => write!(f, "step {number}"),
            Self::Act(rule, place) => write!(f, "rule {rule} acts on {place}"),
            Self::Healed => f.write_str("faults stop, and the set is fixed"),
            Self::Accepted(session) => write!(f, "s{session} accepted"),
            Self::Admitted(session, key, place) => write!(f, "s{session} is given {key}={place}"),
            Self::DialStarted(session, place) => write!(f, "s{session} dials {place}"),
            Self::DialFailed(session, failure) => write!(f, "s{session}'s dial {failure}"),
            Self::Connected(session, place) => write!(f, "s{session} is connected to {place}"),
            Self::Ejected(place, fault) => write!(f, "{place} is ejected: {}", Spaced(*fault)),
            Self::Returned(place, after) => {
                write!(f, "{place} is in rotation again, after {} ms", after / 1000)
            }
            Self::ProbeStarted(place) => write!(f, "{place} is probed"),
            Self::Probed(place, None) => write!(f, "{place} accepts the probe"),
            Self::Probed(place, Some(fault)) => {
                write!(f, "the probe of {place} fails: {}", Spaced(*fault))
            }
            Self::ProbeGivenUp(place) => write!(f, "the probe of {place} is given up"),
            Self::HalfClosed(session, by) => {
                write!(f, "s{session}: the {by} has ended its stream")
            }
            Self::Ended(session, reason) => {
                write!(f, "s{session} is over: {}", reason.to_string().replace('_', " "))
            }
            Self::Moved(session, up, down) => {
                write!(f, "s{session} moved {up} bytes to the backend, {down} to the client")
            }
            Self::Replaced(generation, set, cut, revoked, draining) => {
                write!(f, "set {generation} is{}; ", Listed(set))?;
                write!(f, "{cut} sessions cut, {revoked} dials revoked, {draining} draining")
            }
            Self::Repeated(generation) => write!(f, "set {generation} repeats the one before"),
            Self::Applied(generation) => write!(f, "set {generation} is applied"),
            Self::DrainExpired(generation) => {
                write!(f, "the time to drain since set {generation} is over")
            }
            Self::SourceLost => f.write_str("the source of sets is lost"),
            Self::SourceBack => f.write_str("the source of sets is back"),
            Self::SourceStale => f.write_str("the source of sets is lost for too long"),
            Self::SetHeld(removed, targets) => {
                write!(f, "a set is held: it removes {removed} of {targets} targets")
            }
            Self::LeftOut(entries) => write!(f, "{entries} entries are left out"),
            Self::AcceptFailed => f.write_str("an accept fails"),
            Self::Closing => f.write_str("the shutdown begins"),
            Self::Closed => f.write_str("what is left is aborted"),
            Self::ShutDown => f.write_str("the shutdown is complete"),
            Self::ClientDials(number) => write!(f, "c{number} connects"),
            Self::ClientConnected(number) => write!(f, "c{number} is connected"),
            Self::Greeted(number, place, boot) => {
                write!(f, "c{number} is greeted by {place}, boot {boot}")
            }
            Self::ClientOver(number, sent, received, sight) => {
                write!(f, "c{number} is over: {sight} (sent {sent} bytes, received {received})")
            }
            Self::BackendTook(place, number) => write!(f, "{place} has taken c{number}"),
            Self::BackendOver(place, number, sent, received, sight) => {
                write!(f, "{place} is done with c{number}: {sight} ")?;
                write!(f, "(sent {sent} bytes, received {received})")
            }
            Self::Crashed(place) => write!(f, "{place}'s process dies"),
            Self::Packet(from, from_port, to, to_port, kind, fate) => {
                write!(f, "{kind} {from}:{from_port} to {to}:{to_port} {fate}")
            }
            Self::CheckStarted(place) => write!(f, "{place} is checked"),
            Self::Checked(place, Reply::Pass) => write!(f, "{place} passes its check"),
            Self::Checked(place, Reply::No) => write!(f, "{place} doesn't pass its check"),
            Self::Checked(place, Reply::Nothing) => write!(f, "{place} doesn't answer its check"),
            Self::CheckGivenUp(place) => write!(f, "the check of {place} is given up"),
            Self::Relay(happening) => happening.fmt(f),
            Self::Violated(law) => write!(f, "THE LAW {law} IS BROKEN"),
        }
    }
}

struct Listed<'a>(&'a Backends);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(" empty");
        }
        self.0.iter().try_for_each(|(key, place)| write!(f, " {key}={place}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Failed(fault) => return write!(f, "failed: {}", Spaced(*fault)),
            Self::TimedOut => "took too long",
            Self::GivenUp => "went unanswered, and is given up",
            Self::Revoked => "was revoked",
        })
    }
}

/// A fault in words.
struct Spaced(Fault);

impl fmt::Display for Spaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.as_str().replace('_', " "))
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Backend => "backend",
        })
    }
}

impl fmt::Display for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::End => "it ended",
            Self::Cut => "it was cut",
            Self::GivenUp => "it was given up",
            Self::Refused => "it was refused",
        })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Balancer => f.write_str("balancer"),
            Self::Clients => f.write_str("clients"),
            Self::Backend(Place(number)) => write!(f, "b{number}"),
        }
    }
}

impl fmt::Display for PacketKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syn => "SYN",
            Self::SynAck => "SYN-ACK",
            Self::Data => "DATA",
            Self::End => "END",
            Self::Fin => "FIN",
            Self::Rst => "RST",
        })
    }
}

impl fmt::Display for PacketFate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sent => "sent",
            Self::Held => "held",
            Self::Dropped => "dropped",
            Self::Delivered => "delivered",
        })
    }
}
