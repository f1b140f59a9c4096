use std::{
    iter, mem,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{
    FutureExt, Stream, StreamExt,
    future::BoxFuture,
    stream::{BoxStream, Fuse, FuturesUnordered},
};
use tinylb_core::{Answer, Check, CheckId, Update};
use tokio::time::{Sleep, sleep_until, timeout};

use super::{Checker, Observers, VerdictBoard};
use crate::Address;

/// A check that is under way.
struct Running {
    id: CheckId,
    target: Address,
    check: BoxFuture<'static, Answer>,
}

impl Future for Running {
    type Output = (CheckId, Address, Answer);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(self.check.poll_unpin(cx));
        Poll::Ready((self.id, self.target.clone(), answer))
    }
}

/// Does what [`Verdicts`](tinylb_core::Verdicts) decides: asks backends, and passes the sets on.
pub(super) struct Driver {
    source: Fuse<BoxStream<'static, Update<Address>>>,
    /// The end of the source has been reported.
    has_ended: bool,
    checker: Arc<dyn Checker>,
    running: FuturesUnordered<Running>,
    /// Rings when there may be something to do though nobody says anything. Made by the first poll:
    /// before, there need not be a runtime.
    alarm: Option<Pin<Box<Sleep>>>,
    observers: Observers,
    board: VerdictBoard,
}

impl Driver {
    pub(super) fn new(
        source: impl Stream<Item = Update<Address>> + Send + 'static,
        checker: Arc<dyn Checker>,
        observers: Observers,
        board: VerdictBoard,
    ) -> Self {
        Self {
            source: source.boxed().fuse(),
            has_ended: false,
            checker,
            running: FuturesUnordered::new(),
            alarm: None,
            observers,
            board,
        }
    }

    /// Takes what has come: answers, and what the source says. Returns whether there was anything.
    fn take(&mut self, cx: &mut Context<'_>) -> bool {
        let mut has_come = false;
        // Checks that have just begun need their first poll, and answers that come together make one
        // set.
        while let Poll::Ready(Some((id, target, answer))) = self.running.poll_next_unpin(cx) {
            if let Answer::Ours(reason) = &answer {
                (self.observers.on_own_fault)(&target, reason);
            }
            self.board.decide(|verdicts, now| verdicts.answered(now, id, answer));
            has_come = true;
        }
        let update = match self.source.poll_next_unpin(cx) {
            Poll::Ready(Some(update)) => update,
            Poll::Ready(None) if !self.has_ended => {
                self.has_ended = true;
                Update::Lost("the source has ended".into())
            }
            Poll::Ready(None) | Poll::Pending => return has_come,
        };
        let set = self.board.decide(|verdicts, now| {
            verdicts.update(now, update);
            verdicts.inner().cloned()
        });
        self.give_up();
        if let Some(set) = set {
            self.checker.retain(&set);
        }
        true
    }

    /// Gives up the checks of backends that have left.
    fn give_up(&mut self) {
        let running = mem::take(&mut self.running);
        let none = || Answer::None("the backend has left".into());
        let stays = |check: &Running| {
            self.board.decide(|verdicts, now| {
                let is_wanted = verdicts.is_wanted(check.id);
                if !is_wanted {
                    verdicts.answered(now, check.id, none());
                }
                is_wanted
            })
        };
        self.running = running.into_iter().filter(stays).collect();
    }

    /// Begins the checks that are due, reports what has changed, and returns what is to be passed on.
    fn act(&mut self) -> Option<Update<Address>> {
        let (checks, within, changes, update) = self.board.decide(|verdicts, now| {
            let checks: Vec<_> = iter::from_fn(|| verdicts.start(now)).collect();
            let within = verdicts.settings().timeout;
            (checks, within, verdicts.take_changes(), verdicts.next(now))
        });
        for check in checks {
            self.begin(check, within);
        }
        changes.iter().for_each(|change| (self.observers.on_change)(change));
        update
    }

    /// Asks what this checker asks, and no longer what another one asked.
    fn ask(&mut self, checker: Arc<dyn Checker>) {
        self.checker = checker;
        self.running.clear();
        self.board.decide(|verdicts, now| verdicts.ask_anew(now));
    }

    fn begin(&self, Check { id, target }: Check<Address>, within: Duration) {
        let (checker, asked) = (Arc::clone(&self.checker), target.clone());
        let check = async move {
            let check = AssertUnwindSafe(checker.check(&asked, within)).catch_unwind();
            match timeout(within, check).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Answer::None("the check panicked".into()),
                Err(_) => Answer::None(format!("no answer within {within:?}").into()),
            }
        };
        self.running.push(Running { id, target, check: check.boxed() });
    }

    /// Whether it is time for something. If not, the task is woken when it is.
    fn is_due(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(due) = self.board.due() else { return false };
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if alarm.deadline() != due {
            alarm.as_mut().reset(due);
        }
        alarm.poll_unpin(cx).is_ready()
    }
}

impl Stream for Driver {
    type Item = Update<Address>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Update<Address>>> {
        let this = self.get_mut();
        loop {
            if let Some(checker) = this.board.new_checker(cx) {
                this.ask(checker);
            }
            if let Some(update) = this.act() {
                return Poll::Ready(Some(update));
            }
            let has_come = this.take(cx);
            if !has_come && !this.is_due(cx) {
                return Poll::Pending;
            }
        }
    }
}
