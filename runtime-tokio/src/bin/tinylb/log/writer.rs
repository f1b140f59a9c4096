//! Writes the log on a thread of its own, so that logging never waits for a reader.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// The most lines that wait to be written; more are dropped, since a log must not hold up traffic.
const LINES_MAX: usize = 10_000;
/// How long the program waits for lines to be written when it ends.
const END_WAIT_MAX: Duration = Duration::from_secs(1);

/// The waiting lines. Clones share them.
#[derive(Clone)]
pub(crate) struct Lines(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    /// Lines dropped since one was last written.
    lost: u64,
    is_closed: bool,
    is_written: bool,
}

/// Writes out the waiting lines when it is dropped.
pub(crate) struct Guard(Lines);

impl Lines {
    /// Starts the thread. A line that can't be written is ignored. `lost` makes a line out of the
    /// number of dropped lines.
    ///
    /// # Errors
    /// The thread can't be started.
    pub(crate) fn start(
        out: impl Write + Send + 'static,
        lost: impl Fn(u64) -> String + Send + 'static,
    ) -> io::Result<(Self, Guard)> {
        let shared = Shared { queue: Mutex::default(), changed: Condvar::new() };
        let lines = Self(Arc::new(shared));
        let written = lines.clone();
        thread::Builder::new().name("log".into()).spawn(move || written.write_out(out, lost))?;
        Ok((lines.clone(), Guard(lines)))
    }

    fn write_out(&self, mut out: impl Write, lost: impl Fn(u64) -> String) {
        loop {
            let is_idle = |queue: &mut Queue| queue.lines.is_empty() && !queue.is_closed;
            let queue = self.0.changed.wait_while(self.lock(), is_idle);
            let mut queue = queue.unwrap_or_else(PoisonError::into_inner);
            let Some(line) = queue.lines.pop_front() else {
                queue.is_written = true;
                drop(queue);
                return self.0.changed.notify_all();
            };
            let lost_count = std::mem::take(&mut queue.lost);
            drop(queue);
            let _ = out.write_all(&line);
            if lost_count > 0 {
                let _ = out.write_all(lost(lost_count).as_bytes());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Lines(shared) = &self.0;
        self.0.lock().is_closed = true;
        shared.changed.notify_all();
        let is_unwritten = |queue: &mut Queue| !queue.is_written;
        drop(shared.changed.wait_timeout_while(self.0.lock(), END_WAIT_MAX, is_unwritten));
    }
}

impl Write for &Lines {
    /// Takes a whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut queue = self.lock();
        if queue.lines.len() < LINES_MAX {
            queue.lines.push_back(line.to_vec());
            self.0.changed.notify_one();
        } else {
            queue.lost += 1;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A reader that takes a line only when the test allows it.
    struct Slow {
        let_go: mpsc::Receiver<()>,
        written: mpsc::Sender<String>,
    }

    impl Write for Slow {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _ = self.let_go.recv();
            let _ = self.written.send(String::from_utf8(line.to_vec()).unwrap());
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_nobody_reads_are_dropped_and_counted_and_the_rest_is_written_at_the_end() {
        let (go, let_go) = mpsc::channel();
        let (written, writes) = mpsc::channel();
        let out = Slow { let_go, written };
        let (lines, guard) = Lines::start(out, |count| format!("{count} lost")).unwrap();
        // The thread may hold one.
        for number in 0..LINES_MAX + 3 {
            (&lines).write_all(number.to_string().as_bytes()).unwrap();
        }
        drop(go);
        drop(guard);
        let written: Vec<String> = writes.try_iter().collect();
        assert_eq!(written[0], "0");
        let lost: Vec<&String> = written.iter().filter(|line| line.ends_with("lost")).collect();
        let [lost] = lost[..] else { panic!("{lost:?}") };
        let lost: usize = lost.strip_suffix(" lost").unwrap().parse().unwrap();
        assert!((2..=3).contains(&lost), "{lost}");
        assert_eq!(written.len() - 1, LINES_MAX + 3 - lost);
    }
}
