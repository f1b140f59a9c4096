//! What an observer saw, as text.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
    task::{Poll, Waker},
    time::Duration,
};

use tinylb_contract::pipe::PipeTarget;
use tinylb_core::{Event, Handle, Snapshot};
use tokio::time::Instant;

/// One event, as text.
#[derive(Clone, Debug)]
pub struct Entry {
    pub number: u64,
    /// Since the test began.
    pub at: Duration,
    pub session: Option<u64>,
    pub text: String,
}

/// The events of a server. Clones are the same log.
#[derive(Clone)]
pub struct Log(Arc<LogShared>);

struct LogShared {
    began: Instant,
    handle: OnceLock<Handle<PipeTarget>>,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    all: Vec<Entry>,
    /// Moments at which the server's numbers didn't add up.
    wrong: Vec<String>,
    wakers: Vec<Waker>,
}

impl Log {
    pub(super) fn new() -> Self {
        Self(Arc::new(LogShared {
            began: Instant::now(),
            handle: OnceLock::new(),
            entries: Mutex::default(),
        }))
    }

    pub(super) fn note(
        &self,
        number: u64,
        event: &Event<PipeTarget>,
        snapshot: &Snapshot<PipeTarget>,
    ) {
        let at = self.0.began.elapsed();
        let (session, text) = describe(event);
        let mut entries = self.entries();
        if snapshot.accepted != snapshot.live as u64 + snapshot.ended.sum() {
            entries.wrong.push(format!("accepted != live + ended at {number}: {text}"));
        }
        entries.all.push(Entry { number, at, session, text });
        std::mem::take(&mut entries.wakers).into_iter().for_each(Waker::wake);
    }

    /// The server whose events these are.
    pub(super) fn set_handle(&self, handle: Handle<PipeTarget>) {
        assert!(self.0.handle.set(handle).is_ok());
    }

    pub(super) fn handle(&self) -> &Handle<PipeTarget> {
        self.0.handle.get().expect("events come after the handle")
    }

    /// Something is wrong that the server doesn't show.
    pub(super) fn complain(&self, what: String) {
        self.entries().wrong.push(what);
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.entries.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    pub fn all(&self) -> Vec<Entry> {
        self.entries().all.clone()
    }

    /// What happened to one session after its acceptance, without times.
    pub fn of(&self, session: u64) -> Vec<String> {
        let of = self.all().into_iter().filter(|entry| entry.session == Some(session));
        of.skip(1).map(|entry| entry.text).collect()
    }

    /// What happened to one session after its acceptance: milliseconds and text.
    pub fn timed(&self, session: u64) -> Vec<String> {
        let of = self.all().into_iter().filter(|entry| entry.session == Some(session));
        of.skip(1).map(|entry| format!("{} {}", entry.at.as_millis(), entry.text)).collect()
    }

    /// The events that begin like this, in their order.
    pub fn like(&self, beginning: &str) -> Vec<Entry> {
        self.all().into_iter().filter(|entry| entry.text.starts_with(beginning)).collect()
    }

    /// The texts of these.
    pub fn texts(&self, beginning: &str) -> Vec<String> {
        self.like(beginning).into_iter().map(|entry| entry.text).collect()
    }

    /// The milliseconds of these.
    pub fn times(&self, beginning: &str) -> Vec<u128> {
        self.like(beginning).into_iter().map(|entry| entry.at.as_millis()).collect()
    }

    /// Ready when so many events begin like this.
    pub async fn until(&self, beginning: &str, count: usize) {
        poll_fn(|cx| {
            let mut entries = self.entries();
            let is = |entry: &&Entry| entry.text.starts_with(beginning);
            if entries.all.iter().filter(is).count() >= count {
                return Poll::Ready(());
            }
            entries.wakers.push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// What holds for the events of any server.
    pub(super) fn check(&self) {
        let entries = self.entries();
        assert!(entries.wrong.is_empty(), "{:?}", entries.wrong);
        let mut state: BTreeMap<u64, &str> = BTreeMap::new();
        for (place, Entry { number, session, text, .. }) in entries.all.iter().enumerate() {
            assert_eq!(*number, place as u64, "the events are numbered one after the other");
            let Some(session) = session else { continue };
            let word = text.split(' ').next().unwrap_or_default();
            let may_follow: &[&str] = match word {
                "accepted" => &[""],
                "admitted" => &["accepted", "failed"],
                "dial" => &["admitted"],
                "failed" => &["dial", "admitted"],
                "connected" => &["dial"],
                "half-closed" => &["connected"],
                _ => &["accepted", "admitted", "dial", "failed", "connected", "half-closed"],
            };
            let before = state.insert(*session, word).unwrap_or_default();
            assert!(may_follow.contains(&before), "session {session}: {word} after {before:?}");
        }
    }
}

fn describe(event: &Event<PipeTarget>) -> (Option<u64>, String) {
    match event {
        Event::Accepted { id, listener, peer } => {
            (Some(id.serial()), format!("accepted by {listener} from {peer}"))
        }
        Event::Admitted { id, pick } => {
            (Some(id.serial()), format!("admitted {}={}", pick.key, pick.target))
        }
        Event::DialStarted { id, pick } => (Some(id.serial()), format!("dial {}", pick.key)),
        Event::DialFailed { id, pick, failure } => {
            (Some(id.serial()), format!("failed {}: {failure}", pick.key))
        }
        Event::Ejected { target, fault } => (None, format!("ejected {target}: {fault}")),
        Event::Probed { target, failure: None } => (None, format!("probed {target}")),
        Event::Probed { target, failure: Some(failure) } => {
            (None, format!("probed {target}: {failure}"))
        }
        Event::Returned { target, ejected_for } => {
            (None, format!("returned {target} after {}", ejected_for.as_millis()))
        }
        Event::Connected { id, pick } => (Some(id.serial()), format!("connected {}", pick.key)),
        Event::HalfClosed { id, by } => (Some(id.serial()), format!("half-closed by {by}")),
        Event::Ended { id, reason, bytes_to_backend, bytes_to_client, .. } => {
            let text = format!("ended {reason} {bytes_to_backend}/{bytes_to_client}");
            (Some(id.serial()), text)
        }
        Event::SetReplaced { report, .. } => (None, format!("set {}", report.generation)),
        Event::SourceLost { reason, .. } => (None, format!("lost: {reason}")),
        Event::SourceBack { lost_for } => (None, format!("back after {lost_for:?}")),
        Event::SourceStale { reason } => (None, format!("stale: {reason}")),
        Event::SetHeld(held) => (None, format!("held: {} of {}", held.removed, held.targets)),
        Event::EntriesLeftOut(entries) => {
            let texts: Vec<_> = entries.iter().map(ToString::to_string).collect();
            (None, format!("without: {}", texts.join(", ")))
        }
        Event::AcceptFailed { listener, pause, .. } => {
            (None, format!("accept failed on {listener}, pause {pause:?}"))
        }
        other => (None, format!("{other:?}")),
    }
}
