//! Checks of real TLS servers, whose certificates `openssl` makes. Without it, the tests skip
//! themselves.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use tinylb_core::Answer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, server::WebPkiClientVerifier},
};

use super::*;
use crate::{Checker, HttpCheck};

/// Only a hang takes as long as that.
const DEADLINE: Duration = Duration::from_secs(30);

/// A directory with two authorities, `ca` and `other`, and certificates by the first.
struct Pki(PathBuf);

impl Drop for Pki {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Pki {
    /// `None` if there is no `openssl`; standard error says so.
    fn new() -> Option<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, SeqCst);
        let name = format!("tinylb-tls-{}-{number}", std::process::id());
        let pki = Self(std::env::temp_dir().join(name));
        fs::create_dir(&pki.0).unwrap();
        let ca = "-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign";
        for name in ["ca", "other"] {
            let request = format!("req -x509 {KEY} {ca} -days 30 -subj /CN={name}");
            if !pki.openssl(&format!("{request} -keyout {name}.key -out {name}.pem")) {
                return None;
            }
        }
        pki.sign("server", "subjectAltName=IP:127.0.0.1,DNS:db.test", 30);
        Some(pki)
    }

    fn openssl(&self, line: &str) -> bool {
        let mut command = Command::new("openssl");
        let Ok(output) = command.args(line.split_whitespace()).current_dir(&self.0).output() else {
            #[expect(clippy::print_stderr, reason = "whoever runs the tests has to know")]
            {
                eprintln!("SKIPPED: openssl isn't installed (Debian: apt-get install openssl)");
            }
            return false;
        };
        assert!(output.status.success(), "{line}: {output:?}");
        true
    }

    /// Makes a certificate `NAME.pem` with its key.
    fn sign(&self, name: &str, extension: &str, days: i32) {
        fs::write(self.0.join("extensions"), format!("{extension}\n")).unwrap();
        self.openssl(&format!("req {KEY} -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days {days} \
             -extfile extensions -out {name}.pem"
        ));
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.0.join(name)).unwrap()
    }

    fn trusting(&self, ca: &str) -> CheckTls {
        CheckTls::new(&self.read(&format!("{ca}.pem"))).unwrap()
    }

    /// What encrypts a server that shows this certificate and may demand one by `ca`.
    fn acceptor(&self, name: &str, demands: bool) -> TlsAcceptor {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let authorities = self.trusting("ca").authorities;
        let builder = match demands {
            true => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(authorities, provider).build().unwrap(),
            ),
            false => builder.with_no_client_auth(),
        };
        let chain = certificates(&self.read(&format!("{name}.pem"))).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&self.read(&format!("{name}.key"))).unwrap();
        TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()))
    }
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";

/// A server that answers 200 to every question.
struct Server {
    target: Address,
    accepted: Arc<AtomicUsize>,
    /// Connections that ended with TLS's own end.
    ended: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Server {
    async fn start(acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap().into();
        let (accepted, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (accepts, ends) = (Arc::clone(&accepted), Arc::clone(&ended));
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepts.fetch_add(1, SeqCst);
                let (acceptor, ends) = (acceptor.clone(), Arc::clone(&ends));
                tokio::spawn(timeout(DEADLINE, serve(stream, acceptor, ends)));
            }
        });
        Self { target, accepted, ended, serving }
    }

    async fn ask(&self, tls: CheckTls) -> Answer {
        let check = HttpCheck::new("/primary").unwrap().with_tls(tls);
        let answer = timeout(DEADLINE, check.check(&self.target, DEADLINE));
        answer.await.expect("the check ends of itself")
    }
}

async fn serve(stream: TcpStream, acceptor: Option<TlsAcceptor>, ends: Arc<AtomicUsize>) {
    let Some(acceptor) = acceptor else {
        // It reads something else than HTTP, and says so.
        let mut stream = stream;
        let _ = stream.read(&mut [0; 1000]).await;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let _ = stream.read(&mut [0; 1000]).await;
        return;
    };
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    let mut head = Vec::new();
    loop {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) => {
                // Without TLS's own end, rustls gives an error of its own; a reset is none either.
                let is_end = error.kind() == io::ErrorKind::UnexpectedEof
                    && !error.to_string().contains("close_notify");
                ends.fetch_add(usize::from(is_end), SeqCst);
                return;
            }
        }
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            let _ = stream.write_all(answer).await;
            let _ = stream.flush().await;
        }
    }
}

fn none(reason: &str) -> Answer {
    Answer::None(reason.into())
}

#[tokio::test]
async fn a_server_that_is_trusted_passes_on_one_connection_that_ends_in_order() {
    let Some(pki) = Pki::new() else { return };
    let server = Server::start(Some(pki.acceptor("server", false))).await;
    let check = HttpCheck::new("/primary").unwrap().with_tls(pki.trusting("ca"));
    for _ in 0..3 {
        let answer = timeout(DEADLINE, check.check(&server.target, DEADLINE));
        assert_eq!(answer.await.unwrap(), Answer::Pass);
    }
    assert_eq!(server.accepted.load(SeqCst), 1);
    drop(check);
    let ended = async {
        while server.ended.load(SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, ended).await.expect("an end that isn't a cut");
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_no_answer_with_the_reason_in_words() {
    let Some(pki) = Pki::new() else { return };
    let server = Server::start(Some(pki.acceptor("server", false))).await;
    let unknown = none("its certificate is from an authority that isn't in `ca`");
    assert_eq!(server.ask(pki.trusting("other")).await, unknown);
    let named = |name: &str| pki.trusting("ca").with_domain(name).unwrap();
    assert_eq!(server.ask(named("db.test")).await, Answer::Pass);
    let other = none("its certificate isn't valid for other.test");
    assert_eq!(server.ask(named("other.test")).await, other);

    pki.sign("old", "subjectAltName=IP:127.0.0.1", -1);
    let server = Server::start(Some(pki.acceptor("old", false))).await;
    assert_eq!(server.ask(pki.trusting("ca")).await, none("its certificate has expired"));
    pki.sign("elsewhere", "subjectAltName=IP:127.0.0.2", 30);
    let server = Server::start(Some(pki.acceptor("elsewhere", false))).await;
    let other = none("its certificate isn't valid for 127.0.0.1");
    assert_eq!(server.ask(pki.trusting("ca")).await, other);
}

#[tokio::test]
async fn every_authority_of_the_file_is_trusted_and_none_of_the_certificate_that_is_shown() {
    let Some(pki) = Pki::new() else { return };
    pki.sign("lb", "extendedKeyUsage=clientAuth", 30);
    let server = Server::start(Some(pki.acceptor("server", false))).await;
    let both = [pki.read("other.pem"), pki.read("ca.pem")].concat();
    assert_eq!(server.ask(CheckTls::new(&both).unwrap()).await, Answer::Pass);
    let chain = [pki.read("lb.pem"), pki.read("ca.pem")].concat();
    let shows = pki.trusting("other").with_certificate(&chain, &pki.read("lb.key")).unwrap();
    let unknown = none("its certificate is from an authority that isn't in `ca`");
    assert_eq!(server.ask(shows).await, unknown);
}

#[tokio::test]
async fn a_server_without_tls_gives_no_answer() {
    let Some(pki) = Pki::new() else { return };
    let server = Server::start(None).await;
    assert_eq!(server.ask(pki.trusting("ca")).await, none("it speaks no TLS at this port"));
}

#[tokio::test]
async fn a_server_that_demands_a_certificate_is_shown_one() {
    let Some(pki) = Pki::new() else { return };
    pki.sign("lb", "extendedKeyUsage=clientAuth", 30);
    let server = Server::start(Some(pki.acceptor("server", true))).await;
    let demands = none("it demands a certificate: set `certificate` and `certificate_key`");
    assert_eq!(server.ask(pki.trusting("ca")).await, demands);
    let shows = |name: &str| {
        let (certificate, key) = (format!("{name}.pem"), format!("{name}.key"));
        pki.trusting("ca").with_certificate(&pki.read(&certificate), &pki.read(&key)).unwrap()
    };
    assert_eq!(server.ask(shows("lb")).await, Answer::Pass);
    let Answer::None(reason) = server.ask(shows("other")).await else { panic!("an answer") };
    assert!(reason.starts_with("it refuses our certificate: "), "{reason}");
}

#[test]
fn files_that_cannot_be_used_are_refused_with_the_reason() {
    let Some(pki) = Pki::new() else { return };
    let error = |tls: Result<CheckTls, CheckTlsError>| tls.err().unwrap().to_string();
    let nothing = "the CA can't be used: there is no certificate in PEM in it";
    assert_eq!(error(CheckTls::new(b"")), nothing);
    assert_eq!(error(CheckTls::new(&pki.read("ca.key"))), nothing);
    let broken = b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
    assert!(error(CheckTls::new(broken)).starts_with("the CA can't be used: "));
    let (certificate, key) = (pki.read("server.pem"), pki.read("server.key"));
    let with =
        |certificate: &[u8], key: &[u8]| pki.trusting("ca").with_certificate(certificate, key);
    assert!(with(&certificate, &key).is_ok());
    let no_certificate = "the certificate can't be used: there is no certificate in PEM in it";
    assert_eq!(error(with(&key, &key)), no_certificate);
    let no_key = "the key of the certificate can't be used: there is no private key in PEM in it";
    assert_eq!(error(with(&certificate, &certificate)), no_key);
    let other = error(with(&certificate, &pki.read("ca.key")));
    assert!(other.starts_with("the key of the certificate can't be used: "), "{other}");
    for name in ["", "a b", "-"] {
        let error = error(pki.trusting("ca").with_domain(name));
        assert!(error.contains("is no name of a server"), "{error}");
    }
}
