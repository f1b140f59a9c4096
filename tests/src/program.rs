//! The program that is tested and measured.

use std::{
    env, io,
    path::{Path, PathBuf},
    process::Command,
};

/// Where [`build`] puts the program: where the running test or benchmark was built, by the same
/// profile.
///
/// # Errors
///
/// If the path of the running test or benchmark is unknown.
pub fn path() -> io::Result<PathBuf> {
    Ok(profile(&env::current_exe()?)?.join("tinylb"))
}

/// Builds the program as the running test or benchmark was built: by the same profile, and with etcd
/// or without. Cargo builds it only for tests of its own package. Returns its path.
///
/// # Errors
///
/// If it can't be built; cargo says why.
pub fn build() -> io::Result<PathBuf> {
    let own = env::current_exe()?;
    let profile = profile(&own)?;
    let name = match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => return Err(io::ErrorKind::NotFound.into()),
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--package", "tinylb-tokio", "--bin", "tinylb"])
        .args(["--profile", name])
        .args(cfg!(feature = "etcd").then_some("--features=etcd"))
        .arg("--target-dir")
        .arg(profile.parent().unwrap_or(profile))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()?;
    if built.success() { path() } else { Err(io::Error::other("tinylb can't be built")) }
}

/// The directory of what this test or benchmark was built with: it is TARGET/PROFILE/deps/NAME-HASH.
fn profile(own: &Path) -> io::Result<&Path> {
    own.ancestors().nth(2).ok_or(io::ErrorKind::NotFound.into())
}
