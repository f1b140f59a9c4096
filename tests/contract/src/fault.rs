//! Dials that fail, and whose fault it is; and probes, which ask whether a target accepts again.

use std::{io, task::Poll};

use futures::future::join;
use tinylb_core::{Dialer, Fault};

use super::{
    Adapter, Failure,
    connect::{accept_marked, mark},
    drive::{WITHIN, abort, dial, ping},
    waiting::waiting,
};

/// Probes of one target.
const PROBES: u8 = 10;

/// A target that refuses is at fault: it has answered, and takes no connection.
pub async fn a_refusal_is_the_targets_fault<A: Adapter>(a: &A) {
    let dialer = a.dialer();
    let error = dialer.dial(&a.nowhere(), WITHIN).await.err().expect("an error");
    assert_eq!(dialer.classify(&error), Fault::Refused, "{error}");
}

/// A listener that goes away while a dial is under way resets it, or refuses it if it wasn't there
/// yet. (A dial may also be quick enough to get a connection first, which then is over.)
pub async fn a_reset_during_the_handshake_is_the_targets_fault<A: Adapter>(a: &A) {
    for polls in 0..4 {
        let (listener, target) = a.listen().await.expect("a listener");
        let dialer = a.dialer();
        let mut dial = dialer.dial(&target, WITHIN);
        let mut dialled = Poll::Pending;
        for _ in 0..polls {
            if dialled.is_pending() {
                dialled = futures::poll!(&mut dial);
            }
        }
        drop(listener);
        let dialled = match dialled {
            Poll::Ready(dialled) => dialled,
            Poll::Pending => waiting(|| format!("a dial of {target}, which is gone"), dial).await,
        };
        match dialled {
            Ok(conn) => abort(conn),
            Err(error) => {
                let fault = dialer.classify(&error);
                assert!(fault.is_answer(), "{error} is {fault}");
            }
        }
    }
}

/// A target that can't be reached or doesn't answer is at fault, and hasn't answered.
pub async fn a_target_that_does_not_answer_is_at_fault<A: Adapter>(a: &A) {
    let failures =
        [(Failure::Unreachable, Fault::Unreachable), (Failure::TimedOut, Fault::TimedOut)];
    for (failure, fault) in failures {
        if let Some(error) = a.failed_dial(failure).await {
            assert_eq!(a.dialer().classify(&error), fault, "{error}");
        }
    }
}

/// A dial that fails because this machine has run out of something says nothing about the target.
pub async fn what_this_machine_lacks_is_not_the_targets_fault<A: Adapter>(a: &A) {
    for failure in [Failure::OutOfDescriptors, Failure::OutOfPorts] {
        if let Some(error) = a.failed_dial(failure).await {
            assert_eq!(a.dialer().classify(&error), Fault::Ours, "{error}");
        }
    }
}

/// In doubt, a target isn't at fault.
pub async fn an_error_of_unknown_origin_is_ours<A: Adapter>(a: &A) {
    for error in [io::Error::other("?"), io::ErrorKind::InvalidInput.into()] {
        assert_eq!(a.dialer().classify(&error), Fault::Ours, "{error}");
    }
}

/// A probe of a target that accepts succeeds, and what is accepted next is the dial that comes after
/// it: the probe has gone unseen, or was a connection that is over.
pub async fn a_probe_finds_a_target_that_accepts_and_leaves_no_connection<A: Adapter>(a: &A) {
    let (mut listener, target) = a.listen().await.expect("a listener");
    let dialer = a.dialer();
    let mut seen = 0;
    for round in 0..PROBES {
        let probe = waiting(|| format!("a probe of {target}"), dialer.probe(&target, WITHIN));
        probe.await.expect("a probe that succeeds");
        let dialled = async {
            let mut conn = dial::<A>(&dialer, &target).await;
            mark(&mut conn, round).await;
            conn
        };
        let accepted = accept_marked::<A>(&mut listener, round);
        let (mut client, (mut backend, over)) = join(dialled, accepted).await;
        ping(&mut client, &mut backend).await;
        assert!(over <= 1, "{over} connections of one probe");
        seen += over;
    }
    // A system that hides probes does so for a while only, and this machine may stand still.
    match a.capabilities().hides_probes {
        true => assert!(seen < usize::from(PROBES), "no probe went unseen"),
        false => assert_eq!(seen, usize::from(PROBES), "probes that were accepted"),
    }
}

/// A probe of a target that refuses fails as a dial does.
pub async fn a_probe_that_is_refused_is_the_targets_fault<A: Adapter>(a: &A) {
    let dialer = a.dialer();
    let error = dialer.probe(&a.nowhere(), WITHIN).await.expect_err("nobody is there");
    assert_eq!(dialer.classify(&error), Fault::Refused, "{error}");
}
