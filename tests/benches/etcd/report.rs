use std::{
    fmt,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use crate::{
    machine::{cores, date, kernel, round},
    usage::Usage,
};

/// What was measured, of what, where and when.
pub struct Report {
    began: SystemTime,
    version: String,
    processes: String,
    tables: Vec<Table>,
}

/// One thing that was measured, at several sizes.
pub struct Table {
    name: &'static str,
    title: &'static str,
    /// What there are so many of.
    of: &'static str,
    rows: Vec<Row>,
}

/// One size: a column when it is printed.
pub struct Row {
    size: usize,
    figures: Vec<Figure>,
    times: Vec<(&'static str, Vec<f64>)>,
}

struct Figure {
    name: String,
    unit: &'static str,
    /// Not a number if it would mean nothing.
    value: f64,
}

impl Report {
    pub fn new(version: String, processes: String) -> Self {
        Self { began: SystemTime::now(), version, processes, tables: Vec::new() }
    }

    pub fn add(&mut self, table: Table) {
        self.tables.push(table);
    }

    /// All of it, with each single time.
    pub fn json(&self) -> String {
        let report = json!({
            "date": date(self.began),
            "kernel": kernel(),
            "cores": cores(),
            "etcd": self.version,
            "processes": self.processes,
            "tables": self.tables.iter().map(Table::json).collect::<Vec<_>>(),
        });
        format!("{report:#}\n")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { began, version, processes, .. } = self;
        let (date, kernel, cores) = (date(*began), kernel(), cores());
        writeln!(f, "etcd {version}, {processes}; {date}, Linux {kernel}, {cores} cores")?;
        writeln!(f, "Memory is what processes have of their own: anonymous and resident.")?;
        self.tables.iter().try_for_each(|table| write!(f, "\n{table}"))
    }
}

impl Table {
    pub fn new(name: &'static str, title: &'static str, of: &'static str) -> Self {
        Self { name, title, of, rows: Vec::new() }
    }

    pub fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let figure = |figure: &Figure| {
                json!({ "name": figure.name, "unit": figure.unit, "value": figure.value })
            };
            let times = row.times.iter().map(|(name, ms)| json!({ "name": name, "ms": ms }));
            json!({
                self.of: row.size,
                "figures": row.figures.iter().map(figure).collect::<Vec<_>>(),
                "times": times.collect::<Vec<_>>(),
            })
        });
        json!({ "name": self.name, "title": self.title, "rows": rows.collect::<Vec<_>>() })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.rows.first() else { return Ok(()) };
        writeln!(f, "{}: {}\n", self.name, self.title)?;
        let sizes: Vec<_> = self.rows.iter().map(|row| row.size.to_string()).collect();
        writeln!(f, "| {} | {} |", self.of, sizes.join(" | "))?;
        writeln!(f, "| --- |{}", " --- |".repeat(sizes.len()))?;
        for (place, Figure { name, unit, .. }) in first.figures.iter().enumerate() {
            let comma = if unit.is_empty() { "" } else { ", " };
            write!(f, "| {name}{comma}{unit} |")?;
            for row in &self.rows {
                match row.figures[place].value {
                    value if value.is_nan() => write!(f, " |")?,
                    value => write!(f, " {} |", round(value))?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl Row {
    pub fn new(size: usize) -> Self {
        Self { size, figures: Vec::new(), times: Vec::new() }
    }

    pub fn add(&mut self, name: impl Into<String>, unit: &'static str, value: f64) {
        self.figures.push(Figure { name: name.into(), unit, value });
    }

    /// Median, 99th percentile and the longest of some times, in milliseconds.
    pub fn add_times(&mut self, name: &'static str, mut times: Vec<f64>) {
        times.sort_by(f64::total_cmp);
        let at = |percent: usize| times[(times.len() * percent).div_ceil(100).max(1) - 1];
        for (name, value) in
            [(format!("{name}, p50"), at(50)), ("… p99".into(), at(99)), ("… max".into(), at(100))]
        {
            self.add(name, "ms", value);
        }
        self.times.push((name, times));
    }
}

pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

pub fn mebibytes(usage: Usage) -> f64 {
    usage.memory as f64 / f64::from(1 << 20)
}
