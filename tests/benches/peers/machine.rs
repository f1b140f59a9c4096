use std::{
    fs::{self, File},
    io,
    path::Path,
    thread,
    time::SystemTime,
};

/// A file for results, by its path from the project's folder: cargo runs a benchmark in its package's.
/// Created before anything is measured, so that nothing is measured in vain.
pub fn create_result(path: &Path) -> io::Result<File> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(""));
    let path = project.join(path);
    let created = path.parent().map_or(Ok(()), fs::create_dir_all);
    let named = |error| io::Error::other(format!("{}: {error}", path.display()));
    created.and_then(|()| File::create(&path)).map_err(named)
}

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
