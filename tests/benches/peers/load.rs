use std::{cell::Cell, io, net::SocketAddr, rc::Rc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::{Builder, LocalRuntime},
    task::{JoinSet, spawn_local},
    time::{Instant, sleep, timeout},
};

use crate::{
    backend::{CHUNK, GREETING},
    proxy::Running,
    usage::Usage,
};

/// Before counting begins.
const WARM_UP: Duration = Duration::from_millis(300);

/// The same for slow readers: until what fits into the buffers on the way has been sent.
const FILL_UP: Duration = Duration::from_secs(3);

/// What closed connections leave behind is over by then.
const COOL_DOWN: Duration = Duration::from_millis(200);

/// How long clients may take to stop when asked to; those that take longer hang.
const STOP_MAX: Duration = Duration::from_secs(1);

/// What the clients of a round have done, and whether they should go on.
#[derive(Default)]
pub struct Tally {
    units: Cell<u64>,
    is_over: Cell<bool>,
}

impl Tally {
    fn add(&self, units: u64) {
        self.units.set(self.units.get() + units);
    }

    fn goes_on(&self) -> bool {
        !self.is_over.get()
    }
}

/// What was done in a round, and what it took.
pub struct Done {
    /// Connections, requests or bytes.
    pub units: f64,
    /// The same, with what was done before and after.
    pub units_in_all: f64,
    pub time: Duration,
    pub cpu: Option<Duration>,
}

pub fn current_thread() -> LocalRuntime {
    Builder::new_current_thread().enable_all().build_local(Default::default()).expect("a runtime")
}

/// The work of one client, counted until the tally ends the round.
async fn measure<F: Future<Output = io::Result<()>> + 'static>(
    proxy: &Running,
    clients: usize,
    (warm_up, time): (Duration, Duration),
    client: impl Fn(Rc<Tally>) -> F,
) -> io::Result<Done> {
    let tally = Rc::new(Tally::default());
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        tasks.spawn_local(client(Rc::clone(&tally)));
    }
    let done = async {
        sleep(warm_up).await;
        let usage = || proxy.process.as_ref().map(|process| process.usage());
        let (began, before, counted) = (Instant::now(), usage(), tally.units.get());
        sleep(time).await;
        let (after, time) = (usage(), began.elapsed());
        let cpu = |(after, before): (Usage, Usage)| after.cpu - before.cpu;
        let units = (tally.units.get() - counted) as f64;
        Done { units, units_in_all: 0.0, time, cpu: after.zip(before).map(cpu) }
    };
    let failed = async {
        match tasks.join_next().await {
            Some(Ok(Err(error))) => error,
            other => io::Error::other(format!("a client has ended: {other:?}")),
        }
    };
    let done = tokio::select! {
        done = done => Ok(done),
        error = failed => Err(error),
    };
    // Work that has begun is finished and counted, so that the count has all that was asked of the
    // proxy.
    tally.is_over.set(true);
    let _ = timeout(STOP_MAX, async { while tasks.join_next().await.is_some() {} }).await;
    tasks.shutdown().await;
    sleep(COOL_DOWN).await;
    done.map(|done| Done { units_in_all: tally.units.get() as f64, ..done })
}

/// Each client connects, sends a request, gets the answer and closes, again and again.
pub async fn connections(proxy: &Running, clients: usize, time: Duration) -> io::Result<Done> {
    let address = proxy.address;
    measure(proxy, clients, (WARM_UP, time), |tally| async move {
        while tally.goes_on() {
            let mut stream = connect(address).await?;
            request(&mut stream, &mut [0; 64]).await?;
            drop(stream);
            tally.add(1);
        }
        Ok(())
    })
    .await
}

/// Each client connects, reads the backend's greeting to its end and closes, again and again.
pub async fn greetings(proxy: &Running, clients: usize, time: Duration) -> io::Result<Done> {
    let address = proxy.address;
    measure(proxy, clients, (WARM_UP, time), |tally| async move {
        while tally.goes_on() {
            let mut stream = connect(address).await?;
            let mut greeting = Vec::with_capacity(2 * GREETING);
            if stream.read_to_end(&mut greeting).await? != GREETING {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            drop(stream);
            tally.add(1);
        }
        Ok(())
    })
    .await
}

/// Each client sends a request and waits for the answer, again and again.
pub async fn requests(
    proxy: &Running,
    clients: usize,
    size: usize,
    time: Duration,
) -> io::Result<Done> {
    let address = proxy.address;
    measure(proxy, clients, (WARM_UP, time), |tally| async move {
        let mut stream = connect(address).await?;
        let mut buffer = vec![0; size];
        while tally.goes_on() {
            request(&mut stream, &mut buffer).await?;
            tally.add(1);
        }
        Ok(())
    })
    .await
}

/// Each client reads for ever.
pub async fn download(proxy: &Running, clients: usize, time: Duration) -> io::Result<Done> {
    measure(proxy, clients, (WARM_UP, time), |tally| {
        read_all(proxy.address, CHUNK, Duration::ZERO, tally)
    })
    .await
}

/// The same, and takes 64 KiB in 50 ms.
pub async fn slow_download(proxy: &Running, clients: usize, time: Duration) -> io::Result<Done> {
    measure(proxy, clients, (FILL_UP, time), |tally| {
        read_all(proxy.address, 64 << 10, Duration::from_millis(50), tally)
    })
    .await
}

async fn read_all(
    address: SocketAddr,
    size: usize,
    pause: Duration,
    tally: Rc<Tally>,
) -> io::Result<()> {
    let mut stream = connect(address).await?;
    let mut buffer = vec![0; size];
    while tally.goes_on() {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        tally.add(length as u64);
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }
    Ok(())
}

/// Each client writes for ever.
pub async fn upload(proxy: &Running, clients: usize, time: Duration) -> io::Result<Done> {
    let address = proxy.address;
    measure(proxy, clients, (WARM_UP, time), |tally| async move {
        let mut stream = connect(address).await?;
        let buffer = vec![0; CHUNK];
        while tally.goes_on() {
            let length = stream.write(&buffer).await?;
            tally.add(length as u64);
        }
        Ok(())
    })
    .await
}

/// Connections that have been used once, and do nothing.
pub async fn idle(address: SocketAddr, count: usize) -> io::Result<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(count);
    while streams.len() < count {
        let open = (streams.len()..count.min(streams.len() + 64)).map(|_| async move {
            let mut stream = connect(address).await?;
            request(&mut stream, &mut [0; 64]).await?;
            Ok(stream)
        });
        let opened: Vec<io::Result<TcpStream>> = futures::future::join_all(open).await;
        streams.extend(opened.into_iter().collect::<io::Result<Vec<_>>>()?);
    }
    Ok(streams)
}

/// Waits until each of these connections has been closed by the other end.
pub async fn all_closed(streams: Vec<TcpStream>) {
    let tasks: Vec<_> = streams
        .into_iter()
        .map(|mut stream| spawn_local(async move { stream.read(&mut [0]).await }))
        .collect();
    futures::future::join_all(tasks).await;
}

/// Clients that come back whenever they are cut. Returns also how often that was.
pub async fn churn(proxy: &Running, clients: usize, time: Duration) -> io::Result<(Done, u64)> {
    let (address, cuts) = (proxy.address, Rc::new(Cell::new(0)));
    let cuts_seen = Rc::clone(&cuts);
    let done = measure(proxy, clients, (WARM_UP, time), |tally| {
        let cuts = Rc::clone(&cuts);
        async move {
            while tally.goes_on() {
                match connect(address).await {
                    Ok(mut stream) => {
                        while tally.goes_on() && request(&mut stream, &mut [0; 64]).await.is_ok() {
                            tally.add(1);
                        }
                    }
                    // Cut before anybody here saw that it was connected.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                    Err(error) => return Err(error),
                }
                cuts.set(cuts.get() + 1);
            }
            Ok(())
        }
    });
    Ok((done.await?, cuts_seen.get()))
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn request(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    stream.write_all(buffer).await?;
    stream.read_exact(buffer).await.map(|_| ())
}
