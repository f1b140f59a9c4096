//! A source whose backends are checked, as [`Verdicts`] decides: the twin of the adapter's `Checked`.
//! The scenario decides what a check finds.

use std::{
    iter, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    FutureExt, Stream, StreamExt,
    channel::mpsc::UnboundedReceiver,
    future::{BoxFuture, Either, pending, select},
    stream::FuturesUnordered,
};
use tinylb_core::{Answer, Check, CheckId, CheckSettings, Runtime, Update, Verdicts};

use super::{World, judge::LinkFault};
use crate::scenario::{Config, Place, Reply};

/// A check that is under way.
struct Running {
    id: CheckId,
    place: Place,
    check: BoxFuture<'static, Reply>,
}

impl Future for Running {
    type Output = (CheckId, Place, Reply);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (id, place) = (self.id, self.place);
        self.check.poll_unpin(cx).map(|reply| (id, place, reply))
    }
}

/// Does what [`Verdicts`] decides: asks backends, and passes the sets on.
pub(super) struct Checked<R> {
    source: UnboundedReceiver<Update<Place>>,
    verdicts: Verdicts<Place>,
    running: FuturesUnordered<Running>,
    /// Rings when there may be something to do although neither an update nor an answer comes.
    alarm: Option<(Duration, BoxFuture<'static, ()>)>,
    /// Whether checks of backends that have left go on.
    lingers: bool,
    world: World,
    runtime: Arc<R>,
    clock: Box<dyn Fn() -> u64 + Send>,
}

impl<R: Runtime> Checked<R> {
    /// `clock`: the balancer's own, as [`World`] knows it.
    pub(super) fn new(
        source: UnboundedReceiver<Update<Place>>,
        (config, settings): (&Config, CheckSettings),
        world: World,
        runtime: R,
        clock: impl Fn() -> u64 + Send + 'static,
    ) -> Self {
        Self {
            source,
            verdicts: Verdicts::new(settings, config.source_settings().bad_entries),
            running: FuturesUnordered::new(),
            alarm: None,
            lingers: config.checks_linger == 1,
            world,
            runtime: Arc::new(runtime),
            clock: Box::new(clock),
        }
    }

    /// Takes what has come: answers, and the source's update. Returns whether there was anything.
    fn take(&mut self, cx: &mut Context<'_>) -> bool {
        let mut has_come = false;
        while let Poll::Ready(Some((id, place, reply))) = self.running.poll_next_unpin(cx) {
            self.world.judge().check_answered((self.clock)(), id, place, reply);
            self.verdicts.answered(self.runtime.now(), id, answer_of(reply));
            has_come = true;
        }
        let Poll::Ready(Some(update)) = self.source.poll_next_unpin(cx) else { return has_come };
        self.world.judge().source_gives((self.clock)(), &update);
        self.verdicts.update(self.runtime.now(), update);
        if !self.lingers {
            self.give_up();
        }
        true
    }

    /// Gives up the checks of backends that have left.
    fn give_up(&mut self) {
        for check in mem::take(&mut self.running) {
            if self.verdicts.is_wanted(check.id) {
                self.running.push(check);
                continue;
            }
            self.world.judge().check_given_up((self.clock)(), check.id, check.place);
            let now = self.runtime.now();
            self.verdicts.answered(now, check.id, Answer::None("the backend has left".into()));
        }
    }

    /// Begins the checks that are due, and returns what is to be passed on.
    fn act(&mut self) -> Option<Update<Place>> {
        self.world.judge().verdicts_asked((self.clock)());
        let now = self.runtime.now();
        let within = self.verdicts.settings().timeout;
        let checks: Vec<_> = iter::from_fn(|| self.verdicts.start(now)).collect();
        for Check { id, target } in checks {
            self.world.judge().check_started((self.clock)(), id, target);
            let (world, runtime) = (self.world.clone(), Arc::clone(&self.runtime));
            let check = check(world, runtime, target, within).boxed();
            self.running.push(Running { id, place: target, check });
        }
        // A log is all that wants to know.
        drop(self.verdicts.take_changes());
        self.verdicts.next(now)
    }

    /// Whether it is time for something. If not, the task is woken when it is.
    fn is_due(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(due) = self.verdicts.due() else { return false };
        let alarm = match self.alarm.take() {
            Some((at, alarm)) if at == due => alarm,
            _ => self.runtime.sleep(due.saturating_sub(self.runtime.now())),
        };
        let (_, alarm) = self.alarm.insert((due, alarm));
        alarm.poll_unpin(cx).is_ready()
    }
}

impl<R: Runtime> Stream for Checked<R> {
    type Item = Update<Place>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Update<Place>>> {
        let this = self.get_mut();
        loop {
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

/// What a check that begins now finds within this time.
async fn check<R: Runtime>(world: World, runtime: Arc<R>, place: Place, within: Duration) -> Reply {
    let (reply, after) = world.judge().cues().reply(place);
    let ask = async {
        if after > 0 {
            runtime.sleep(Duration::from_millis(u64::from(after))).await;
        }
        let met = world.judge().met_by_check(place);
        match met {
            None => reply,
            Some(LinkFault::Down) => Reply::Nothing,
            Some(_) => pending().await,
        }
    };
    match select(ask.boxed(), runtime.sleep(within)).await {
        Either::Left((reply, _)) => reply,
        Either::Right(_) => Reply::Nothing,
    }
}

fn answer_of(reply: Reply) -> Answer {
    match reply {
        Reply::Pass => Answer::Pass,
        Reply::No => Answer::Fail("no".into()),
        Reply::Nothing => Answer::None("no answer".into()),
    }
}
