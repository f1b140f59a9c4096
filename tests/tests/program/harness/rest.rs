use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

/// An HTTP server beside a backend: it answers each request with the status that it is set to.
pub(crate) struct Rest {
    pub(crate) port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// `None`: it doesn't answer.
    status: Mutex<Option<u16>>,
    changed: Condvar,
    connections: AtomicUsize,
    requests: AtomicUsize,
    /// The lines of the newest head.
    head: Mutex<Vec<String>>,
}

impl Rest {
    /// At this host and port (0: a free one).
    pub(crate) fn at(host: &str, port: u16, status: Option<u16>) -> Self {
        let listener = TcpListener::bind((host, port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State { status: Mutex::new(status), ..State::default() });
        let serving = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serving.connections.fetch_add(1, SeqCst);
                let state = Arc::clone(&serving);
                thread::spawn(move || serve(&stream, &state));
            }
        });
        Self { port, state }
    }

    /// Answers with this status from now on, also what was asked before; `None`: doesn't answer.
    pub(crate) fn set(&self, status: Option<u16>) {
        *self.state.status.lock().unwrap() = status;
        self.state.changed.notify_all();
    }

    /// Connections that came so far.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(SeqCst)
    }

    /// Requests that came so far.
    pub(crate) fn requests(&self) -> usize {
        self.state.requests.load(SeqCst)
    }

    /// The lines of the newest request.
    pub(crate) fn head(&self) -> Vec<String> {
        self.state.head.lock().unwrap().clone()
    }
}

fn serve(stream: &TcpStream, state: &State) {
    let mut lines = BufReader::new(stream).lines();
    loop {
        let head: Vec<String> =
            lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        if head.is_empty() {
            return;
        }
        *state.head.lock().unwrap() = head;
        state.requests.fetch_add(1, SeqCst);
        let status = state.status.lock().unwrap();
        let status = state.changed.wait_while(status, |status| status.is_none()).unwrap();
        let answer = format!("HTTP/1.1 {} X\r\nContent-Length: 0\r\n\r\n", status.unwrap());
        drop(status);
        if { stream }.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
