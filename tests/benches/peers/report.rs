use std::{collections::BTreeMap, fmt, time::SystemTime};

use serde_json::{Value, json};

use crate::{
    machine::{cores, date, kernel, round},
    proxy::Proxy,
    scenario::Figure,
};

/// What was measured, of what, where and when.
pub struct Report {
    began: SystemTime,
    rounds: usize,
    seconds: f64,
    pub versions: BTreeMap<&'static str, String>,
    pub tables: Vec<Table>,
    left_out: Vec<(String, String)>,
    /// Rows that are left out because something went wrong.
    pub failures: usize,
}

/// One scenario.
pub struct Table {
    pub name: &'static str,
    pub title: String,
    pub rows: Vec<Row>,
}

/// One proxy in one scenario.
pub struct Row {
    pub proxy: Proxy,
    /// By name, in the order in which they came: the values of all rounds.
    pub figures: Vec<(String, Vec<f64>)>,
    pub has_failed: bool,
}

/// The families in the order in which they are shown.
pub const FAMILIES: [&str; 6] =
    ["tinylb", "haproxy", "nginx", "envoy", "copy_bidirectional", "epoll loop"];

impl Report {
    pub fn new(rounds: usize, seconds: f64) -> Self {
        let (versions, tables, left_out) = (BTreeMap::new(), Vec::new(), Vec::new());
        let began = SystemTime::now();
        Self { began, rounds, seconds, versions, tables, left_out, failures: 0 }
    }

    pub fn leave_out(&mut self, what: &str, why: &str) {
        eprintln!("\r{what} is left out: {why}\x1b[K");
        self.left_out.push((what.to_string(), why.to_string()));
    }

    /// When, where and how it was measured, in a sentence.
    pub fn circumstances(&self) -> String {
        let versions = self.versions.iter().filter(|(_, version)| !version.is_empty());
        let versions: Vec<_> =
            versions.map(|(name, version)| format!("{name} {version}")).collect();
        format!(
            "{}, Linux {}, {} cores, {} rounds of {} s: {}",
            date(self.began),
            kernel(),
            cores(),
            self.rounds,
            self.seconds,
            versions.join(", ")
        )
    }

    pub fn json(&self) -> String {
        let tables = self.tables.iter().map(|table| {
            let rows = table.rows.iter().map(|row| {
                let figures: BTreeMap<_, _> = row.figures.iter().cloned().collect();
                json!({ "proxy": row.proxy.name(), "figures": figures })
            });
            let rows = rows.collect::<Vec<Value>>();
            json!({ "scenario": table.name, "title": table.title, "rows": rows })
        });
        let report = json!({
            "date": date(self.began),
            "kernel": kernel(),
            "cores": cores(),
            "rounds": self.rounds,
            "seconds": self.seconds,
            "versions": self.versions,
            "scenarios": tables.collect::<Vec<_>>(),
            "left_out": self.left_out,
        });
        format!("{report:#}\n")
    }
}

/// The best of each family in each scenario, and tinylb's ratio to the best haproxy.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.circumstances())?;
        writeln!(f, "| | | {} | tinylb : haproxy |", FAMILIES.join(" | "))?;
        writeln!(f, "| --- | --- |{} --- |", " --- |".repeat(FAMILIES.len()))?;
        for table in &self.tables {
            let Some(unit) = table.rows.iter().find_map(Row::first) else { continue };
            write!(f, "| {} | {} |", table.title, unit.0)?;
            for family in FAMILIES {
                let best = table.best(family).map_or_else(String::new, |row| round(row.median()));
                write!(f, " {best} |")?;
            }
            let ratio = table.best("tinylb").and_then(|row| table.ratio(row));
            let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            writeln!(f, " {ratio} |")?;
        }
        for (what, why) in &self.left_out {
            writeln!(f, "\n{what} was left out: {why}")?;
        }
        Ok(())
    }
}

impl Table {
    /// The row of a family that has the least median of the figure to compare by.
    pub fn best(&self, family: &str) -> Option<&Row> {
        let rows = self.rows.iter().filter(|row| row.proxy.family() == family);
        let measured = rows.filter(|row| row.first().is_some());
        measured.min_by(|a, b| a.median().total_cmp(&b.median()))
    }

    /// The median, over the rounds, of what a row took as a ratio to the best haproxy.
    pub fn ratio(&self, row: &Row) -> Option<f64> {
        let ((_, values), (_, best)) = (row.first()?, self.best("haproxy")?.first()?);
        let ratios: Vec<f64> = values.iter().zip(best).map(|(is, best)| is / best).collect();
        Some(median(&ratios))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<&String> = Vec::new();
        for (name, _) in self.rows.iter().flat_map(|row| &row.figures) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let heads: Vec<_> = names.iter().map(|name| name.as_str()).collect();
        writeln!(f, "{}: {}\n", self.name, self.title)?;
        writeln!(f, "| | : haproxy | {} |", heads.join(" | "))?;
        writeln!(f, "| --- | --- |{}", " --- |".repeat(heads.len()))?;
        for row in &self.rows {
            let ratio = self.ratio(row).map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            write!(f, "| {} | {ratio} |", row.proxy.name())?;
            for name in &names {
                let cell = row.figure(name).map_or_else(String::new, |values| {
                    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
                    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    format!("{} ({}–{})", round(median(values)), round(least), round(most))
                });
                write!(f, " {cell} |")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl Row {
    pub fn new(proxy: Proxy) -> Self {
        Self { proxy, figures: Vec::new(), has_failed: false }
    }

    pub fn add(&mut self, figures: Vec<Figure>) {
        for (name, value) in figures {
            let place = self.figures.iter().position(|(known, _)| *known == name);
            let place = place.unwrap_or_else(|| {
                self.figures.push((name, Vec::new()));
                self.figures.len() - 1
            });
            self.figures[place].1.push(value);
        }
    }

    fn figure(&self, name: &str) -> Option<&[f64]> {
        self.figures.iter().find(|(known, _)| known == name).map(|(_, values)| values.as_slice())
    }

    /// Of the figure to compare by.
    pub fn median(&self) -> f64 {
        self.first().map_or(f64::NAN, |(_, values)| median(values))
    }

    /// The figure to compare by. Without a proxy there is none.
    pub fn first(&self) -> Option<&(String, Vec<f64>)> {
        self.figures.first().filter(|_| self.proxy != Proxy::Direct)
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}
