//! Servers of every kind. Each server is a script for its connections.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use futures::future::BoxFuture;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::*;

/// Only a hang takes as long as that.
const DEADLINE: Duration = Duration::from_secs(30);

/// A server that follows a script on each of its connections, by their number from 0.
struct Server {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Server {
    async fn start<F>(script: impl Fn(TcpStream, usize) -> F + Send + 'static) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let serving = {
            let accepted = Arc::clone(&accepted);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let number = accepted.fetch_add(1, SeqCst);
                    let served = script(stream, number);
                    tokio::spawn(timeout(DEADLINE, served));
                }
            })
        };
        Self { address, accepted, serving }
    }

    /// A server that answers one question on each connection with these bytes, and then waits for the
    /// client to close it.
    async fn says(bytes: &'static str) -> Self {
        Self::start(move |mut stream, _| async move {
            question(&mut stream).await?;
            stream.write_all(bytes.as_bytes()).await?;
            stream.read(&mut [0]).await.map(drop)
        })
        .await
    }

    fn target(&self) -> Address {
        self.address.into()
    }

    fn accepted(&self) -> usize {
        self.accepted.load(SeqCst)
    }
}

/// Reads the head of a question.
async fn question(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn http() -> HttpCheck {
    HttpCheck::new("/primary").unwrap()
}

/// The answer, which must come of itself.
async fn ask(check: &impl Checker, target: &Address) -> Answer {
    let answer = timeout(DEADLINE, check.check(target, DEADLINE));
    answer.await.expect("the check ends of itself")
}

/// The answer to one check of a server that says these bytes.
async fn said(bytes: &'static str) -> Answer {
    let server = Server::says(bytes).await;
    ask(&http(), &server.target()).await
}

fn fail(reason: &str) -> Answer {
    Answer::Fail(reason.into())
}

fn none(reason: &str) -> Answer {
    Answer::None(reason.into())
}

#[tokio::test]
async fn a_status_decides_and_the_reason_names_it() {
    let all = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    assert_eq!(said(all).await, Answer::Pass);
    let no = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(said(no).await, fail("503 from /primary"));
    assert_eq!(said("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n").await, fail("302 from /primary"));
    let upgrade = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
    assert_eq!(said(upgrade).await, fail("101 from /primary"));
    let server = Server::says(no).await;
    let lenient = http().with_status([200..=299, 503..=503]).unwrap();
    assert_eq!(ask(&lenient, &server.target()).await, Answer::Pass);
}

#[tokio::test]
async fn a_server_learns_which_path_of_which_host_is_meant() {
    let server = Server::start(|mut stream, _| async move {
        let asked = question(&mut stream).await?;
        let status = if asked.contains("host: db.test:1\r\n") { 200 } else { 404 };
        let is_get = asked.starts_with("GET /primary?lag=1MB HTTP/1.1\r\n");
        let status = if is_get { status } else { 400 };
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await
    })
    .await;
    let check = || HttpCheck::new("/primary?lag=1MB").unwrap();
    let named = check().with_host("db.test:1").unwrap();
    assert_eq!(ask(&named, &server.target()).await, Answer::Pass);
    assert_eq!(ask(&check(), &server.target()).await, fail("404 from /primary?lag=1MB"));
}

#[tokio::test]
async fn the_check_asks_at_its_own_port() {
    let server = Server::says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let port = NonZeroU16::new(server.address.port()).unwrap();
    let backend = "127.0.0.1:1".parse().unwrap();
    assert_eq!(ask(&http().with_port(port), &backend).await, Answer::Pass);
    assert_eq!(ask(&http(), &backend).await, none("connection refused"));
    let socket = "unix:/run/db.sock".parse().unwrap();
    let reason = format!("a Unix socket has no port {port}: check it without a port");
    assert_eq!(ask(&http().with_port(port), &socket).await, none(&reason));
}

#[tokio::test]
async fn a_server_of_http_1_0_and_one_that_closes_each_connection_are_understood() {
    for (answer, expected) in [
        ("HTTP/1.0 200 OK\r\n\r\nthe body ends with the connection", Answer::Pass),
        ("HTTP/1.0 503 No\r\nServer: BaseHTTP\r\n\r\n{}", fail("503 from /primary")),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", Answer::Pass),
    ] {
        let server = Server::start(move |mut stream, _| async move {
            question(&mut stream).await?;
            stream.write_all(answer.as_bytes()).await
        })
        .await;
        let check = http();
        for _ in 0..3 {
            assert_eq!(ask(&check, &server.target()).await, expected);
        }
        assert_eq!(server.accepted(), 3, "each check has a connection of its own");
    }
}

#[tokio::test]
async fn a_connection_that_is_no_longer_needed_ends_without_a_reset() {
    let (ended, mut end) = tokio::sync::mpsc::unbounded_channel();
    for answer in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ] {
        let ended = ended.clone();
        let server = Server::start(move |mut stream, _| {
            let ended = ended.clone();
            async move {
                question(&mut stream).await?;
                stream.write_all(answer.as_bytes()).await?;
                let _ = ended.send(stream);
                Ok(())
            }
        })
        .await;
        let check = http();
        assert_eq!(ask(&check, &server.target()).await, Answer::Pass);
        // Its backend has left.
        check.retain(&BackendSet::empty());
        let mut stream = end.recv().await.unwrap();
        let read = timeout(DEADLINE, stream.read(&mut [0])).await.unwrap();
        assert_eq!(read.unwrap(), 0, "{answer}");
        // A reset that follows the end shows only here.
        assert!(stream.take_error().unwrap().is_none(), "{answer}");
    }
}

#[tokio::test]
async fn bodies_of_any_kind_are_no_obstacle() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    assert_eq!(said(chunked).await, Answer::Pass);
    let short = "HTTP/1.1 503 No\r\nContent-Length: 1000000\r\n\r\nand then nothing";
    assert_eq!(said(short).await, fail("503 from /primary"));
    let broken = "HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n";
    assert_eq!(said(broken).await, fail("503 from /primary"));
    // A body without end, fast or slow.
    for pause in [Duration::ZERO, Duration::from_millis(10)] {
        let server = Server::start(move |mut stream, _| async move {
            question(&mut stream).await?;
            stream.write_all(b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
            loop {
                stream.write_all(b"4\r\nmore\r\n").await?;
                tokio::time::sleep(pause).await;
            }
        })
        .await;
        let check = http();
        for _ in 0..2 {
            assert_eq!(ask(&check, &server.target()).await, fail("503 from /primary"));
        }
    }
}

#[tokio::test]
async fn informational_responses_are_skipped() {
    let answer = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n\
                  HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(said(answer).await, fail("503 from /primary"));
}

#[tokio::test]
async fn what_is_not_http_is_no_answer_and_says_so() {
    for (garbage, reason) in [
        ("?\0\u{1}\r\n\r\n", "no HTTP: invalid HTTP version parsed"),
        ("HTTP/1.1 2x0 OK\r\n\r\n", "no HTTP: invalid HTTP status-code parsed"),
        ("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "no HTTP: invalid HTTP header parsed"),
    ] {
        assert_eq!(said(garbage).await, none(reason));
    }
    // One that speaks first, as servers of databases and mail do.
    let server = Server::start(|mut stream, _| async move {
        stream.write_all(b"220 mail.test ESMTP\r\n").await?;
        question(&mut stream).await?;
        stream.read(&mut [0]).await.map(drop)
    })
    .await;
    let Answer::None(reason) = ask(&http(), &server.target()).await else { panic!("an answer") };
    assert!(reason.starts_with("no HTTP: "), "{reason}");
}

#[tokio::test]
async fn a_head_without_end_is_given_up() {
    for line in ["a: b\r\n", "a"] {
        let server = Server::start(move |mut stream, _| async move {
            question(&mut stream).await?;
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
            loop {
                stream.write_all(line.as_bytes()).await?;
            }
        })
        .await;
        let reason = "no HTTP: message head is too large";
        assert_eq!(ask(&http(), &server.target()).await, none(reason));
    }
}

#[tokio::test]
async fn a_head_of_15_kib_is_read_and_one_of_32_kib_is_given_up() {
    let too_large = none("no HTTP: message head is too large");
    for (kib, expected) in [(15, Answer::Pass), (32, too_large)] {
        let server = Server::start(move |mut stream, _| async move {
            question(&mut stream).await?;
            let long = "x".repeat(kib << 10);
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nLong: {long}\r\n\r\n");
            stream.write_all(answer.as_bytes()).await?;
            stream.read(&mut [0]).await.map(drop)
        })
        .await;
        assert_eq!(ask(&http(), &server.target()).await, expected);
    }
}

#[tokio::test]
async fn a_connection_that_ends_before_an_answer_is_told_from_a_refusal() {
    let closed = none("the connection was closed before an answer");
    let server = Server::start(|stream, _| async move {
        drop(stream);
        Ok(())
    })
    .await;
    let answer = ask(&http(), &server.target()).await;
    // Whether the question came before or after the end makes a reset of it.
    assert!(answer == closed || answer == none("connection reset by peer"), "{answer:?}");
    let server = Server::start(|mut stream, _| async move {
        question(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 2").await
    })
    .await;
    assert_eq!(ask(&http(), &server.target()).await, closed);
    let server = Server::start(|mut stream, _| async move {
        question(&mut stream).await?;
        stream.set_zero_linger()
    })
    .await;
    assert_eq!(ask(&http(), &server.target()).await, none("connection reset by peer"));
    let gone = server.target();
    drop(server);
    tokio::task::yield_now().await;
    assert_eq!(ask(&http(), &gone).await, none("connection refused"));
    let strict = http().with_refusal_as_no();
    assert_eq!(ask(&strict, &gone).await, fail("connection refused"));
}

/// The connections that five checks use of a server whose answers have a body of this length, which
/// comes after the head, as small servers write it.
async fn connections(body: usize) -> usize {
    let written = Arc::new(AtomicUsize::new(0));
    let server = {
        let written = Arc::clone(&written);
        Server::start(move |mut stream, _| {
            let written = Arc::clone(&written);
            async move {
                stream.set_nodelay(true)?;
                loop {
                    question(&mut stream).await?;
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {body}\r\n\r\n");
                    stream.write_all(head.as_bytes()).await?;
                    tokio::task::yield_now().await;
                    stream.write_all(&vec![b'x'; body]).await?;
                    written.fetch_add(1, SeqCst);
                }
            }
        })
        .await
    };
    let check = http();
    for number in 1..=5 {
        assert_eq!(ask(&check, &server.target()).await, Answer::Pass);
        // The rest has an interval to arrive.
        let rest = async {
            while written.load(SeqCst) < number {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, rest).await.unwrap();
    }
    server.accepted()
}

#[tokio::test]
async fn five_checks_use_one_connection_unless_the_answers_are_long() {
    assert_eq!(connections(2).await, 1);
    assert_eq!(connections((64 << 10) + 1).await, 5);
}

#[tokio::test]
async fn backends_that_are_asked_at_one_port_have_a_connection_each() {
    let server = Server::start(|mut stream, _| async move {
        loop {
            answer_one(&mut stream, 200).await?;
        }
    })
    .await;
    let check = http().with_port(NonZeroU16::new(server.address.port()).unwrap());
    for backend in ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:1"] {
        assert_eq!(ask(&check, &backend.parse().unwrap()).await, Answer::Pass);
    }
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn no_more_connections_are_kept_than_may_be() {
    let server = Server::start(|mut stream, _| async move {
        loop {
            answer_one(&mut stream, 200).await?;
        }
    })
    .await;
    let check = http().with_port(NonZeroU16::new(server.address.port()).unwrap());
    let check = check.with_connections_max(1);
    for backend in ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:1", "127.0.0.1:2"] {
        assert_eq!(ask(&check, &backend.parse().unwrap()).await, Answer::Pass);
    }
    assert_eq!(server.accepted(), 3, "the second backend has a new one for each check");
}

/// Answers one question.
async fn answer_one(stream: &mut TcpStream, status: u16) -> io::Result<()> {
    question(stream).await?;
    let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(answer.as_bytes()).await
}

#[tokio::test]
async fn a_server_that_closes_idle_connections_costs_no_answer() {
    type Ends = fn(TcpStream) -> BoxFuture<'static, io::Result<()>>;
    let closes: Ends = |stream| {
        drop(stream);
        Box::pin(async { Ok(()) })
    };
    let resets: Ends = |stream| Box::pin(async move { stream.set_zero_linger() });
    let says_so: Ends = |mut stream| {
        Box::pin(async move {
            stream.write_all(b"HTTP/1.1 408 Too Slow\r\nConnection: close\r\n\r\n").await
        })
    };
    // The question is read, and then the connection is closed without an answer.
    let reads_and_closes: Ends =
        |mut stream| Box::pin(async move { question(&mut stream).await.map(drop) });
    // The same, but the question crosses it on the way.
    let says_so_late: Ends = |mut stream| {
        Box::pin(async move {
            question(&mut stream).await?;
            stream.write_all(b"HTTP/1.1 408 Too Slow\r\nConnection: close\r\n\r\n").await
        })
    };
    for (name, end) in [
        ("says so late", says_so_late),
        ("closes", closes),
        ("resets", resets),
        ("says so", says_so),
        ("reads and closes", reads_and_closes),
    ] {
        let server = Server::start(move |mut stream, number| async move {
            answer_one(&mut stream, if number == 3 { 503 } else { 200 }).await?;
            end(stream).await
        })
        .await;
        let check = http();
        for number in 0..4 {
            let expected = if number == 3 { fail("503 from /primary") } else { Answer::Pass };
            assert_eq!(ask(&check, &server.target()).await, expected, "{name}: check {number}");
        }
        assert_eq!(server.accepted(), 4, "{name}");
    }
}

#[tokio::test]
async fn a_kept_connection_on_which_nothing_comes_is_not_used_again() {
    let server = Server::start(|mut stream, number| async move {
        answer_one(&mut stream, 200).await?;
        match number {
            // As if a firewall in between had forgotten the connection.
            0 => stream.read_to_end(&mut Vec::new()).await.map(drop),
            _ => answer_one(&mut stream, 200).await,
        }
    })
    .await;
    let check = http();
    assert_eq!(ask(&check, &server.target()).await, Answer::Pass);
    let target = server.target();
    let silent = check.check(&target, Duration::from_millis(50));
    assert!(timeout(Duration::from_millis(50), silent).await.is_err());
    for _ in 0..2 {
        assert_eq!(ask(&check, &server.target()).await, Answer::Pass);
    }
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn an_answer_to_no_question_is_not_taken_for_the_next_one() {
    let [asked, said] = [(); 2].map(|()| Arc::new(Notify::new()));
    let server = {
        let [asked, said] = [&asked, &said].map(Arc::clone);
        Server::start(move |mut stream, number| {
            let [asked, said] = [&asked, &said].map(Arc::clone);
            async move {
                answer_one(&mut stream, if number == 0 { 200 } else { 503 }).await?;
                if number == 0 {
                    asked.notified().await;
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await?;
                    said.notify_one();
                }
                answer_one(&mut stream, 503).await
            }
        })
        .await
    };
    let check = http();
    assert_eq!(ask(&check, &server.target()).await, Answer::Pass);
    asked.notify_one();
    said.notified().await;
    // The reactor has its turn.
    sleep(Duration::from_millis(20)).await;
    assert_eq!(ask(&check, &server.target()).await, fail("503 from /primary"));
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn a_backend_that_has_left_holds_no_connection() {
    let server = Server::start(|mut stream, _| async move {
        loop {
            answer_one(&mut stream, 200).await?;
        }
    })
    .await;
    let (check, target) = (http(), server.target());
    let kept = || check.lock().len();
    let set = BackendSet::new([("a", target.clone())]).unwrap();
    assert_eq!(ask(&check, &target).await, Answer::Pass);
    check.retain(&set);
    assert_eq!(kept(), 1);
    // It leaves while it is asked.
    let mut asking = Box::pin(check.check(&target, DEADLINE));
    assert!(futures::poll!(&mut asking).is_pending());
    check.retain(&BackendSet::empty());
    assert_eq!(asking.await, Answer::Pass);
    assert_eq!(kept(), 0);
}

#[tokio::test]
async fn a_name_is_looked_up_for_each_check() {
    let server = Server::start(|mut stream, _| async move {
        loop {
            answer_one(&mut stream, 200).await?;
        }
    })
    .await;
    let target = format!("localhost:{}", server.address.port()).parse().unwrap();
    let check = http();
    for number in 1..=2 {
        assert_eq!(ask(&check, &target).await, Answer::Pass);
        assert_eq!(server.accepted(), number);
    }
    // Nobody has been asked then.
    let missing = "nobody.invalid:80".parse().unwrap();
    assert!(matches!(ask(&check, &missing).await, Answer::Ours(_)));
    let strict = http().with_refusal_as_no();
    assert!(matches!(ask(&strict, &missing).await, Answer::Ours(_)), "nobody has refused anything");
}

#[tokio::test]
async fn a_backend_at_a_unix_socket_is_asked_there() {
    let path = std::env::temp_dir().join(format!("tinylb-check-{}.sock", std::process::id()));
    let target: Address = format!("unix:{}", path.display()).parse().unwrap();
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let serving = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { break };
                head.push(byte);
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    assert_eq!(ask(&http(), &target).await, Answer::Pass);
    serving.abort();
    std::fs::remove_file(&path).unwrap();
    assert!(serving.await.unwrap_err().is_cancelled());
}

#[test]
fn what_cannot_be_part_of_a_check_is_refused_with_a_remedy() {
    for path in ["", "primary", "http://a/b", "*", "/a b", "/a\r\nX: y", "a:80"] {
        let error = HttpCheck::new(path).err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("write one such as")), "{path}");
    }
    for path in ["/", "/health?full=1&x=%20", "//a"] {
        assert!(HttpCheck::new(path).is_ok(), "{path}");
    }
    for host in ["", "a b", "a\r\nX: y", "h\u{e4}"] {
        assert!(http().with_host(host).is_err(), "{host}");
    }
    assert!(http().with_host("db.example.org:8008").is_ok());
    let status = |ranges: &[RangeInclusive<u16>]| http().with_status(ranges.to_vec()).err();
    assert_eq!(status(&[200..=200, 429..=429]), None);
    assert_eq!(status(&[]), Some(HttpCheckError::NoStatus));
    #[expect(clippy::reversed_empty_ranges, reason = "what a user may write")]
    let empty = 300..=200;
    assert_eq!(status(&[empty]), Some(HttpCheckError::NoStatus));
    assert_eq!(status(&[100..=299]), Some(HttpCheckError::Status { status: 100 }));
    assert_eq!(status(&[200..=600]), Some(HttpCheckError::Status { status: 600 }));
}
