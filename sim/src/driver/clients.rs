//! Clients that connect, and backends that answer.

use std::{future::poll_fn, sync::Arc, time::Duration};

use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Either, select},
    stream,
};
use tinylb_core::{Conn, Dialer, Listener, Runtime};

use super::{
    Fabric, Spot, World,
    orders::Visit,
    party::{Party, read_header},
    payload::Greeting,
};
use crate::{
    Entropy, Law, Seeded,
    scenario::{Manner, Place, Plan},
    trace::Sight,
};

/// What a probe asks for.
const PROBE: Plan = Plan { up: 64, down: 64, pace: 0, manner: Manner::Both };

/// Runs all clients of a scenario on this host, for ever.
pub async fn connect<F: Fabric>(world: World, fabric: F) {
    let clients = Arc::new(Clients { dialer: fabric.dialer(), world: world.clone(), fabric });
    let loops = (0..world.scenario().config.clients).map(|number| {
        let clients = Arc::clone(&clients);
        async move { clients.come_and_go(number).await }.boxed()
    });
    let Some(visits) = world.take_visits() else { return };
    let visits = visits.flat_map(|visit| {
        let (count, plan, is_probe) = match visit {
            Visit::Connect(count, plan) => (count, plan, false),
            Visit::Probe(count) => (count, PROBE, true),
        };
        stream::iter((0..count).map(|_| clients.once(plan, is_probe)).collect::<Vec<_>>())
    });
    stream::iter(loops).chain(visits).for_each_concurrent(None, |client| client).await;
}

struct Clients<F: Fabric> {
    world: World,
    dialer: F::Dialer,
    fabric: F,
}

impl<F: Fabric> Clients<F> {
    fn once(self: &Arc<Self>, plan: Plan, is_probe: bool) -> BoxFuture<'static, ()> {
        let clients = Arc::clone(self);
        async move {
            clients.attempt(plan, is_probe).await;
        }
        .boxed()
    }

    /// One client that connects again and again, until faults have stopped.
    async fn come_and_go(&self, number: u32) {
        let scenario = self.world.scenario();
        let mut entropy = Seeded::for_purpose(scenario.seed, 1000 + u64::from(number));
        loop {
            let pause = entropy.between(1, scenario.config.pause);
            self.fabric.runtime().sleep(Duration::from_millis(u64::from(pause))).await;
            let plan = Plan::draw(&scenario.config, &mut entropy);
            if self.world.judge().is_healed() {
                return;
            }
            let sight = self.attempt(plan, false).await;
            if sight == Sight::Refused && self.world.judge().is_closing() {
                return;
            }
        }
    }

    async fn attempt(&self, plan: Plan, is_probe: bool) -> Sight {
        let attempt = self.world.judge().client_dials(plan, is_probe);
        let address = self.fabric.address(Spot::Front);
        let leaves = poll_fn(|cx| self.world.judge().cues().poll_leaves(attempt, cx));
        let dial = self.dialer.dial(&address, Duration::MAX);
        let sight = match select(leaves, dial).await {
            Either::Left(((), _)) => Sight::GivenUp,
            Either::Right((Err(_), _)) => Sight::Refused,
            Either::Right((Ok(mut conn), _)) => {
                // As for any program, the system ends its stream if it dies.
                conn.finish();
                self.world.judge().client_connected(attempt, &self.fabric.name(&conn));
                let runtime = self.fabric.runtime();
                Party::client(conn, self.world.clone(), runtime, attempt, plan).converse().await
            }
        };
        self.world.judge().client_over(attempt, sight);
        sight
    }
}

/// Runs a backend on this host, until it crashes.
pub async fn serve<F: Fabric>(world: World, fabric: F, place: Place) {
    let boot = world.judge().cues().boots(place);
    let listener = match fabric.listen(Spot::Backend(place)).await {
        Ok(listener) => listener,
        Err(error) => return world.fail(Law::Simulation, format!("{place} can't listen: {error}")),
    };
    let conns = stream::unfold(listener, |mut listener| async {
        let accepted = listener.accept().await;
        Some((accepted, listener))
    });
    let greeting = Greeting { place, boot };
    conns
        .for_each_concurrent(None, |conn| {
            let (world, runtime) = (world.clone(), fabric.runtime());
            async move {
                let Ok(mut conn) = conn else { return };
                // As for any program, the system ends its stream if it dies.
                conn.finish();
                let Some(header) = read_header(&mut conn, &world, place).await else { return };
                let party = Party::backend(conn, world.clone(), runtime, header, greeting);
                let sight = party.converse().await;
                world.judge().backend_over(place, header.attempt, sight);
            }
        })
        .await;
}
