//! What happened in a run, as a page to look at: one file of HTML that needs nothing else.
//!
//! Time goes from left to right. A lane each shows what the scenario does, the balancer with its
//! sessions and replacements, the clients, and every backend; the records in words follow below.
//! Where the records don't say how the clients and backends fared, their lanes are not there, or
//! hold less.

mod bands;
mod lane;
mod lanes;
mod lives;

use std::fmt::{self, Write as _};

use self::{
    bands::Fault,
    lane::{Escaped, Scale},
    lanes::{Milliseconds, activity_class, lanes},
    lives::Activity,
};
use crate::{
    Outcome, RecordOf, Scenario,
    trace::{Note, Record},
};

const STYLE: &str = include_str!("style.css");

/// At most this many records are listed: the last ones.
const RECORDS_MAX: usize = 20_000;

/// A page of HTML about a run whose trace was kept. `name` says which run it is.
pub fn page(name: &str, scenario: &Scenario, outcome: &Outcome) -> String {
    let mut page = String::new();
    // Writing to a string can't fail.
    let _ = write_page(&mut page, name, scenario, outcome);
    page
}

fn write_page(
    page: &mut String,
    name: &str,
    scenario: &Scenario,
    outcome: &Outcome,
) -> fmt::Result {
    let records = outcome.trace.records();
    let end = records.last().map_or(0, |record| record.at).max(outcome.simulated).max(1);
    let scale = Scale { length: end + end / 100 + 1 };
    writeln!(page, "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>")?;
    writeln!(page, "<meta name=viewport content=\"width=device-width\">")?;
    writeln!(page, "<title>{}</title>\n<style>\n{STYLE}", Escaped(name))?;
    for backend in 0..scenario.config.backends {
        // The golden angle keeps neighbours apart, however many there are.
        let hue = (backend * 137 + 210) % 360;
        writeln!(page, ".b{backend}{{--hue:{hue}}}")?;
    }
    writeln!(page, "</style></head><body>")?;
    write_head(page, name, outcome)?;
    write_legend(page, scenario)?;
    write_chart(page, scenario, outcome, scale, end)?;
    write_before(page, scenario, records)?;
    writeln!(page, "<h2>The scenario</h2>\n<pre>{}</pre>", Escaped(scenario))?;
    write_records(page, scenario, records)?;
    writeln!(page, "</body></html>")
}

fn write_head(page: &mut String, name: &str, outcome: &Outcome) -> fmt::Result {
    writeln!(page, "<h1>{}</h1>", Escaped(name))?;
    if outcome.violations.is_empty() {
        writeln!(page, "<p class=good>No law is broken.</p>")?;
    }
    for violation in &outcome.violations {
        let (law, at) = (violation.law, Milliseconds(violation.at));
        writeln!(page, "<div class=bad><p><b>{law}</b> is broken at {at} ms:")?;
        writeln!(
            page,
            "{}</p><p>The law: {}.</p></div>",
            Escaped(&violation.text),
            law.sentence()
        )?;
    }
    let (steps, hash, length) = (outcome.steps, outcome.trace.hash(), outcome.trace.length());
    writeln!(page, "<p class=small>{} ms of simulated time, ", Milliseconds(outcome.simulated))?;
    writeln!(page, "{steps} steps, {length} records, hash {hash:016x}</p>")
}

fn write_legend(page: &mut String, scenario: &Scenario) -> fmt::Result {
    page.push_str("<p class=legend>");
    for backend in 0..scenario.config.backends {
        write!(page, "<span><i class=\"b{backend} connected\"></i>b{backend}</span> ")?;
    }
    page.push_str("</p><p class=legend>");
    for (activity, text) in [
        (Activity::Waiting, "waiting"),
        (Activity::Dialling, "dialling"),
        (Activity::Connected, "connected"),
        (Activity::Draining, "draining"),
        (Activity::Ending, "about to end"),
    ] {
        write!(page, "<span><i class=\"b0 {}\"></i>{text}</span> ", activity_class(activity))?;
    }
    for fault in Fault::ALL {
        let name = fault.name();
        write!(page, "<span><i class=\"fault {name}\"></i>{name}</span> ")?;
    }
    page.push_str("<span><i class=\"b0 member\"></i>in the set</span>");
    page.push_str("<span><i class=ejected></i>ejected</span>");
    if scenario.config.check_settings().is_some() {
        for (class, text) in
            [("passes", "passes"), ("fails", "doesn't"), ("mute", "doesn't answer")]
        {
            write!(page, "<span><i class=\"check {class}\"></i>a check: {text}</span>")?;
        }
    }
    page.push_str("<span><i class=replaced></i>a set, until it is applied</span>");
    page.push_str("<span><i class=\"b0 backend\"></i>as the backend sees it</span>");
    page.push_str("<span><i class=\"mark dropped\"></i>a packet dropped</span>");
    page.push_str("<span><i class=\"mark stopped\"></i>a packet held</span></p>\n");
    Ok(())
}

fn write_chart(
    page: &mut String,
    scenario: &Scenario,
    outcome: &Outcome,
    scale: Scale,
    end: u64,
) -> fmt::Result {
    let records = outcome.trace.records();
    page.push_str("<div class=zoom>zoom");
    for (factor, checked) in [(1, " checked"), (3, ""), (10, ""), (40, "")] {
        write!(page, "<input type=radio name=zoom id=z{factor}{checked}>")?;
        write!(page, "<label for=z{factor}>{factor}×</label>")?;
    }
    page.push_str("<div class=scroll><div class=chart>\n");
    write_axis(page, scale, end)?;
    for lane in lanes(scenario, records, scale, end) {
        lane.write(page, scale)?;
    }
    page.push_str("<div class=over>");
    let mut violated = 0;
    for record in records {
        let left = record.at as f64 * 100.0 / scale.length as f64;
        match record.note {
            Note::Healed => write!(page, "<i class=healed style=\"left:{left:.4}%\"></i>")?,
            Note::Violated(law) => {
                // One above the other, since they often come together.
                let bottom = 2 + 18 * violated;
                violated += 1;
                write!(page, "<i class=violated style=\"left:{left:.4}%\">")?;
                write!(page, "<b style=\"bottom:{bottom}px\">{law}</b></i>")?;
            }
            _ => {}
        }
    }
    page.push_str("</div></div></div></div>\n");
    Ok(())
}

/// Marks at round times: coarse ones with their time, fine ones for those that zoom in.
fn write_axis(page: &mut String, scale: Scale, end: u64) -> fmt::Result {
    let coarse = round_step(end / 12);
    page.push_str("<div class=axis><div class=name>ms</div><div class=track>");
    for (step, class) in [(coarse, "tick"), (coarse / 10, "tick fine")] {
        let times = (0..=end / step.max(1)).map(|number| number * step);
        for at in times.filter(|at| class == "tick" || at % coarse != 0) {
            let left = at as f64 * 100.0 / scale.length as f64;
            write!(page, "<i class=\"{class}\" style=\"left:{left:.4}%\">")?;
            write!(page, "{}</i>", at as f64 / 1000.0)?;
        }
    }
    page.push_str("</div></div>\n");
    Ok(())
}

/// The first of 10, 20, 50, 100… that isn't below this.
fn round_step(least: u64) -> u64 {
    let mut power = 10;
    loop {
        for step in [power, power * 2, power * 5] {
            if step >= least {
                return step;
            }
        }
        power *= 10;
    }
}

/// The records just before the first broken law.
fn write_before(page: &mut String, scenario: &Scenario, records: &[Record]) -> fmt::Result {
    let is_broken = |record: &Record| matches!(record.note, Note::Violated(_));
    let Some(place) = records.iter().position(is_broken) else { return Ok(()) };
    writeln!(page, "<h2>What came before</h2>")?;
    write_list(page, scenario, &records[place.saturating_sub(15)..=place])
}

fn write_records(page: &mut String, scenario: &Scenario, records: &[Record]) -> fmt::Result {
    let listed = &records[records.len().saturating_sub(RECORDS_MAX)..];
    let which = if listed.len() < records.len() { "The last" } else { "All" };
    writeln!(page, "<details><summary>{which} {} records</summary>", listed.len())?;
    write_list(page, scenario, listed)?;
    writeln!(page, "</details>")
}

fn write_list(page: &mut String, scenario: &Scenario, records: &[Record]) -> fmt::Result {
    page.push_str("<pre>");
    for record in records {
        let text = RecordOf(record, scenario);
        match record.note {
            Note::Violated(_) => writeln!(page, "<b class=bad>{}</b>", Escaped(text))?,
            Note::Step(_) | Note::Act(..) => writeln!(page, "<b>{}</b>", Escaped(text))?,
            _ => writeln!(page, "{}", Escaped(text))?,
        }
    }
    page.push_str("</pre>\n");
    Ok(())
}
