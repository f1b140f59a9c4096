//! Checks over HTTPS, of a real server: `openssl s_server`, which answers every question with 200. The
//! tests skip themselves if `openssl` isn't installed.

use std::{
    fs,
    io::{Write, stderr},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::Signal;

use crate::harness::{
    Backend, Client, ConfigFile, Kill, Tinylb, binary, free_address, output, service, until,
};

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";

/// Makes two authorities, `one.pem` and `two.pem`, and by the first a certificate for a server at this
/// host, and one for a client. False if there is no `openssl`; standard error says so.
fn certificates(directory: &Path, host: &str) -> bool {
    let ca = "-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign";
    let mut lines = Vec::new();
    for name in ["one", "two"] {
        let request = format!("req -x509 {KEY} {ca} -days 30 -subj /CN={name}");
        lines.push(format!("{request} -keyout {name}.key -out {name}.pem"));
    }
    for (name, extension) in [
        ("server", format!("subjectAltName=IP:{host}")),
        ("lb", "extendedKeyUsage=clientAuth".into()),
    ] {
        fs::write(directory.join(format!("{name}.ext")), extension + "\n").unwrap();
        lines.push(format!("req {KEY} -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        lines.push(format!(
            "x509 -req -in {name}.csr -CA one.pem -CAkey one.key -CAcreateserial -days 30 \
             -extfile {name}.ext -out {name}.pem"
        ));
    }
    lines.iter().all(|line| {
        let mut command = Command::new("openssl");
        let command = command.args(line.split_whitespace()).current_dir(directory);
        let Ok(output) = command.output() else {
            let skipped = "SKIPPED: openssl isn't installed (Debian: apt-get install openssl)";
            let _ = writeln!(stderr(), "{skipped}");
            return false;
        };
        assert!(output.status.success(), "{line}: {output:?}");
        true
    })
}

/// A server that shows `server.pem`, with these further options.
fn serve(directory: &Path, address: &str, more: &str) -> Kill {
    let mut command = Command::new("openssl");
    let line = format!("s_server -accept {address} -cert server.pem -key server.key -www {more}");
    command.args(line.split_whitespace()).current_dir(directory);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let server = Kill(command.spawn().unwrap());
    until("the server", || TcpStream::connect(address).is_ok());
    server
}

/// A backend, a server beside it, and the check that asks it.
struct World {
    file: ConfigFile,
    backend: Backend,
    address: String,
}

impl World {
    fn new() -> Option<Self> {
        let file = ConfigFile::new("");
        let address = free_address();
        let host = address.split(':').next().unwrap();
        let backend = Backend::echo_at("a", &format!("{host}:0"));
        let world = Self { file, backend, address: address.clone() };
        certificates(&world.directory(), host).then_some(world)
    }

    fn directory(&self) -> std::path::PathBuf {
        self.file.in_dir("")
    }

    fn copy(&self, from: &str, to: &str) {
        fs::copy(self.file.in_dir(from), self.file.in_dir(to)).unwrap();
    }

    fn run(&self, more: &str) -> Tinylb {
        let port = self.address.split(':').nth(1).unwrap();
        let check = format!(
            "check = {{ https = \"/primary\", port = {port}, ca = \"ca.pem\", interval = \"100ms\", \
             fall_unanswered = 1{more} }}\nempty = \"wait\""
        );
        self.file.edit(&service("s", "127.0.0.1:0", [&self.backend], &check));
        self.file.run()
    }
}

#[test]
fn only_a_server_of_the_given_ca_passes_and_renewed_files_are_read_at_a_hangup() {
    let Some(world) = World::new() else { return };
    let _server = serve(&world.directory(), &world.address, "");
    world.copy("two.pem", "ca.pem");
    let tinylb = world.run("");
    let line = tinylb.line("doesn't pass");
    let cause = "doesn't pass: its certificate is from an authority that isn't in `ca`";
    assert!(line.message().ends_with(cause), "{line:?}");

    // A broken file changes nothing, and is named.
    fs::write(world.file.in_dir("ca.pem"), "nothing").unwrap();
    tinylb.signal(Signal::HUP);
    let line = tinylb.line("configuration rejected");
    let path = world.file.in_dir("ca.pem").display().to_string();
    assert!(line.says(&path) && line.says("there is no certificate in PEM"), "{line:?}");
    world.copy("one.pem", "ca.pem");
    tinylb.signal(Signal::HUP);
    tinylb.line("passes again");
    let client = Client::connect(&tinylb.address());
    assert_eq!(client.backend, "a");
    tinylb.stop_and_finish([client]);
}

#[test]
fn a_server_that_demands_a_certificate_is_shown_the_one_in_the_file() {
    let Some(world) = World::new() else { return };
    let _server =
        serve(&world.directory(), &world.address, "-Verify 1 -verify_return_error -CAfile one.pem");
    world.copy("one.pem", "ca.pem");
    let tinylb = world.run("");
    let line = tinylb.line("doesn't pass");
    assert!(line.says("it demands a certificate: set `certificate`"), "{line:?}");
    drop(tinylb);
    let tinylb = world.run(", certificate = \"lb.pem\", certificate_key = \"lb.key\"");
    tinylb.line("passes");
    assert_eq!(Client::connect(&tinylb.address()).backend, "a");
}

#[test]
fn a_check_whose_files_cannot_be_used_is_refused_with_their_path() {
    let Some(world) = World::new() else { return };
    let run = |args: &[&str]| {
        let output = output(Command::new(binary()).args(args));
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let config = world.file.path().to_str().unwrap();
    let path = |name: &str| world.file.in_dir(name).display().to_string();
    for (keys, cause) in [
        (
            "ca = \"none.pem\"",
            format!("the check of s: can't read {}: No such file", path("none.pem")),
        ),
        ("ca = \"one.key\"", format!("the check of s: {}: the CA can't be used", path("one.key"))),
        (
            "ca = \"one.pem\", certificate = \"lb.pem\", certificate_key = \"server.key\"",
            format!("the check of s: {}: the key of the certificate can't be", path("server.key")),
        ),
        ("ca = \"one.pem\", domain = \"a b\"", "`a b` is no name of a server".into()),
    ] {
        let check = format!("check = {{ https = \"/\", {keys} }}");
        world.file.edit(&service("s", "127.0.0.1:0", [&world.backend], &check));
        let (code, text) = run(&["check", "--config", config]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(&cause), "{cause}: {text}");
    }
    let given = ["run", "--listen", "127.0.0.1:0", "--backend", "a=127.0.0.1:1"];
    for (more, cause) in [
        (&["--check-https", "/"][..], "needs `ca`"),
        (&["--check-http", "/", "--check-ca", "x"], "are for `--check-https PATH`"),
        (&["--check-https", "/", "--check-ca", "/none.pem"], "can't read /none.pem"),
    ] {
        let (code, text) = run(&[&given[..], more].concat());
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(cause), "{text}");
    }
    let (code, text) = run(&["run", "--config", config, "--check-ca", "x"]);
    assert_eq!(code, Some(2), "{text}");
}
