//! Which backends of a service may be used: the checks that ask them.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
};

use futures::{
    Stream, StreamExt,
    future::ready,
    stream::{self, BoxStream},
};
use tinylb_core::{
    BackendSet, BadEntries, CheckSettings, Following, Handle, Publisher, Replacement, SetError,
    Update, WhenNone, publisher,
};
use tinylb_tokio::{Address, Checked, VerdictBoard};

use crate::{config::CheckConfig, log::EventLog};

/// The checks of a service's backends, for as long as their stream is followed.
pub(crate) struct Checks {
    config: CheckConfig,
    dial_from: Vec<IpAddr>,
    board: VerdictBoard,
}

impl Checks {
    /// The backends of `source` that pass. Those that are in force already are used until a check says
    /// otherwise, so that nobody's sessions are cut because checks begin.
    ///
    /// # Errors
    /// Cause and remedy.
    pub(crate) fn begin(
        config: &CheckConfig,
        dial_from: &[IpAddr],
        bad_entries: BadEntries,
        in_force: Option<BackendSet<Address>>,
        events: &Arc<EventLog>,
        source: impl Stream<Item = Update<Address>> + Send + 'static,
    ) -> Result<(Self, impl Stream<Item = Update<Address>> + Send + 'static), String> {
        let checker = config.checker(dial_from)?;
        let mut checked = Checked::new(checker, config.settings.clone())
            .map_err(|error| error.to_string())?
            .with_bad_entries(bad_entries);
        let board = checked.board();
        let (noted, known) = (Arc::clone(events), board.clone());
        checked = checked.on_change(move |change| {
            noted.verdict_changed(known.set().as_ref(), change);
        });
        let (noted, known) = (Arc::clone(events), board.clone());
        checked = checked.on_own_fault(move |target, reason| {
            noted.unasked(known.set().as_ref(), target, reason);
        });
        if let Some(set) = in_force {
            checked = checked.with_in_use(set);
        }
        let checks = Self { config: config.clone(), dial_from: dial_from.into(), board };
        Ok((checks, checked.updates(source)))
    }

    /// What is known of the backends.
    pub(crate) fn board(&self) -> &VerdictBoard {
        &self.board
    }

    /// Asks something else from now on, or at other times. Each verdict stays until the next answers
    /// say otherwise.
    ///
    /// # Errors
    /// Cause and remedy.
    pub(crate) fn change(
        &mut self,
        config: &CheckConfig,
        dial_from: &[IpAddr],
    ) -> Result<(), String> {
        let question = |config: &CheckConfig| CheckConfig {
            settings: CheckSettings::default(),
            ..config.clone()
        };
        let is_other_question =
            question(&self.config) != question(config) || self.dial_from != dial_from;
        if is_other_question {
            let checker = config.checker(dial_from)?;
            self.board.ask(checker);
        }
        if self.config.settings != config.settings {
            let settings = config.settings.clone();
            self.board.configure(settings).map_err(|error| error.to_string())?;
        }
        (self.config, self.dial_from) = (config.clone(), dial_from.into());
        Ok(())
    }
}

/// A table of backends from the configuration or a PUT, of which those that pass are in force.
pub(crate) struct CheckedTable {
    pub(crate) checks: Checks,
    publisher: Publisher<Address>,
    /// The table.
    given: Arc<Mutex<BackendSet<Address>>>,
    /// Those that pass. They outlive the tables.
    passing: Arc<Mutex<Passing>>,
    following: Option<Following>,
}

/// What the checks say, to one follower after the other.
struct Passing {
    updates: BoxStream<'static, Update<Address>>,
    /// The number of the follower whose turn it is. The one before may still be about to poll: it would
    /// take an update along, or the wake-up of the next.
    turn: u64,
}

impl CheckedTable {
    /// Uses those backends of a table that pass. Those that are in force already stay until a check says
    /// otherwise; those that the table lacks are removed.
    ///
    /// # Errors
    /// Cause and remedy.
    pub(crate) fn follow(
        set: BackendSet<Address>,
        check: &CheckConfig,
        dial_from: &[IpAddr],
        handle: &Handle<Address>,
        events: &Arc<EventLog>,
    ) -> Result<Self, String> {
        let (publisher, table) = publisher();
        let (bad_entries, in_force) = (BadEntries::default(), handle.set());
        let (checks, passing) =
            Checks::begin(check, dial_from, bad_entries, in_force, events, table)?;
        let given = Arc::new(Mutex::new(set.clone()));
        let passing = Arc::new(Mutex::new(Passing { updates: passing.boxed(), turn: 0 }));
        let mut table = Self { checks, publisher, given, passing, following: None };
        table.replace(set, handle).map_err(|error| error.to_string())?;
        Ok(table)
    }

    /// The table.
    pub(crate) fn set(&self) -> BackendSet<Address> {
        lock(&self.given).clone()
    }

    /// Puts another table in place of this one. What it lacks is out of force when this returns, whatever
    /// the checks do; what is new is in force once it passes. `None`: nothing is in force yet.
    ///
    /// # Errors
    /// What is wrong with it. Nothing of it took effect.
    pub(crate) fn replace(
        &mut self,
        set: BackendSet<Address>,
        handle: &Handle<Address>,
    ) -> Result<Option<Replacement<Address>>, SetError> {
        handle.validate(&set)?;
        // From here on no set of the table before takes effect, and what the checks still say of that
        // table is passed over.
        self.stop();
        let next = handle.set().map(|in_force| self.that_stay(&in_force, &set));
        *lock(&self.given) = set.clone();
        let turn = self.next_turn();
        self.publisher.publish(set);
        let replaced = next.map(|next| handle.replace(next)).transpose();
        self.following = Some(handle.follow(those_of(&self.passing, turn, &self.given)));
        replaced
    }

    /// What stays in force while the checks haven't seen the new table.
    fn that_stay(
        &self,
        in_force: &BackendSet<Address>,
        table: &BackendSet<Address>,
    ) -> BackendSet<Address> {
        let stays = |(_, target): &(_, &Address)| in_force.keys_of(target).next().is_some();
        let stay = table.iter().filter(stays);
        let stay = BackendSet::new(stay.map(|(key, target)| (key.clone(), target.clone())));
        match stay {
            Ok(stay) if stay.is_empty() && self.when_none() == WhenNone::All => table.clone(),
            // Keys of a table are good.
            stay => stay.unwrap_or_else(|_| BackendSet::empty()),
        }
    }

    /// The number of the next follower, whose turn it is from now on.
    fn next_turn(&self) -> u64 {
        let mut passing = lock(&self.passing);
        passing.turn += 1;
        passing.turn
    }

    /// Follows what passes no more.
    fn stop(&mut self) {
        if let Some(following) = self.following.take() {
            following.stop();
        }
    }

    fn when_none(&self) -> WhenNone {
        self.checks.config.settings.when_none
    }
}

impl Drop for CheckedTable {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What the checks say of the table, while it is this follower's turn. What they still say of the one
/// before is passed over: they are about to see that there is another.
fn those_of(
    passing: &Arc<Mutex<Passing>>,
    turn: u64,
    given: &Arc<Mutex<BackendSet<Address>>>,
) -> impl Stream<Item = Update<Address>> + Send + 'static {
    let (passing, given) = (Arc::clone(passing), Arc::clone(given));
    let updates = stream::poll_fn(move |cx| {
        let mut passing = lock(&passing);
        match passing.turn == turn {
            true => passing.updates.poll_next_unpin(cx),
            false => Poll::Pending,
        }
    });
    updates.filter(move |update| {
        let given = lock(&given);
        ready(match update {
            Update::Set(set) | Update::Partial(set, _) | Update::Narrowed(set) => {
                set.iter().all(|(key, target)| given.get(key.as_str()) == Some(target))
            }
            Update::Lost(_) => true,
        })
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;
    use tinylb_core::{CheckSettings, Server, Settings};
    use tinylb_tokio::{AddressDialer, TcpCheck, TokioRuntime};
    use tokio::{task::yield_now, time::sleep};

    use super::*;

    fn set(keys: &[&str]) -> BackendSet<Address> {
        let backends = keys.iter().map(|key| {
            let port: u16 = key.bytes().map(u16::from).sum();
            (*key, format!("10.0.0.1:{port}").parse().unwrap())
        });
        BackendSet::new(backends).unwrap()
    }

    fn server() -> Server<AddressDialer> {
        let runtime = TokioRuntime::current();
        Server::new(AddressDialer::default(), runtime, Settings::default()).unwrap()
    }

    /// A table, and what the checks say of it.
    fn table(
        given: BackendSet<Address>,
        when_none: WhenNone,
    ) -> (CheckedTable, Publisher<Address>) {
        let mut settings = CheckSettings::default();
        settings.when_none = when_none;
        let board = Checked::new(TcpCheck::new(), settings.clone()).unwrap().board();
        let config = CheckConfig::tcp(settings);
        let checks = Checks { config, dial_from: Vec::new(), board };
        let ((said, passing), (table, _)) = (publisher(), publisher());
        let table = CheckedTable {
            checks,
            publisher: table,
            given: Arc::new(Mutex::new(given)),
            passing: Arc::new(Mutex::new(Passing { updates: passing.boxed(), turn: 0 })),
            following: None,
        };
        (table, said)
    }

    /// Lets the follower have its turns.
    async fn turns() {
        for _ in 0..10 {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_the_checks_said_of_the_table_before_brings_no_removed_backend_back() {
        let server = server();
        let handle = server.handle();
        let (mut table, said) = table(set(&["a", "b"]), WhenNone::Empty);
        assert!(table.replace(set(&["a", "b"]), &handle).unwrap().is_none(), "nothing passes yet");
        said.publish(set(&["a"]));
        turns().await;
        assert_eq!(handle.set(), Some(set(&["a"])));
        // It comes too soon to be taken at once.
        said.publish(set(&["a", "b"]));
        turns().await;
        table.replace(set(&["a"]), &handle).unwrap();
        assert_eq!(handle.set(), Some(set(&["a"])));
        // And this comes too late, as the checks don't know yet.
        said.publish(set(&["a", "b"]));
        sleep(Duration::from_millis(100)).await;
        assert_eq!(handle.set(), Some(set(&["a"])));
        table.replace(set(&["a", "b"]), &handle).unwrap();
        said.publish(set(&["a", "b"]));
        sleep(Duration::from_millis(100)).await;
        assert_eq!(handle.set(), Some(set(&["a", "b"])), "it is in the table again, and passes");
    }

    #[tokio::test]
    async fn a_follower_that_polls_though_it_was_stopped_takes_nothing_from_the_next() {
        let server = server();
        let handle = server.handle();
        let (mut table, said) = table(set(&["a"]), WhenNone::Empty);
        let mut before = Box::pin(those_of(&table.passing, 0, &table.given));
        table.replace(set(&["a", "b"]), &handle).unwrap();
        said.publish(set(&["a", "b"]));
        // It was about to, on another thread.
        assert!(before.next().now_or_never().is_none());
        turns().await;
        assert_eq!(handle.set(), Some(set(&["a", "b"])));
    }

    #[tokio::test]
    async fn of_a_new_table_those_are_used_at_once_that_were_in_use_or_all_if_that_is_the_rule() {
        for (when_none, replaced_by_others) in
            [(WhenNone::Empty, set(&[])), (WhenNone::All, set(&["c"]))]
        {
            let server = server();
            let handle = server.handle();
            drop(handle.replace(set(&["a", "b"])).unwrap());
            let (mut table, _said) = table(set(&["a", "b"]), when_none);
            let mut replaced = table.replace(set(&["b", "c"]), &handle).unwrap().unwrap();
            assert_eq!(handle.set(), Some(set(&["b"])));
            assert_eq!(replaced.report().removed.len(), 1);
            (&mut replaced).await;
            drop(table.replace(set(&["c"]), &handle).unwrap());
            assert_eq!(handle.set(), Some(replaced_by_others));
            let bad = BackendSet::new([("x", "224.0.0.1:1".parse().unwrap())]).unwrap();
            assert!(table.replace(bad, &handle).is_err());
            assert_eq!(table.set(), set(&["c"]));
        }
    }
}
