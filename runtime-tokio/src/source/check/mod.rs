//! Checks: a source of those backends of another source that may be used.
//!
//! - `driver.rs`: lets [`Verdicts`](tinylb_core::Verdicts) decide, and does the I/O.
//! - `board.rs`: the newest verdicts, for anybody to read.
//! - `http/`, `tcp.rs`: the checkers; `words.rs`: how they put an error.

mod board;
mod driver;
mod http;
mod tcp;
mod words;

use std::{io, num::NonZeroU16, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::Stream;
use tinylb_core::{
    Answer, BackendSet, BadEntries, CheckSettings, Fault, SettingsError, Update, VerdictChange,
    Verdicts,
};

use self::driver::Driver;
#[cfg(feature = "tls")]
pub use self::http::{CheckTls, CheckTlsError};
use self::words::words;
pub use self::{
    board::VerdictBoard,
    http::{HttpCheck, HttpCheckError},
    tcp::TcpCheck,
};
use crate::{Address, TcpTarget, fault::fault};

/// Asks backends whether they may be used.
#[async_trait]
pub trait Checker: Send + Sync + 'static {
    /// Asks this backend. [`Checked`] asks several backends at a time, and each by one call at a time.
    ///
    /// Give [`Answer::Ours`] if the backend couldn't be asked, say for lack of a descriptor.
    ///
    /// # Cancellation
    /// The future is dropped `within` that time, which counts as no answer. So it has to return
    /// earlier if it knows the answer.
    async fn check(&self, target: &Address, within: Duration) -> Answer;

    /// These are the backends from now on: drop what is kept for any other. Does nothing by default.
    fn retain(&self, _set: &BackendSet<Address>) {}
}

#[async_trait]
impl<C: Checker + ?Sized> Checker for Box<C> {
    async fn check(&self, target: &Address, within: Duration) -> Answer {
        (**self).check(target, within).await
    }

    fn retain(&self, set: &BackendSet<Address>) {
        (**self).retain(set);
    }
}

/// A source of sets around another source: it asks every backend of that source, and reports those
/// that pass. When a backend no longer passes, a server that follows it cuts the backend's sessions,
/// as if the backend had been removed.
///
/// [`Verdicts`] decides, and [`CheckSettings`] says how: when each backend is asked, how many answers
/// it takes, and what becomes of the set if no backend passes. Choose
/// [`WhenNone::Empty`](tinylb_core::WhenNone::Empty) if the check asks for a role, such as the
/// primary of a database: then nobody may be used unless a check says so. Choose
/// [`WhenNone::All`](tinylb_core::WhenNone::All) if it asks for liveness: if nothing passes, then the
/// fault is most likely on this side.
///
/// The checks delay nothing that the other source says: what it removes is removed at once, and its
/// losses are passed on. During a loss the checks go on, with the last set.
///
/// Put this around [`restarting`](crate::restarting), not inside it: the verdicts then outlive a
/// restart of the other source.
///
/// ```no_run
/// # use tinylb_core::{CheckSettings, Handle, WhenNone};
/// # use tinylb_tokio::Address;
/// # #[cfg(feature = "file")]
/// # fn follow(handle: &Handle<Address>) -> Result<(), Box<dyn std::error::Error>> {
/// use tinylb_tokio::{Checked, FileSource, HttpCheck, restarting};
///
/// // Patroni's REST API answers 200 at the primary, and 503 elsewhere.
/// let is_primary = HttpCheck::new("/primary")?.with_port(8008.try_into()?);
/// let checked = Checked::new(is_primary, CheckSettings::default())?
///     .on_change(|change| println!("{change:?}"));
/// let board = checked.board();
/// handle.follow(checked.updates(restarting(|| FileSource::new("backends.toml").updates())));
/// for verdict in board.verdicts() {
///     println!("{verdict:?}");
/// }
/// # Ok(())
/// # }
/// ```
pub struct Checked {
    checker: Arc<dyn Checker>,
    settings: CheckSettings,
    observers: Observers,
    board: VerdictBoard,
    in_use: Option<BackendSet<Address>>,
}

/// What is called when something happens that a log may want.
struct Observers {
    on_change: Box<OnChange>,
    on_own_fault: Box<OnOwnFault>,
}

type OnChange = dyn Fn(&VerdictChange<Address>) + Send + Sync;
type OnOwnFault = dyn Fn(&Address, &str) + Send + Sync;

impl Checked {
    /// Checks by this checker.
    ///
    /// # Errors
    /// A setting is out of its range.
    pub fn new(checker: impl Checker, settings: CheckSettings) -> Result<Self, SettingsError> {
        settings.validate()?;
        let verdicts = Verdicts::new(settings.clone(), BadEntries::default());
        Ok(Self {
            checker: Arc::new(checker),
            settings,
            observers: Observers { on_change: Box::new(|_| {}), on_own_fault: Box::new(|_, _| {}) },
            board: VerdictBoard::new(verdicts),
            in_use: None,
        })
    }

    /// What becomes of sets with bad entries. Give the same as in the
    /// [`SourceSettings`](tinylb_core::SourceSettings) of the server that follows:
    /// [`BadEntries::Reject`] by default.
    #[must_use]
    pub fn with_bad_entries(self, bad_entries: BadEntries) -> Self {
        let verdicts = Verdicts::new(self.settings.clone(), bad_entries);
        self.board.decide(|before, _| *before = verdicts);
        self
    }

    /// Sets a function that is called when a backend begins or ceases to pass, before the set that
    /// follows from it. It must not block.
    #[must_use]
    pub fn on_change(
        mut self,
        observe: impl Fn(&VerdictChange<Address>) + Send + Sync + 'static,
    ) -> Self {
        self.observers.on_change = Box::new(observe);
        self
    }

    /// Sets a function that is called whenever a backend couldn't be asked through our own fault
    /// ([`Answer::Ours`]), with the reason. Its verdict stays as it is. It must not block.
    #[must_use]
    pub fn on_own_fault(
        mut self,
        observe: impl Fn(&Address, &str) + Send + Sync + 'static,
    ) -> Self {
        self.observers.on_own_fault = Box::new(observe);
        self
    }

    /// These backends are in use already: each is used until a check says otherwise, as long as the
    /// source names it ([`Verdicts::assume`]). Give the set in force if you begin to check, or follow
    /// another source, while sessions go on. By default, no backend is used before it passes.
    #[must_use]
    pub fn with_in_use(mut self, set: BackendSet<Address>) -> Self {
        self.in_use = Some(set);
        self
    }

    /// What it knows, also while it runs. It can be given something else to ask.
    pub fn board(&self) -> VerdictBoard {
        self.board.clone()
    }

    /// The sets and losses, without end. If the other source ends, that is a loss.
    ///
    /// The stream runs on the tokio runtime that polls it, whose time and I/O must be enabled. Nothing
    /// happens unless it is polled. All checks end when it is dropped.
    ///
    /// A checker that panics has given no answer. If `source` panics, so does this stream.
    pub fn updates(
        self,
        source: impl Stream<Item = Update<Address>> + Send + 'static,
    ) -> impl Stream<Item = Update<Address>> + Send + 'static {
        if let Some(set) = self.in_use {
            self.board.decide(|verdicts, _| verdicts.assume(set));
        }
        Driver::new(source, self.checker, self.observers, self.board)
    }
}

/// What it says of a backend that it can't be dialled.
fn undialled(error: &io::Error, is_refusal_no: bool) -> Answer {
    let reason = words(error).into();
    match fault(error) {
        Fault::Ours => Answer::Ours(reason),
        Fault::Refused if is_refusal_no => Answer::Fail(reason),
        _ => Answer::None(reason),
    }
}

/// Where a backend is asked.
///
/// # Errors
/// The backend has no ports.
fn at_port(target: &Address, port: Option<NonZeroU16>) -> Result<Address, String> {
    match (target, port) {
        (target, None) => Ok(target.clone()),
        (Address::Tcp(TcpTarget { host, .. }), Some(port)) => {
            Ok(Address::Tcp(TcpTarget { host: host.clone(), port: port.get() }))
        }
        (Address::Unix(_), Some(port)) => {
            Err(format!("a Unix socket has no port {port}: check it without a port"))
        }
    }
}

#[cfg(test)]
mod tests;
