use std::{
    io,
    net::{IpAddr, Ipv4Addr},
};

use futures::{
    StreamExt,
    channel::mpsc::{UnboundedSender, unbounded},
};
use tinylb_core::Update;
use tinylb_tokio::{Address, EtcdOptions, EtcdSource, Host};

use crate::{child::Control, harness::PREFIX};

/// The part of many balancers, of which each has a source and nothing else: waits for a line, follows
/// it, and from then on prints the newest address of the set whenever the last of them has it.
pub async fn run(mut control: Control, url: &str, count: usize) -> io::Result<()> {
    control.heard().await?;
    let (addresses, mut known) = unbounded();
    for _ in 0..count {
        let source = EtcdSource::new(EtcdOptions::new([url], PREFIX)).map_err(io::Error::other)?;
        tokio::spawn(follow(source, addresses.clone()));
    }
    let (mut newest, mut have_it) = (Ipv4Addr::UNSPECIFIED, 0);
    loop {
        let address = tokio::select! {
            Some(address) = known.next() => address,
            line = control.heard() => match line {
                Ok(_) => continue,
                Err(_) => return Ok(()),
            },
        };
        if address > newest {
            (newest, have_it) = (address, 0);
        }
        have_it += usize::from(address == newest);
        if have_it == count && address == newest {
            control.say(newest).await?;
        }
    }
}

/// Sends each address that is the newest of a set.
async fn follow(source: EtcdSource, addresses: UnboundedSender<Ipv4Addr>) {
    let mut updates = Box::pin(source.updates());
    let mut last = None;
    while let Some(update) = updates.next().await {
        let set = match update {
            Update::Set(set) | Update::Partial(set, _) | Update::Narrowed(set) => set,
            Update::Lost(reason) => {
                eprintln!("\ra source was lost: {reason}\x1b[K");
                continue;
            }
        };
        let newest = set.iter().filter_map(|(_, target)| ipv4(target)).max();
        if let Some(newest) = newest.filter(|newest| Some(*newest) > last) {
            last = Some(newest);
            let _ = addresses.unbounded_send(newest);
        }
    }
}

fn ipv4(target: &Address) -> Option<Ipv4Addr> {
    let Address::Tcp(target) = target else { return None };
    match target.host {
        Host::Ip(IpAddr::V4(ip)) => Some(ip),
        _ => None,
    }
}
