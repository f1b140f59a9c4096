//! What must hold: after each poll, when nothing more happens, and when the session is over.

use tinylb_core::{Direction, Progress, Side, Sizes, Socket};

use super::{
    kernel::{Kernel, other},
    socket::ModelSocket,
};
use crate::{Law, Sometimes};

/// How a session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Both directions have ended.
    Finished,
    /// This side failed, and what it had sent was delivered.
    Failed(Side),
    /// From outside.
    Killed,
}

const SIDES: [Side; 2] = [Side::Client, Side::Backend];

/// After a poll: what is counted was written, and what is held is bounded.
pub(super) fn poll(kernel: &mut Kernel, progress: &Progress) {
    const SIZES: Sizes = ModelSocket::SIZES;
    for from in SIDES {
        let read = kernel.see(from).inbound.read;
        let written = kernel.see(other(from)).outbound.written;
        let counted = progress.bytes(Direction::of(from));
        if counted != written {
            kernel.fail(Law::Counted, || {
                format!("{written} bytes of the {from} were written, and {counted} are counted")
            });
        }
        let in_pipes: u64 = kernel
            .pipes
            .iter()
            .filter(|pipe| pipe.is_open && pipe.from == from)
            .map(|pipe| pipe.length)
            .sum();
        if in_pipes > 0 {
            kernel.counts.add(Sometimes::PipeHeld, 1);
        }
        // What is in a pipe when a splice fails has to go somewhere.
        let most = if kernel.has_failed_splice || kernel.see(other(from)).ours.was_reset {
            SIZES.turn
        } else {
            SIZES.read
        };
        let held = (read - written).saturating_sub(in_pipes);
        if held > most as u64 || in_pipes > SIZES.pipe as u64 {
            kernel.fail(Law::Buffers, || {
                format!("{held} bytes of the {from} are held in memory, {in_pipes} in pipes")
            });
        }
    }
}

/// Nothing more happens, and the relay waits: so there is nothing that it could do.
pub(super) fn idle(kernel: &mut Kernel) {
    kernel.counts.add(Sometimes::RelayIdle, 1);
    for from in SIDES {
        if kernel.see(from).ours.was_reset {
            kernel.fail(Law::Progress, || format!("nobody notices that the {from} has failed"));
            continue;
        }
        let to = other(from);
        if kernel.see(to).peer.is_closed || kernel.see(to).ours.was_reset {
            continue;
        }
        let (inbound, outbound) = (&kernel.see(from).inbound, &kernel.see(to).outbound);
        let (sent, arrived) = (inbound.sent, outbound.arrived);
        let is_ended = !inbound.end_arrived || outbound.end_arrived;
        if arrived < sent {
            kernel.fail(Law::Progress, || {
                format!("of {sent} bytes of the {from}, {arrived} are passed on, and no more come")
            });
        } else if !is_ended {
            kernel.fail(Law::HalfClose, || format!("the end of the {from} isn't passed on"));
        }
    }
    if SIDES.iter().all(|side| kernel.see(*side).inbound.end_arrived) {
        kernel.fail(Law::Progress, || "both directions have ended, and the relay hasn't".into());
    }
}

/// Before the connections are closed: what is counted was passed on.
pub(super) fn counts(kernel: &mut Kernel, end: End, progress: &Progress) {
    for from in SIDES {
        let to = other(from);
        let outbound = &kernel.see(to).outbound;
        let passed_on = match end {
            End::Finished => outbound.written,
            _ => outbound.confirmed,
        };
        let (counted, written) = (progress.bytes(Direction::of(from)), outbound.written);
        if counted != passed_on {
            kernel.fail(Law::Counted, || {
                format!(
                    "{counted} bytes of the {from} are counted; {passed_on} of {written} were \
                     passed on"
                )
            });
        }
    }
}

/// The connections are closed, and all that was on its way has arrived.
pub(super) fn end(kernel: &mut Kernel, end: End) {
    match end {
        End::Finished => SIDES.into_iter().for_each(|from| finished(kernel, from)),
        End::Failed(from) => failed(kernel, from),
        End::Killed => {}
    }
    for side in SIDES {
        let connection = kernel.see(side);
        let saw_end = connection.outbound.end_arrived;
        let was_cut = connection.peer.was_reset || connection.peer.is_closed || saw_end;
        if end != End::Finished && !was_cut && !connection.ours.was_reset {
            kernel.fail(Law::Bytes, || format!("the {side} isn't informed that its stream is cut"));
        }
        if kernel.see(side).ours.is_open {
            kernel.fail(Law::Quiet, || format!("the socket of the {side} is still open"));
        }
        if kernel.reports(side).is_awaited() {
            kernel.fail(Law::Quiet, || format!("a waker is left at the socket of the {side}"));
        }
    }
}

/// A session that is said to have ended well has passed everything on.
fn finished(kernel: &mut Kernel, from: Side) {
    let to = other(from);
    let (inbound, outbound) = (&kernel.see(from).inbound, &kernel.see(to).outbound);
    let (sent, arrived) = (inbound.sent, outbound.arrived);
    let is_there = !kernel.see(to).peer.is_closed && !kernel.see(to).ours.was_reset;
    if !inbound.end_arrived {
        kernel.fail(Law::OneEnd, || format!("the session has finished, and the {from} hasn't"));
    } else if is_there && (arrived < sent || !outbound.end_arrived) {
        kernel.fail(Law::Delivered, || {
            format!("the session has finished, and {arrived} of {sent} bytes reached the {to}")
        });
    }
    kernel.counts.add(Sometimes::RelayFinished, 1);
}

/// All that had arrived from a side that failed has reached the other.
fn failed(kernel: &mut Kernel, from: Side) {
    let to = other(from);
    if !kernel.see(from).ours.was_reset {
        kernel.fail(Law::OneEnd, || format!("the {from} is said to have failed, and it hasn't"));
        return;
    }
    if kernel.see(to).peer.is_closed || kernel.see(to).ours.was_reset {
        return;
    }
    let (had_arrived, arrived) =
        (kernel.see(from).inbound.arrived, kernel.see(to).outbound.arrived);
    if arrived < had_arrived {
        kernel.fail(Law::Delivered, || {
            format!(
                "of {had_arrived} bytes that the {from} sent before it failed, {arrived} reached \
                 the {to}"
            )
        });
    }
    kernel.counts.add(Sometimes::RelayDelivered, 1);
}

/// The session is over: its pipes are back in the pool, empty, or closed.
pub(super) fn pipes(kernel: &mut Kernel, lent: usize) {
    if lent > 0 {
        kernel.fail(Law::Pipes, || format!("{lent} pipes count as lent after the last session"));
    }
    let filled = kernel.pipes.iter().filter(|pipe| pipe.is_open && pipe.length > 0).count();
    if filled > 0 {
        kernel.fail(Law::Pipes, || format!("{filled} pipes are kept with something in them"));
    }
}

/// The relay is gone as well: so are its descriptors.
pub(super) fn left(kernel: &mut Kernel) {
    let open = kernel.pipes.iter().filter(|pipe| pipe.is_open).count();
    if open > 0 {
        kernel.fail(Law::Quiet, || format!("{open} pipes are left open"));
    }
}
