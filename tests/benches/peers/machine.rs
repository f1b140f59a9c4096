use std::{fs, thread, time::SystemTime};

/// Three digits that count.
pub fn round(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

pub fn date(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()[..10].to_string()
}

/// The release of Linux.
pub fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    release.split('-').next().unwrap_or(release).to_string()
}

pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get())
}
