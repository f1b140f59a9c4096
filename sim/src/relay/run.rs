//! One run: the steps, what happens by itself, and the relay, in an order that the seed decides.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use tinylb_core::{Ends, Progress, Relay, RelayError, Side, SocketRelay, Splice};

use super::{
    Happening, Operation, Scenario,
    judge::{self, End},
    kernel::Kernel,
    socket::{ModelConn, ModelSocket, System},
};
use crate::{Entropy, Law, Outcome, Seeded, Sometimes, trace::Note};

/// A task that is polled this often without any reason runs in a circle.
const POLLS_MAX: u32 = 3;

/// How often a session may look again once nothing else happens.
const SLEEPS_MAX: u32 = 5;

/// Runs a scenario; `keep_trace`: with the records of what happened.
pub fn run(scenario: &Scenario, keep_trace: bool) -> Outcome {
    let system = System::new(Kernel::new(scenario.config, scenario.seed, keep_trace));
    let mut session = Session::new(scenario, system.clone());
    let relay = session.relay();
    session.serve(&relay);
    judge::pipes(&mut system.lock(), relay.pipes_lent());
    drop(relay);
    judge::left(&mut system.lock());
    let mut kernel = system.lock();
    Outcome {
        violations: std::mem::take(&mut kernel.violations),
        steps: kernel.now,
        simulated: kernel.now,
        counts: kernel.counts.clone(),
        trace: kernel.trace.clone(),
    }
}

struct Session<'a> {
    scenario: &'a Scenario,
    system: System,
    random: Seeded,
    /// The next step, and how much is still to happen before it.
    step: usize,
    wait: u32,
    is_healed: bool,
    woken: Arc<Woken>,
    polls_in_vain: u32,
    reasons_seen: u64,
    /// How often the session has slept while nothing else happened.
    sleeps: u32,
}

/// Whether the task is to be polled.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What came of a future.
enum Driven<T> {
    Ready(T),
    Killed,
    /// It waits, and nothing more happens.
    Idle,
}

impl<'a> Session<'a> {
    fn new(scenario: &'a Scenario, system: System) -> Self {
        Self {
            scenario,
            system,
            random: Seeded::for_purpose(scenario.seed, 2),
            step: 0,
            wait: scenario.steps.first().map_or(0, |step| step.after),
            is_healed: false,
            woken: Arc::new(Woken(AtomicBool::new(true))),
            polls_in_vain: 0,
            reasons_seen: 0,
            sleeps: 0,
        }
    }

    fn relay(&self) -> SocketRelay<ModelSocket> {
        let splice = match self.scenario.config.splice {
            0 => Splice::Never,
            1 => Splice::Hot,
            _ => Splice::Always,
        };
        SocketRelay::new(splice, self.scenario.config.pipes as usize)
    }

    /// The session as the server has it, from its connection to its end.
    fn serve(&mut self, relay: &SocketRelay<ModelSocket>) {
        let mut ends = Ends::new(self.system.conn(Side::Client));
        let mut backend = self.system.conn(Side::Backend);
        let progress = Progress::default();
        let end = self.move_bytes(relay, &mut ends.client, &mut backend, &progress);
        ends.backend = Some(backend);
        let end = match end {
            End::Failed(side) => {
                let conn = match (side, &mut ends.backend) {
                    (Side::Client, Some(backend)) => backend,
                    _ => &mut ends.client,
                };
                let system = self.system.clone();
                match self.drive(pin!(tinylb_core::confirmed(conn, &system)), &progress) {
                    Driven::Ready(()) => end,
                    Driven::Idle => {
                        self.system.lock().fail(Law::Progress, || {
                            format!("the {side} failed, and a delivery is never confirmed")
                        });
                        End::Killed
                    }
                    Driven::Killed => End::Killed,
                }
            }
            end => end,
        };
        match end {
            End::Finished => ends.complete(),
            _ => ends.take_back(&progress),
        }
        judge::counts(&mut self.system.lock(), end, &progress);
        drop(ends);
        self.heal();
        while self.system.lock().act_by_itself() {}
        judge::end(&mut self.system.lock(), end);
    }

    fn move_bytes(
        &mut self,
        relay: &SocketRelay<ModelSocket>,
        client: &mut ModelConn,
        backend: &mut ModelConn,
        progress: &Progress,
    ) -> End {
        let relaying = pin!(relay.relay(client, backend, progress));
        let driven = self.drive(relaying, progress);
        let mut kernel = self.system.lock();
        match driven {
            Driven::Ready(Ok(())) => {
                kernel.note(Happening::Finished);
                End::Finished
            }
            Driven::Ready(Err(RelayError { side, .. })) => {
                kernel.note(Happening::Failed(side.into()));
                End::Failed(side)
            }
            Driven::Killed => End::Killed,
            Driven::Idle => {
                kernel.note(Happening::Idle);
                judge::idle(&mut kernel);
                End::Killed
            }
        }
    }

    /// Polls a future whenever it is woken, while everything else happens around it.
    fn drive<F: Future>(
        &mut self,
        mut future: std::pin::Pin<&mut F>,
        progress: &Progress,
    ) -> Driven<F::Output> {
        let waker = Waker::from(Arc::clone(&self.woken));
        self.woken.0.store(true, Ordering::Relaxed);
        loop {
            let is_woken = self.woken.0.load(Ordering::Relaxed);
            if is_woken && self.random.chance(40) {
                if !self.begin_poll() {
                    return Driven::Killed;
                }
                if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker))
                {
                    return Driven::Ready(output);
                }
                judge::poll(&mut self.system.lock(), progress);
                continue;
            }
            if self.step_is_due() {
                if !self.do_step() {
                    return Driven::Killed;
                }
            } else if !self.happen() && !is_woken {
                if self.step < self.scenario.steps.len() {
                    self.wait = 0;
                } else if !self.is_healed {
                    self.heal();
                } else if self.uncork() {
                    // Time has passed.
                } else if self.sleeps < SLEEPS_MAX
                    && let Some(sleeper) = { self.system.lock().sleeper.take() }
                {
                    self.sleeps += 1;
                    self.system.lock().reasons += 1;
                    sleeper.wake();
                } else {
                    return Driven::Idle;
                }
            }
        }
    }

    /// Notes a poll. `false`: there were several without a reason, and there would be no end of them.
    fn begin_poll(&mut self) -> bool {
        self.woken.0.store(false, Ordering::Relaxed);
        let mut kernel = self.system.lock();
        kernel.now += 1;
        kernel.note(Happening::Polled);
        let is_in_vain =
            std::mem::replace(&mut self.reasons_seen, kernel.reasons) == kernel.reasons;
        self.polls_in_vain = if is_in_vain { self.polls_in_vain + 1 } else { 0 };
        if self.polls_in_vain == POLLS_MAX {
            kernel.fail(Law::Idle, || {
                format!("the relay is polled {POLLS_MAX} times in a row, and nothing has happened")
            });
        }
        self.polls_in_vain < POLLS_MAX
    }

    /// One thing happens by itself, if there is one that can.
    fn happen(&mut self) -> bool {
        let mut kernel = self.system.lock();
        let spurious = self.scenario.config.spurious;
        if !self.is_healed && spurious > 0 && self.random.chance(spurious) {
            let side = [Side::Client, Side::Backend];
            let side = side[self.random.below(2) as usize];
            kernel.report(side);
        }
        let has_happened = kernel.act_by_itself();
        if has_happened {
            kernel.now += 1;
            self.wait = self.wait.saturating_sub(1);
        }
        has_happened
    }

    fn step_is_due(&self) -> bool {
        self.wait == 0 && self.step < self.scenario.steps.len()
    }

    /// Does the next step. `false`: it kills the session.
    fn do_step(&mut self) -> bool {
        let operation = self.scenario.steps[self.step].operation;
        let mut kernel = self.system.lock();
        kernel.now += 1;
        let now = kernel.now;
        kernel.trace.add(now, Note::Step(self.step as u32));
        self.step += 1;
        self.wait = self.scenario.steps.get(self.step).map_or(0, |step| step.after);
        let random = &mut self.random;
        let mut on_wire = |most: u64| random.below(most + 1);
        match operation {
            Operation::Send(side, bytes) => {
                let connection = kernel.of(side);
                if connection.peer_can_send() {
                    connection.inbound.sent += u64::from(bytes);
                }
            }
            Operation::Urgent(side) => {
                let connection = kernel.of(side);
                if connection.peer_can_send() {
                    connection.inbound.urgent_sent = Some(connection.inbound.sent);
                    connection.inbound.sent += 1;
                }
            }
            Operation::End(side) => {
                let connection = kernel.of(side);
                connection.inbound.has_end |= connection.peer_can_send();
            }
            Operation::Close(side) => kernel.of(side).peer_closes(&mut on_wire),
            Operation::Abort(side) => kernel.of(side).peer_aborts(&mut on_wire),
            Operation::Stop(side) => kernel.of(side).peer.is_stopped = true,
            Operation::Go(side) => kernel.of(side).peer.is_stopped = false,
            Operation::Hold(side) => kernel.of(side).is_held = true,
            Operation::Release(side) => kernel.of(side).is_held = false,
            Operation::Report(side) => kernel.report(side),
            Operation::RefusePipes => kernel.refuses_pipes = true,
            Operation::FailSplices(count) => kernel.splices_fail = count,
            Operation::ForbidSplices => kernel.splices_never = true,
            Operation::Kill => {
                kernel.note(Happening::Killed);
                kernel.counts.add(Sometimes::RelayKilled, 1);
                return false;
            }
        }
        true
    }

    /// What was held back for the end behind it is sent after a while all the same. Returns whether
    /// there was something.
    fn uncork(&mut self) -> bool {
        let mut kernel = self.system.lock();
        let corked = [Side::Client, Side::Backend].map(|side| {
            let outbound = &mut kernel.of(side).outbound;
            outbound.corked.take().is_some_and(|corked| corked < outbound.written)
        });
        corked.contains(&true)
    }

    /// From now on, peers read, and the network and the system do their work.
    fn heal(&mut self) {
        self.is_healed = true;
        let mut kernel = self.system.lock();
        kernel.config.interrupts = 0;
        for side in [Side::Client, Side::Backend] {
            let connection = kernel.of(side);
            connection.peer.is_stopped = false;
            connection.is_held = false;
        }
    }
}
