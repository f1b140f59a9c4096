//! The lanes of the page, from what the records say.

use std::fmt::{self, Write as _};

use super::{
    bands::{self, CheckBand, Ejection, FaultBand, Membership},
    lane::{Bar, Lane, Scale},
    lives::{Activity, Connection, Life, Lives, Span},
};
use crate::{
    PacketFate, RecordOf, Scenario,
    scenario::{Link, Place, Reply},
    trace::{Host, Note, Record},
};

/// One for the scenario, the clients, the balancer, and each backend.
pub(super) fn lanes(scenario: &Scenario, records: &[Record], scale: Scale, end: u64) -> Vec<Lane> {
    let lives = Lives::read(records, end);
    let faults = bands::faults(scenario, records, end);
    let members = bands::memberships(records, end);
    let ejections = bands::ejections(records, end);
    let checks = bands::checks(records, end);
    let mut lanes = vec![scenario_lane(scenario, records, scale)];
    let client_faults = faults.iter().filter(|band| band.link == Link::Clients);
    let mut clients = Lane::new("clients", "connections, as they see them");
    clients.add_behind(client_faults.clone().map(fault_bar));
    let connections = lives.clients.values().map(|client| vec![connection_bar(client, "client")]);
    clients.add_packed(scale, connections.collect());
    clients.add_row(6, stopped_packets(records, Host::Clients));
    if !lives.clients.is_empty() || client_faults.count() > 0 {
        lanes.push(clients);
    }
    let mut balancer = Lane::new("balancer", "sets, then sessions");
    balancer.add_packed(scale, replacements(records, end).into_iter().map(|b| vec![b]).collect());
    let sessions = lives
        .sessions
        .values()
        .map(|life| life.spans.iter().map(|span| session_bar(life, span)).collect::<Vec<_>>());
    balancer.add_packed(scale, sessions.collect());
    lanes.push(balancer);
    for place in (0..scenario.config.backends as u16).map(Place) {
        let own = ejections.iter().filter(|ejection| ejection.place == place);
        let mut lane = backend_lane(place, &lives, &faults, &members, scale);
        lane.add_row(6, own.map(ejection_bar));
        lane.add_row(6, checks.iter().filter(|check| check.place == place).map(check_bar));
        lane.add_row(6, stopped_packets(records, Host::Backend(place)));
        lanes.push(lane);
    }
    lanes
}

/// What the scenario does, with its rules below its steps.
fn scenario_lane(scenario: &Scenario, records: &[Record], scale: Scale) -> Lane {
    let mut lane = Lane::new("scenario", "steps, then rules");
    let mut steps = Vec::new();
    let mut acts = Vec::new();
    for record in records {
        let (bars, class, text) = match record.note {
            Note::Step(number) => {
                let step = scenario.steps.get(number as usize);
                let text = step.map_or_else(String::new, |step| step.operation.to_string());
                (&mut steps, "step", short(&text))
            }
            Note::Act(_, place) => (&mut acts, "act", place.to_string()),
            _ => continue,
        };
        let title = RecordOf(record, scenario).to_string();
        bars.push(Bar { from: record.at, to: record.at, class: class.into(), title, text });
    }
    lane.add_labels(scale, steps);
    lane.add_row(8, acts);
    lane
}

fn short(text: &str) -> String {
    const LONGEST: usize = 30;
    match text.char_indices().nth(LONGEST) {
        Some((place, _)) => format!("{}…", &text[..place]),
        None => text.into(),
    }
}

/// Each replacement, until it is applied. A replacement that is applied says so for all before it:
/// of those that came from a source, no other record does.
fn replacements(records: &[Record], end: u64) -> Vec<Bar> {
    let mut bars: Vec<Bar> = Vec::new();
    // Those that aren't applied yet: generation, and place among the bars.
    let mut open: Vec<(u64, usize)> = Vec::new();
    for record in records {
        match &record.note {
            Note::Replaced(generation, ..) => {
                let (from, to, class) = (record.at, end, "replaced".into());
                let title = record.to_string();
                open.push((*generation, bars.len()));
                bars.push(Bar { from, to, class, title, text: String::new() });
            }
            Note::Applied(applied) => {
                for (_, place) in open.extract_if(.., |(generation, _)| *generation <= *applied) {
                    bars[place].to = record.at;
                    let at = Milliseconds(record.at);
                    let _ = write!(bars[place].title, "\napplied {at} ms");
                }
            }
            _ => {}
        }
    }
    bars
}

fn backend_lane(
    place: Place,
    lives: &Lives,
    faults: &[FaultBand],
    members: &[Membership],
    scale: Scale,
) -> Lane {
    let mut lane = Lane::new(place, "set, sessions");
    let link = Link::Backend(place);
    lane.add_behind(faults.iter().filter(|band| band.link == link).map(fault_bar));
    lane.add_row(11, members.iter().filter(|member| member.place == place).map(member_bar));
    let attempts = lives.sessions.values().flat_map(|life| {
        let spans: Vec<_> = life.spans.iter().filter(|span| span.place == Some(place)).collect();
        // Two attempts at one backend are two groups: other sessions may come between.
        spans
            .chunk_by(|before, after| before.to == after.from)
            .map(|chunk| chunk.iter().map(|span| session_bar(life, span)).collect())
            .collect::<Vec<Vec<_>>>()
    });
    lane.add_packed(scale, attempts.collect());
    let own = lives.backends.iter().filter(|connection| connection.place == Some(place));
    lane.add_packed(scale, own.map(|c| vec![connection_bar(c, "backend")]).collect());
    lane
}

/// The packets from and to a host that a link held or dropped; the others are too many to show.
fn stopped_packets(records: &[Record], host: Host) -> Vec<Bar> {
    let bar = |record: &Record| {
        let class = match record.note {
            Note::Packet(from, _, to, _, _, fate) if from == host || to == host => match fate {
                PacketFate::Dropped => "dropped",
                PacketFate::Held => "stopped",
                PacketFate::Sent | PacketFate::Delivered => return None,
            },
            _ => return None,
        };
        let (from, to, title) = (record.at, record.at, record.to_string());
        Some(Bar { from, to, class: class.into(), title, text: String::new() })
    };
    records.iter().filter_map(bar).collect()
}

fn member_bar(membership: &Membership) -> Bar {
    let Membership { place, keys, from, to } = membership;
    let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
    let text = keys.join(" ");
    let times = Times(*from, *to);
    Bar {
        from: *from,
        to: *to,
        class: format!("b{} member", place.0),
        title: format!("{place} is in the set as {text}\n{times}"),
        text,
    }
}

fn ejection_bar(ejection: &Ejection) -> Bar {
    let Ejection { from, to, text, .. } = ejection;
    Bar {
        from: *from,
        to: *to,
        class: "ejected".into(),
        title: format!("{text}\n{}", Times(*from, *to)),
        text: String::new(),
    }
}

fn check_bar(check: &CheckBand) -> Bar {
    let CheckBand { place, from, to, reply } = check;
    let (class, found) = match reply {
        Some(Reply::Pass) => ("passes", "it passes"),
        Some(Reply::No) => ("fails", "it doesn't pass"),
        Some(Reply::Nothing) => ("mute", "it doesn't answer"),
        None => ("mute", "no end is seen"),
    };
    let title = format!("{place} is checked: {found}\n{}", Times(*from, *to));
    Bar { from: *from, to: *to, class: format!("check {class}"), title, text: String::new() }
}

fn fault_bar(band: &FaultBand) -> Bar {
    let FaultBand { link, fault, from, to, text } = band;
    let name = fault.name();
    Bar {
        from: *from,
        to: *to,
        class: format!("fault {name}"),
        title: format!("{link} is {name}: {text}\n{}", Times(*from, *to)),
        text: name.into(),
    }
}

fn session_bar(life: &Life, span: &Span) -> Bar {
    let activity = activity_class(span.activity);
    let serial = life.serial;
    let colour = colour(span.place);
    let place = span.place.map_or_else(String::new, |place| format!(" {place}"));
    let over = match life.reason {
        Some(reason) => format!("over: {}", reason.to_string().replace('_', " ")),
        None => "not over".into(),
    };
    Bar {
        from: span.from,
        to: span.to,
        class: format!("{colour} {activity}"),
        title: format!("s{serial} {activity}{place}\n{}\n{over}", Times(span.from, span.to)),
        text: String::new(),
    }
}

fn connection_bar(connection: &Connection, whose: &str) -> Bar {
    let Connection { number, from, to, place, over } = connection;
    let colour = colour(*place);
    let place = place.map_or_else(|| "nobody".into(), |place| place.to_string());
    let over = match over {
        Some((sent, received, sight)) => format!("sent {sent}, received {received}; {sight}"),
        None => "not over".into(),
    };
    Bar {
        from: *from,
        to: *to,
        class: format!("{colour} {whose}"),
        title: format!("c{number} with {place}\n{}\n{over}", Times(*from, *to)),
        text: String::new(),
    }
}

fn colour(place: Option<Place>) -> String {
    place.map_or_else(|| "nobody".into(), |place| format!("b{}", place.0))
}

/// Its class in the style sheet.
pub(super) fn activity_class(activity: Activity) -> &'static str {
    match activity {
        Activity::Waiting => "waiting",
        Activity::Dialling => "dialling",
        Activity::Connected => "connected",
        Activity::Draining => "draining",
        Activity::Ending => "ending",
    }
}

/// Microseconds, written as milliseconds.
pub(super) struct Milliseconds(pub(super) u64);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

struct Times(u64, u64);

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {} ms", Milliseconds(self.0), Milliseconds(self.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_drawn_until_it_or_one_after_it_is_applied() {
        let replaced = |generation| Note::Replaced(generation, Vec::new(), 0, 0, 0);
        // The first came from a source: what is applied is the same set again, from the handle.
        let records: Vec<_> = [
            (10, replaced(1)),
            (11, Note::Repeated(2)),
            (15, Note::Applied(2)),
            (20, replaced(3)),
            (21, replaced(4)),
            (28, Note::Applied(4)),
            (29, Note::Applied(3)),
            (30, replaced(5)),
        ]
        .map(|(at, note)| Record { at, note })
        .into();
        let bars = replacements(&records, 99);
        let spans: Vec<_> = bars.iter().map(|bar| (bar.from, bar.to)).collect();
        assert_eq!(spans, [(10, 15), (20, 28), (21, 28), (30, 99)]);
        let applied = bars.iter().filter(|bar| bar.title.contains("\napplied ")).count();
        assert_eq!(applied, 3);
    }
}
