use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    num::NonZeroU64,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    thread::set_current_timer_slack,
};

const SIZE: usize = 64;

/// Latencies at a fixed rate, each counted from when its request was due: an answer that is late
/// holds up no request, so nothing that a user would wait for is left out (no coordinated
/// omission).
pub fn latencies(
    address: SocketAddr,
    connections: usize,
    per_second: u32,
    time: Duration,
) -> io::Result<Histogram<u64>> {
    // Timers fire within a microsecond, rather than 50.
    set_current_timer_slack(NonZeroU64::new(1))?;
    let mut streams = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        streams.push(stream);
    }
    let mut due: Vec<VecDeque<Instant>> = vec![VecDeque::new(); connections];
    let mut read = vec![0; connections];
    let mut histogram = Histogram::new(3).map_err(io::Error::other)?;
    let (interval, began) = (Duration::from_secs(1) / per_second, Instant::now());
    let warm = began + Duration::from_millis(300);
    let (mut next, mut turn) = (began, 0);
    while next < warm + time {
        while next <= Instant::now() {
            // 64 bytes always fit: what is under way is little.
            (&streams[turn]).write_all(&[0; SIZE])?;
            due[turn].push_back(next);
            turn = (turn + 1) % connections;
            next += interval;
        }
        let left = next.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
        let mut polled: Vec<_> =
            streams.iter().map(|stream| PollFd::new(stream, PollFlags::IN)).collect();
        poll(&mut polled, Some(&left))?;
        let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        for n in (0..connections).filter(|&n| ready[n]) {
            read[n] += (&streams[n]).read(&mut [0; 16 * SIZE])?;
            let now = Instant::now();
            while read[n] >= SIZE {
                read[n] -= SIZE;
                let due = due[n].pop_front().ok_or(io::ErrorKind::InvalidData)?;
                if due >= warm {
                    let latency = (now - due).as_nanos() as u64;
                    histogram.record(latency).map_err(io::Error::other)?;
                }
            }
        }
    }
    Ok(histogram)
}
