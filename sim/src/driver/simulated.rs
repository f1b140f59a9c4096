//! A scenario on turmoil's network: each host of its own, each packet watched.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use async_trait::async_trait;
use futures::future::pending;
use tinylb_core::Dialer;
use turmoil::Sim;

use super::{Director, Disturbance, Fabric, Spot, World, balance, connect, serve};
use crate::{
    Law, Network, NetworkOptions, Outcome, Packet, PacketFate, PacketKind, Scenario, TurmoilConn,
    TurmoilDialer, TurmoilListener, TurmoilRuntime,
    oracle::SLACK,
    scenario::{Link, Place},
    trace::Host,
};

const TICK: Duration = Duration::from_millis(10);

const BALANCER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const CLIENTS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const PORT: u16 = 80;

fn ip_of(place: Place) -> IpAddr {
    Ipv4Addr::new(10, 0, 1, place.0 as u8).into()
}

fn far_end(link: Link) -> IpAddr {
    match link {
        Link::Clients => CLIENTS,
        Link::Backend(place) => ip_of(place),
    }
}

fn host_at(address: SocketAddr) -> (Host, u16) {
    let host = match address.ip() {
        BALANCER => Host::Balancer,
        IpAddr::V4(ip) if ip.octets()[2] == 1 => Host::Backend(Place(ip.octets()[3].into())),
        _ => Host::Clients,
    };
    (host, address.port())
}

/// Runs a scenario on the balancer that ships, its clients and backends on hosts of their own.
pub fn run(scenario: &Scenario, keep_trace: bool) -> Outcome {
    run_with(scenario, keep_trace, |dialer| dialer)
}

/// As [`run`], with a dialer of the balancer's that is made of the network's: to have one's own
/// judged by the same scenarios.
pub fn run_with<D>(
    scenario: &Scenario,
    keep_trace: bool,
    wrap: impl Fn(TurmoilDialer) -> D + Clone + Send + Sync + 'static,
) -> Outcome
where
    D: Dialer<Target = SocketAddr, Conn = TurmoilConn>,
{
    let config = &scenario.config;
    let options = NetworkOptions {
        seed: scenario.seed,
        window: config.window as usize,
        chunk_max: config.chunk_max as usize,
        yield_percent: config.yields as u8,
    };
    let ms = |time: u32| Duration::from_millis(u64::from(time));
    let mut sim = turmoil::Builder::new()
        .rng_seed(scenario.seed)
        .simulation_duration(Duration::from_secs(24 * 3600))
        .tick_duration(TICK)
        .min_message_latency(ms(config.latency_min))
        .max_message_latency(ms(config.latency_max))
        .tcp_capacity(options.tcp_capacity())
        .build();
    let mut director = Director::new(scenario, Duration::from_micros(SLACK), keep_trace);
    let network = Network::new(options);
    let world = director.world().clone();
    let on = |ip| On { network: network.clone(), ip, wrap: |dialer| dialer };
    sim.host(BALANCER, {
        let (world, on) = (world.clone(), On { network: network.clone(), ip: BALANCER, wrap });
        move || forever(balance(world.clone(), on.clone()))
    });
    sim.host(CLIENTS, {
        let (world, on) = (world.clone(), on(CLIENTS));
        move || forever(connect(world.clone(), on.clone()))
    });
    for place in (0..config.backends as u16).map(Place) {
        let (world, on) = (world.clone(), on(ip_of(place)));
        sim.host(ip_of(place), move || forever(serve(world.clone(), on.clone(), place)));
    }
    let watch = {
        let world = world.clone();
        move |packet| report(&world, packet)
    };
    let mut steps = 0;
    network.watch(watch, || {
        while !director.is_over() {
            for disturbance in director.advance(sim.elapsed()) {
                disturb(&mut sim, &network, &world, disturbance);
            }
            if let Err(error) = sim.step() {
                world.fail(Law::Panic, format!("a host failed: {error}"));
            }
            steps += 1;
            for panic in network.take_panics() {
                world.panicked(&panic);
            }
        }
    });
    if !world.has_failed() && network.live_tasks() > 0 {
        let tasks = network.live_tasks();
        world.fail(Law::Quiet, format!("{tasks} tasks are left after the shutdown"));
    }
    director.finish(steps)
}

async fn forever(part: impl Future<Output = ()>) -> turmoil::Result {
    part.await;
    pending().await
}

fn disturb(sim: &mut Sim<'_>, network: &Network, world: &World, disturbance: Disturbance) {
    let lost = match disturbance {
        Disturbance::Partition(link) => network.partition(sim, BALANCER, far_end(link)),
        Disturbance::CutTo(link) => network.partition_oneway(sim, BALANCER, far_end(link)),
        Disturbance::CutFrom(link) => network.partition_oneway(sim, far_end(link), BALANCER),
        Disturbance::Hold(link) => {
            network.hold(sim, BALANCER, far_end(link));
            Vec::new()
        }
        Disturbance::Release(link) => {
            network.release(sim, BALANCER, far_end(link));
            Vec::new()
        }
        Disturbance::Latency(link, time) => {
            let time = Duration::from_millis(u64::from(time));
            sim.set_link_latency(BALANCER, far_end(link), time);
            Vec::new()
        }
        Disturbance::Crash(place) => {
            sim.crash(ip_of(place));
            Vec::new()
        }
        Disturbance::Start(place) => {
            sim.bounce(ip_of(place));
            Vec::new()
        }
    };
    lost.into_iter().for_each(|packet| report(world, packet));
}

fn report(world: &World, packet: Packet) {
    let Packet { from, to, kind, fate } = packet;
    world.packet(host_at(from), host_at(to), kind, fate);
    if fate == PacketFate::Dropped && !matches!(kind, PacketKind::Syn | PacketKind::SynAck) {
        world.lost(from, to);
    }
}

/// One of turmoil's hosts.
#[derive(Clone)]
struct On<W> {
    network: Network,
    ip: IpAddr,
    /// Makes the host's dialer.
    wrap: W,
}

#[async_trait]
impl<D, W> Fabric for On<W>
where
    D: Dialer<Target = SocketAddr, Conn = TurmoilConn>,
    W: Fn(TurmoilDialer) -> D + Send + Sync + 'static,
{
    type Listener = TurmoilListener;
    type Dialer = D;
    type Runtime = TurmoilRuntime;

    async fn listen(&self, _at: Spot) -> io::Result<TurmoilListener> {
        TurmoilListener::bind(&self.network, SocketAddr::new(self.ip, PORT)).await
    }

    fn dialer(&self) -> D {
        (self.wrap)(TurmoilDialer::new(&self.network, self.ip))
    }

    fn address(&self, of: Spot) -> SocketAddr {
        let ip = match of {
            Spot::Front => BALANCER,
            Spot::Backend(place) => ip_of(place),
        };
        SocketAddr::new(ip, PORT)
    }

    fn runtime(&self) -> TurmoilRuntime {
        TurmoilRuntime::current(&self.network)
    }

    fn name(&self, conn: &TurmoilConn) -> String {
        conn.local_address().to_string()
    }
}
