use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, error::Elapsed, sleep_until, timeout, timeout_at};

use super::{
    failure::Failure,
    keys::KeyChange,
    member::{Member, Watch},
    options::{EtcdOptions, EtcdOptionsError},
    turns::Turns,
};
use crate::{Address, Host, TcpTarget, source::backoff::random};

/// A backend's key in etcd, kept there as long as this is asked to: for a backend that registers
/// itself, or for a keeper beside it.
///
/// The key is on a lease, which is renewed each third of its time. A backend that crashes
/// disappears when its lease expires: after `ttl` and up to 1 s more, since etcd looks for expired
/// leases once or twice a second. While etcd has no leader no lease expires, and a new leader renews
/// them all.
///
/// When this begins, it takes the key, even from another holder, so that a backend that was killed and
/// started again needn't wait. From then on, and after [`Self::withdraw`] too, it sets the key only
/// when that is gone, and never fights another one that has taken it since: it stands by, and has the
/// key again when the other one ends.
///
/// It runs on the tokio runtime that polls it, whose I/O and time must be enabled. Dropped, it leaves
/// the key to run out: that is for a machine that dies. [`Self::withdraw`] is for all else.
///
/// ```no_run
/// # async fn register() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use tinylb_tokio::{EtcdOptions, EtcdRegistration, EtcdRegistrationEvent};
///
/// let options = EtcdOptions::new(["http://10.0.0.1:2379"], "/lb/web/");
/// let address = "10.0.0.7:5432".parse()?;
/// let mut registration = EtcdRegistration::new(options, "a", &address, Duration::from_secs(5))?;
/// loop {
///     match registration.next().await {
///         EtcdRegistrationEvent::Registered => println!("registered"),
///         EtcdRegistrationEvent::Taken => println!("another one has the key"),
///         EtcdRegistrationEvent::Lost(reason) => println!("etcd is away: {reason}"),
///         _ => {}
///     }
/// }
/// # }
/// ```
pub struct EtcdRegistration {
    options: EtcdOptions,
    turns: Turns,
    claim: Claim,
    keeper: Option<Keeper>,
    /// When the next round of attempts begins.
    round_at: Option<Instant>,
    /// The event that was last reported, and the lease then.
    told: Option<(EtcdRegistrationEvent, i64)>,
}

/// What happens to a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EtcdRegistrationEvent {
    /// The key is set, by this one. Again after each loss, and after it was gone for a moment.
    Registered,
    /// The key is set by another one, which came later, or was first when the key was free.
    Taken,
    /// No member can be used, and why, in one line. The key may run out meanwhile. It follows each
    /// round of attempts.
    Lost(Arc<str>),
}

/// What shall be in etcd, and what of that is there as far as is known. It outlives each connection.
struct Claim {
    key: String,
    value: String,
    ttl: Duration,
    /// The lease, once it was asked for: it may be over, or may never have begun.
    lease: Option<i64>,
    /// The key was taken once: from now on others are left alone.
    was_taken: bool,
}

/// One connection to a member, through which the lease is renewed and the key is watched.
struct Keeper {
    member: Member,
    watch: Watch,
    began: Instant,
    renew_at: Instant,
    /// The lease that the key is on; `None`: it is gone.
    key_on: Option<i64>,
    /// The revision that shows that.
    revision: i64,
}

/// Parts of the time of a lease: each is how long a renewal may take, and the pause between two.
/// So there is time for one member that hangs. The same when it is ended.
const PARTS: u32 = 3;

const HOUR: Duration = Duration::from_secs(60 * 60);

impl EtcdRegistration {
    /// The key is the prefix of `options` with this one behind it, its value the address, and its
    /// lease lasts for `ttl`: whole seconds, 1 s to 1 h. (etcd grants no less than 1.5 times its
    /// election timeout: 2 s unless it was set otherwise.) A member's answer may take a third of that
    /// at most, whatever `timeout` allows, so that there is time for another one.
    ///
    /// # Errors
    /// [`EtcdOptions::validate`]'s, an empty key, an address with port 0 or of no machine (`0.0.0.0`),
    /// or a `ttl` that is out of its range.
    pub fn new(
        mut options: EtcdOptions,
        key: &str,
        address: &Address,
        ttl: Duration,
    ) -> Result<Self, EtcdOptionsError> {
        options.validate()?;
        if key.is_empty() {
            return Err(EtcdOptionsError::EmptyKey);
        }
        reachable(address).map_err(|reason| EtcdOptionsError::BadAddress { reason })?;
        if ttl.subsec_nanos() != 0 || ttl.is_zero() || ttl > HOUR {
            let range = "1s to 1h, in whole seconds";
            return Err(EtcdOptionsError::OutOfRange { name: "ttl", value: ttl, range });
        }
        options.timeout = options.timeout.min(ttl / PARTS);
        Ok(Self {
            // No longer than until a renewal is due.
            turns: Turns::new(options.urls()?, ttl / PARTS),
            claim: Claim {
                key: format!("{}{key}", options.prefix),
                value: address.to_string(),
                ttl,
                lease: None,
                was_taken: false,
            },
            options,
            keeper: None,
            round_at: None,
            told: None,
        })
    }

    /// Registers, and stays at it until there is something to tell. To stay registered, call it
    /// again and again: between two calls nothing is renewed.
    ///
    /// # Cancellation
    /// Nothing is lost, but an attempt to reach a member begins anew: if you drop this several
    /// times a second, it may never reach one.
    pub async fn next(&mut self) -> EtcdRegistrationEvent {
        loop {
            if self.keeper.is_none() {
                let begin = Instant::now() + self.turns.pause();
                sleep_until(*self.round_at.get_or_insert(begin)).await;
                let opened = self.open().await;
                self.round_at = None;
                if let Err(reason) = opened {
                    self.told = None;
                    return EtcdRegistrationEvent::Lost(reason);
                }
            }
            let Some(keeper) = &mut self.keeper else { continue };
            let now = keeper.event(&self.claim).zip(self.claim.lease);
            if now != self.told {
                self.told.clone_from(&now);
                if let Some((event, _)) = now {
                    return event;
                }
            }
            if let Err(failure) = keeper.step(&self.claim).await {
                if let Failure::NoLease = failure {
                    // Not left to the next renewal: etcd before 3.4.38 may renew what it revoked.
                    self.claim.lease = None;
                }
                self.turns.ended(keeper.began.elapsed());
                self.keeper = None;
            }
        }
    }

    /// Takes the key out of etcd, if it is this one's, and tries for this long. [`Self::next`] registers
    /// anew.
    ///
    /// # Errors
    /// Why no member could be used, in one line. The lease ends the key, once etcd is there and no
    /// later than the lease's time after that.
    ///
    /// # Cancellation
    /// The key may be there or not: call this or [`Self::next`] again.
    pub async fn withdraw(&mut self, within: Duration) -> Result<(), Arc<str>> {
        let end = Instant::now() + within;
        let mut reason = format!("no answer within {within:?}").into();
        self.told = None;
        while self.claim.lease.is_some() {
            match timeout_at(end, self.revoke(within / PARTS)).await {
                Ok(Ok(())) => self.claim.lease = None,
                Ok(Err(lost)) => {
                    reason = lost;
                    sleep_until(end.min(Instant::now() + self.turns.pause())).await;
                }
                Err(_) => return Err(reason),
            }
        }
        Ok(())
    }

    /// Ends the lease by the first member that can and does so within this time, or says why none
    /// does.
    async fn revoke(&mut self, patience: Duration) -> Result<(), Arc<str>> {
        let Some(lease) = self.claim.lease else { return Ok(()) };
        if let Some(keeper) = self.keeper.take()
            && revoked(timeout(patience, keeper.member.revoke(lease)).await, patience).is_ok()
        {
            return Ok(());
        }
        self.turns.begin();
        while let Some(url) = self.turns.next() {
            let revoke = async { Member::connect(url, &self.options).await?.revoke(lease).await };
            match revoked(timeout(patience, revoke).await, patience) {
                Ok(()) => return Ok(()),
                Err(failure) => self.turns.failed(&failure),
            }
        }
        Err(self.turns.lost())
    }

    /// Opens a connection to the first member that can, or says why none does.
    async fn open(&mut self) -> Result<(), Arc<str>> {
        self.turns.begin();
        while let Some(url) = self.turns.next() {
            match Keeper::open(url, &self.options, &mut self.claim).await {
                Ok(keeper) => {
                    self.keeper = Some(keeper);
                    return Ok(());
                }
                Err(failure) => self.turns.failed(&failure),
            }
        }
        Err(self.turns.lost())
    }
}

impl Keeper {
    /// Connects, sees that there is a lease, and has the key set.
    ///
    /// # Errors
    /// The member is of no use.
    async fn open(url: &str, options: &EtcdOptions, claim: &mut Claim) -> Result<Self, Failure> {
        let member = Member::connect(url, options).await?;
        let lease = lease(&member, claim).await?;
        let began = Instant::now();
        let claimed = if claim.was_taken {
            member.claim(&claim.key, &claim.value, lease).await?
        } else {
            member.take(&claim.key, &claim.value, lease).await?
        };
        claim.was_taken = true;
        let watch = member.watch_key(&claim.key, claimed.revision + 1).await?;
        Ok(Self {
            member,
            watch,
            began,
            renew_at: began + claim.ttl / PARTS,
            key_on: Some(claimed.lease),
            revision: claimed.revision,
        })
    }

    /// The event that describes the state.
    fn event(&self, claim: &Claim) -> Option<EtcdRegistrationEvent> {
        let is_own = self.key_on? == claim.lease?;
        Some(if is_own { EtcdRegistrationEvent::Registered } else { EtcdRegistrationEvent::Taken })
    }

    /// Does what is to be done next. If it is dropped, nothing is lost.
    ///
    /// # Errors
    /// The lease is over, or the member is of no use any more.
    async fn step(&mut self, claim: &Claim) -> Result<(), Failure> {
        let lease = claim.lease.ok_or(Failure::NoLease)?;
        if self.key_on.is_none() {
            let claimed = self.member.claim(&claim.key, &claim.value, lease).await?;
            (self.key_on, self.revision) = (Some(claimed.lease), claimed.revision);
            return Ok(());
        }
        match timeout_at(self.renew_at, self.watch.next()).await {
            Ok(changes) => changes?.into_iter().for_each(|change| self.see(&change)),
            Err(_) => {
                self.member.renew(lease).await?;
                self.renew_at = Instant::now() + claim.ttl / PARTS;
            }
        }
        Ok(())
    }

    fn see(&mut self, change: &KeyChange) {
        let (revision, key_on) = match change {
            KeyChange::Put(put) => (put.revision, Some(put.lease)),
            KeyChange::Delete { revision, .. } => (*revision, None),
        };
        // The claim has shown what the watch reports only now.
        if revision > self.revision {
            (self.revision, self.key_on) = (revision, key_on);
        }
    }
}

/// A lease that has just begun to run anew.
async fn lease(member: &Member, claim: &mut Claim) -> Result<i64, Failure> {
    if let Some(lease) = claim.lease {
        match member.renew(lease).await {
            Ok(()) => return Ok(lease),
            Err(Failure::NoLease) => {}
            Err(failure) => return Err(failure),
        }
    }
    // Named here, and noted before it is asked for: so it is known even if no answer comes.
    let lease = (random() >> 1).max(1) as i64;
    claim.lease = Some(lease);
    member.grant(lease, claim.ttl.as_secs() as i64).await?;
    Ok(lease)
}

/// Whether a lease is over, by what became of revoking it within a time.
fn revoked(
    result: Result<Result<(), Failure>, Elapsed>,
    patience: Duration,
) -> Result<(), Failure> {
    match result {
        Ok(Err(Failure::NoLease)) => Ok(()),
        Ok(result) => result,
        Err(_) => Err(Failure::Late(patience)),
    }
}

/// Whether balancers can reach an address, as far as its text tells.
fn reachable(address: &Address) -> Result<(), String> {
    if let Address::Tcp(TcpTarget { host: Host::Ip(ip), .. }) = address
        && ip.is_unspecified()
    {
        return Err(format!("{address} is no machine's: give the address that balancers reach"));
    }
    address.validate_target(&[])
}
