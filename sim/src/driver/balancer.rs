//! The balancer that ships, and the orders that it follows.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use futures::{
    StreamExt,
    channel::mpsc::{UnboundedSender, unbounded},
};
use tinylb_core::{BackendSet, BadEntry, Event, Handle, Runtime, Server, Update};

use super::{
    Fabric, Spot, World,
    checked::Checked,
    orders::{LOST, Order},
    tap::TapListener,
    tap_dialer::TapDialer,
};
use crate::{
    Law,
    scenario::{Config, Place, set_of},
};

/// Runs the balancer of a scenario on this host, for ever. The run has one thread: this, the
/// clients and the backends.
pub async fn balance<F: Fabric>(world: World, fabric: F) {
    let config = world.scenario().config.clone();
    let runtime = fabric.runtime();
    let fabric = Arc::new(fabric);
    let inner = match fabric.listen(Spot::Front).await {
        Ok(listener) => listener,
        Err(error) => {
            return world.fail(Law::Simulation, format!("the balancer can't listen: {error}"));
        }
    };
    let clock = clock(&world, runtime.clone());
    let dialer = TapDialer {
        inner: fabric.dialer(),
        fabric: Arc::clone(&fabric),
        world: world.clone(),
        clock: Arc::new(clock.clone()),
    };
    let server = Server::with_observer(dialer, runtime.clone(), config.settings(), {
        let (world, clock) = (world.clone(), clock.clone());
        move |_, event| observe(&world, clock(), event)
    });
    let server = match server {
        Ok(server) => server,
        Err(error) => return world.fail(Law::Simulation, format!("bad settings: {error}")),
    };
    let handle = server.handle();
    world.set_handle(handle.clone());
    let relay = fabric.relay(config.buffer as usize);
    let listener = TapListener { inner, world: world.clone() };
    let listening = server.listen(listener, relay, runtime.clone());
    runtime.spawn(Box::pin({
        let world = world.clone();
        async move {
            if let Err(error) = listening.await {
                world.fail(Law::Accept, format!("the listener died: {error}"));
            }
        }
    }));
    let source = (config.source == 1).then(|| {
        let (source, updates) = unbounded();
        let world = world.clone();
        let updates = match config.check_settings() {
            None => updates.left_stream(),
            Some(settings) => {
                let checks = (&config, settings);
                Checked::new(updates, checks, world.clone(), runtime.clone(), clock.clone())
                    .right_stream()
            }
        };
        let updates = updates.inspect({
            let (world, clock) = (world.clone(), clock.clone());
            move |update| {
                let now = clock();
                world.judge().hears(now, update);
            }
        });
        if let Err(error) = handle.follow_with(updates, config.source_settings()) {
            world.fail(Law::Simulation, format!("bad settings: {error}"));
        }
        source
    });
    let clock = Box::new(clock);
    let mut control = Control { world: world.clone(), handle, runtime, source, config, clock };
    let Some(mut orders) = world.take_orders() else { return };
    while let Some(order) = orders.next().await {
        control.follow(order).await;
    }
}

/// The balancer's own clock: microseconds since the beginning.
fn clock<R: Runtime + Clone>(
    world: &World,
    runtime: R,
) -> impl Fn() -> u64 + Clone + Send + Sync + use<R> {
    let began = (runtime.now().as_micros() as u64).saturating_sub(world.judge().at());
    move || (runtime.now().as_micros() as u64).saturating_sub(began)
}

fn observe(world: &World, now: u64, event: &Event<Place>) {
    // The server would go on without a word.
    let judged = catch_unwind(AssertUnwindSafe(|| world.judge().event(now, event)));
    if judged.is_err() {
        world.fail(Law::Simulation, format!("the judge panics at {event:?}"));
    }
}

/// Gives the balancer its orders.
struct Control<R> {
    world: World,
    handle: Handle<Place>,
    runtime: R,
    /// What the source says, if the scenario has one.
    source: Option<UnboundedSender<Update<Place>>>,
    config: Config,
    clock: Box<dyn Fn() -> u64 + Send>,
}

impl<R: Runtime> Control<R> {
    async fn follow(&mut self, order: Order) {
        match order {
            Order::Replace(sets) => {
                for set in &sets {
                    match &self.source {
                        None => self.replace(set_of(set), false),
                        Some(_) => {
                            self.say(Update::Set(set_of(set)));
                            // A follower that is quick sees two sets, and not only the second.
                            give_way().await;
                        }
                    }
                }
            }
            Order::Confirm => {
                if let Some(set) = self.handle.snapshot().set {
                    self.replace(set, true);
                }
            }
            Order::LoseSource => self.say(Update::Lost(LOST.into())),
            Order::Spoil(set) => {
                let entry = BadEntry { key: "no-backend".into(), reason: LOST.into() };
                self.say(Update::Partial(set_of(&set), [entry].into()));
            }
            Order::Drain(time) => {
                self.config.drain = time;
                self.configure();
                self.world.judge().drains(time);
            }
            Order::Ejection(is_on) => {
                self.config.ejection = u32::from(is_on);
                self.world.judge().set_ejection((self.clock)(), is_on);
                self.configure();
            }
            Order::Set(setting, value) => {
                self.config.set(setting, value);
                self.settings_change();
            }
            Order::SetBack => {
                self.config.set_all(&self.world.scenario().config);
                self.settings_change();
            }
            Order::ResetCycle => {
                self.handle.reset_cycle();
                self.world.judge().reset_cycle();
            }
            Order::Shutdown(grace) => {
                self.world.judge().closing(grace);
                let shutdown = self.handle.shutdown(Duration::from_millis(u64::from(grace)));
                let world = self.world.clone();
                self.runtime.spawn(Box::pin(async move {
                    shutdown.await;
                    world.judge().shut_down();
                }));
            }
        }
    }

    fn settings_change(&self) {
        self.world.judge().settings_change((self.clock)(), &self.config);
        self.configure();
    }

    fn configure(&self) {
        if let Err(error) = self.handle.configure(self.config.settings()) {
            self.world.fail(Law::Simulation, format!("bad settings: {error}"));
        }
    }

    /// The source says something, if there is one.
    fn say(&self, update: Update<Place>) {
        if let Some(source) = &self.source {
            let _ = source.unbounded_send(update);
        }
    }

    fn replace(&self, set: BackendSet<Place>, is_confirmation: bool) {
        let replacement = match self.handle.replace(set) {
            Ok(replacement) => replacement,
            Err(error) => {
                return self.world.fail(Law::Order, format!("a good set was rejected: {error}"));
            }
        };
        let report = replacement.report();
        let generation = report.generation.number();
        if !report.is_change {
            self.world.judge().repeated(generation, is_confirmation);
        }
        let world = self.world.clone();
        self.runtime.spawn(Box::pin(async move {
            replacement.await;
            world.judge().applied(generation);
        }));
    }
}

/// Lets other tasks go on.
async fn give_way() {
    let mut has_waited = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
