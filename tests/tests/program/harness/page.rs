//! The pages in `docs/`, and what the program reports about a configuration.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use super::{ConfigFile, binary, output};

pub(crate) fn page(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows of the tables between a heading and the next one, as cells. A row has its name, in
/// backticks, in its first cell; that of the header has none.
pub(crate) fn rows(page: &str, heading: &str) -> Vec<Vec<String>> {
    let after = page.split_once(&format!("\n{heading}\n")).map(|(_, after)| after);
    let after = after.unwrap_or_else(|| panic!("there is no heading `{heading}`"));
    let section = after.lines().take_while(|line| !line.starts_with('#'));
    let rows: Vec<Vec<String>> = section
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|row| {
            let cells = row.trim_end_matches('|').split('|');
            cells.map(|cell| cell.trim().trim_end_matches('`').to_string()).collect()
        })
        .collect();
    assert!(!rows.is_empty(), "`{heading}` has no row");
    rows
}

/// The default of a key, without quotes.
pub(crate) fn default_of(page: &str, heading: &str, key: &str) -> String {
    let rows = rows(page, heading);
    let row = rows.iter().find(|row| row[0] == key).unwrap_or_else(|| panic!("no row {key}"));
    row[1].trim_matches(['`', '"']).to_string()
}

/// The time that a table has, with `off` for none.
pub(crate) fn time_of(text: &str) -> Option<Duration> {
    (text != "off").then(|| humantime::parse_duration(text).unwrap())
}

/// What `tinylb check` reports about a file.
pub(crate) fn check(text: &str) -> String {
    let file = ConfigFile::new(text);
    let output = output(Command::new(binary()).arg("check").arg("--config").arg(file.path()));
    String::from_utf8(output.stdout).unwrap()
}

/// Checks the ranges in numbers that a page has under a heading: a value beyond one makes the program
/// state it. Returns how many there are.
pub(crate) fn check_ranges(page: &str, heading: &str, before: &str, after: &str) -> usize {
    let mut checked = 0;
    for row in rows(page, heading) {
        let (key, range) = (&row[0], &row[2]);
        let is_range = range.starts_with(|c: char| c.is_ascii_digit())
            && (range.contains(" to ") || range.contains(" or more"));
        if !is_range {
            continue;
        }
        // A floor is judged as a whole.
        let other = match &**key {
            "removed_percent_max" => "hold = \"1m\", ",
            "hold" => "removed_percent_max = 50, ",
            _ => "",
        };
        // Too much for any, or too little.
        let beyond = ["\"99999d\"", "99999999999", "0"];
        let reports = beyond.map(|value| check(&format!("{before}{other}{key} = {value}{after}")));
        let range = if key == "drain" { &format!("abort, or drain for {range}") } else { range };
        let states = |report: &String| report.contains(&format!("it must be {range}\n"));
        assert!(reports.iter().any(states), "{key}: {range}: {reports:?}");
        checked += 1;
    }
    checked
}
