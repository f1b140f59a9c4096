use std::{
    fmt, fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread::{self, JoinHandle},
    time::Instant,
};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::Value;
use tinylb_tests::program;

use super::{DEADLINE, Recording, eventually};

/// The program, built once as the tests were.
pub(crate) fn binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| program::build().unwrap()).clone()
}

/// The program at work. Killed when dropped; if it ever panicked, or its recording breaks a law, the
/// test fails then.
pub(crate) struct Tinylb {
    child: Child,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
    recording: Option<Recording>,
}

/// What it wrote to standard error.
#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<Line>, IsOver)>,
    changed: Condvar,
}

type IsOver = bool;

impl Log {
    /// A wait that was in vain panics with the lock held, and the log is still of use.
    fn lock(&self) -> MutexGuard<'_, (Vec<Line>, IsOver)> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A line of the log.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) text: String,
    /// Null if it isn't JSON.
    pub(crate) json: Value,
}

impl Line {
    fn new(text: String) -> Self {
        let json = serde_json::from_str(&text).unwrap_or_default();
        Self { text, json }
    }

    pub(crate) fn field(&self, name: &str) -> &str {
        self.json[name].as_str().unwrap_or_default()
    }

    pub(crate) fn message(&self) -> &str {
        self.field("message")
    }

    pub(crate) fn says(&self, text: &str) -> bool {
        self.text.contains(text)
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n  {}", self.text)
    }
}

impl Tinylb {
    /// `tinylb run` with these arguments.
    pub(crate) fn run(args: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.arg("run").args(args);
        Self::start(command)
    }

    /// `tinylb run` in front of these backends, with a port of its own.
    pub(crate) fn balance<'a>(
        backends: impl IntoIterator<Item = &'a super::Backend>,
        more: &[&str],
    ) -> Self {
        Self::start(Self::balancer(backends, more))
    }

    /// The command for that.
    pub(crate) fn balancer<'a>(
        backends: impl IntoIterator<Item = &'a super::Backend>,
        more: &[&str],
    ) -> Command {
        let mut command = Command::new(binary());
        command.args(["run", "--listen", "127.0.0.1:0"]).args(more);
        for backend in backends {
            command.args(["--backend", &backend.argument()]);
        }
        command
    }

    /// The program as a command says; its standard error is read. `tinylb run` is recorded.
    pub(crate) fn start(mut command: Command) -> Self {
        let is_run = command.get_args().any(|arg| arg == "run");
        let recording = is_run.then(|| Recording::of(&mut command));
        let mut tinylb = Self::start_unrecorded(command);
        tinylb.recording = recording;
        tinylb
    }

    /// The same without a recording, which takes a thread, and a file that its user may write.
    pub(crate) fn start_unrecorded(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Log::default());
        let (stderr, writer) = (child.stderr.take().unwrap(), Arc::clone(&log));
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                writer.lock().0.push(Line::new(line.unwrap()));
                writer.changed.notify_all();
            }
            writer.lock().1 = true;
            writer.changed.notify_all();
        });
        Self { child, log, reader: Some(reader), recording: None }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        self.addresses(1).remove(0)
    }

    /// Where it listens, once there are so many.
    pub(crate) fn addresses(&self, count: usize) -> Vec<String> {
        self.wait(&format!("{count} times `listening on`"), |lines| {
            let addresses: Vec<String> = lines
                .iter()
                .filter_map(|line| line.message().strip_prefix("listening on "))
                .map(String::from)
                .collect();
            (addresses.len() >= count).then_some(addresses)
        })
    }

    /// Where it answers requests.
    pub(crate) fn admin(&self) -> String {
        let line = self.line("admin on ");
        line.message().strip_prefix("admin on ").unwrap().into()
    }

    /// The first line with this text.
    pub(crate) fn line(&self, text: &str) -> Line {
        self.lines(1, text).remove(0)
    }

    /// The lines with this text, once there are so many.
    pub(crate) fn lines(&self, count: usize, text: &str) -> Vec<Line> {
        self.wait(&format!("{count} lines with `{text}`"), |lines| {
            let found: Vec<_> = lines.iter().filter(|line| line.says(text)).cloned().collect();
            (found.len() >= count).then_some(found)
        })
    }

    /// All lines so far.
    pub(crate) fn log(&self) -> Vec<Line> {
        self.log.lock().0.clone()
    }

    fn wait<T>(&self, what: &str, mut look: impl FnMut(&[Line]) -> Option<T>) -> T {
        let began = Instant::now();
        let mut lines = self.log.lock();
        loop {
            if let Some(seen) = look(&lines.0) {
                return seen;
            }
            let left = DEADLINE.saturating_sub(began.elapsed());
            let is_vain = lines.1 || left.is_zero();
            assert!(!is_vain, "the log never had {what}: {:?}", lines.0);
            lines = self.log.changed.wait_timeout(lines, left).unwrap().0;
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The names of its threads. One that has just begun has the name of the one that began it still.
    pub(crate) fn threads(&self) -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        // One that ends meanwhile has no name any more.
        let names = tasks.flat_map(|task| fs::read_to_string(task.unwrap().path().join("comm")));
        names.map(|name| name.trim_end().to_string()).collect()
    }

    /// Leaves 1 MiB of address space beyond what is in use, and returns the limit before. From now on
    /// no thread can start, since its stack takes 2 MiB; this holds for root as well.
    pub(crate) fn deny_threads(&self) -> Rlimit {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap();
        let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
        let current = Some(pages * rustix::param::page_size() as u64 + (1 << 20));
        self.limit_memory(Rlimit { current, maximum: None })
    }

    /// Sets the limit of the address space, and returns the one before.
    pub(crate) fn limit_memory(&self, limit: Rlimit) -> Rlimit {
        prlimit(Some(Pid::from_child(&self.child)), Resource::As, limit).unwrap()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end, and gives the exit code.
    pub(crate) fn exit_code(&mut self) -> i32 {
        let status = eventually("the end of the program", || self.child.try_wait().unwrap());
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        status.code().unwrap_or_else(|| panic!("it was killed, {status}: {:?}", self.log()))
    }

    /// Has it shut down, and checks that it ends well.
    pub(crate) fn stop(self) {
        self.signal(Signal::TERM);
        self.stop_after_signal();
    }

    /// The same, while clients have sessions, which finish.
    pub(crate) fn stop_and_finish(self, clients: impl IntoIterator<Item = super::Client>) {
        self.signal(Signal::TERM);
        self.line("shutting down");
        for client in clients {
            assert_eq!(client.finish(), super::End::Clean);
        }
        self.stop_after_signal();
    }

    /// The same as [`Self::stop`]; hands over all that it logged.
    pub(crate) fn stop_and_log(mut self, look: impl FnOnce(&[Line])) {
        self.signal(Signal::TERM);
        assert_eq!(self.exit_code(), 0, "{:?}", self.log());
        look(&self.log());
    }

    /// The same as [`Self::stop`]; hands over its recording.
    pub(crate) fn stop_and_read_recording(mut self) -> Vec<u8> {
        self.signal(Signal::TERM);
        assert_eq!(self.exit_code(), 0, "{:?}", self.log());
        self.recording.as_ref().unwrap().read()
    }

    /// Checks that it ends well, after a signal.
    pub(crate) fn stop_after_signal(mut self) {
        assert_eq!(self.exit_code(), 0, "{:?}", self.log());
    }
}

impl Drop for Tinylb {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        if thread::panicking() {
            eprintln_log(&self.log());
        } else {
            let lines = self.log();
            assert!(!lines.iter().any(|line| line.says("panicked")), "{lines:?}");
            if let Some(recording) = self.recording.take() {
                recording.check();
            }
        }
    }
}

/// What the program said helps to understand a failure.
#[allow(clippy::print_stderr)]
fn eprintln_log(lines: &[Line]) {
    let skipped = lines.len().saturating_sub(50);
    eprintln!("the program's log, without the first {skipped} lines:{:?}", &lines[skipped..]);
}
