use std::sync::PoisonError;

use super::Socket;
use crate::sync::{Mutex, MutexGuard};

/// Pipes through which bytes go from socket to socket without being copied (splice(2), Linux).
/// There are none elsewhere.
pub(super) struct Pipes<P> {
    state: Mutex<State<P>>,
    max: usize,
}

struct State<P> {
    /// Empty pipes that nobody holds.
    spare: Vec<P>,
    /// How many pipes there are, spare or not.
    made: usize,
    /// How often one is asked for before another may be made.
    pause: usize,
}

/// A pipe that is lent by [`Pipes`]: to be given back empty, or reported as lost.
pub(super) struct Lent<P> {
    pub(super) pipe: P,
    /// Whether it may be kept, with what is in it, while a slow reader is waited for.
    pub(super) may_wait: bool,
}

impl<P> Pipes<P> {
    /// At most `max` pipes, of two descriptors each; made when they are needed.
    pub(super) fn new(max: usize) -> Self {
        Self { state: Mutex::new(State { spare: Vec::new(), made: 0, pause: 0 }), max }
    }

    /// An empty pipe, unless there are none to be had. Half of them may wait for slow readers, so
    /// that there is always one for a short use. A new one is made by this socket's system.
    pub(super) fn take<S: Socket<Pipe = P>>(&self, socket: &S) -> Option<Lent<P>> {
        let sizes = S::SIZES;
        self.take_or_make(sizes.pipe_pause, || {
            let (pipe, size) = socket.make_pipe(sizes.pipe)?;
            (size >= sizes.pipe_min).then_some(pipe)
        })
    }

    fn take_or_make(&self, pause: usize, make: impl FnOnce() -> Option<P>) -> Option<Lent<P>> {
        let mut state = self.lock();
        let lent = state.made - state.spare.len();
        let pipe = match state.spare.pop() {
            Some(pipe) => pipe,
            None if state.made == self.max => return None,
            None if state.pause > 0 => {
                state.pause -= 1;
                return None;
            }
            None => {
                let Some(pipe) = make() else {
                    state.pause = pause;
                    return None;
                };
                state.made += 1;
                pipe
            }
        };
        Some(Lent { pipe, may_wait: lent < self.max / 2 })
    }

    /// Gives back an empty pipe.
    pub(super) fn give_back(&self, lent: Lent<P>) {
        self.lock().spare.push(lent.pipe);
    }

    /// Lends no pipe any more.
    pub(super) fn lend_no_more(&self) {
        let mut state = self.lock();
        state.made -= std::mem::take(&mut state.spare).len();
        state.pause = usize::MAX;
    }

    /// Notes that a pipe failed, for lack of memory or the like: for a while, only pipes that
    /// already exist are lent.
    pub(super) fn pause(&self, pause: usize) {
        let mut state = self.lock();
        state.made -= std::mem::take(&mut state.spare).len();
        state.pause = state.pause.max(pause);
    }

    /// A pipe was closed, with what was in it.
    pub(super) fn lost(&self) {
        self.lock().made -= 1;
    }

    /// How many pipes are lent.
    pub(super) fn lent(&self) -> usize {
        let state = self.lock();
        state.made - state.spare.len()
    }

    fn lock(&self) -> MutexGuard<'_, State<P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: usize = 3;

    fn take(pipes: &Pipes<()>) -> Option<Lent<()>> {
        pipes.take_or_make(PAUSE, || Some(()))
    }

    #[test]
    fn half_of_the_pipes_may_wait_and_none_is_lent_twice() {
        let pipes = Pipes::new(4);
        let lent: Vec<_> = std::iter::from_fn(|| take(&pipes)).collect();
        let may_wait: Vec<_> = lent.iter().map(|pipe| pipe.may_wait).collect();
        assert_eq!((may_wait, pipes.lent()), (vec![true, true, false, false], 4));
        lent.into_iter().for_each(|pipe| pipes.give_back(pipe));
        assert!(take(&pipes).is_some_and(|pipe| pipe.may_wait));
        pipes.lost();
        let lent = std::iter::from_fn(|| take(&pipes)).count();
        assert_eq!(lent, 4, "the one that was lost is replaced");
    }

    #[test]
    fn where_splice_does_not_work_no_pipe_is_lent_any_more() {
        let pipes = Pipes::new(4);
        let [one, other] = [(); 2].map(|()| take(&pipes).unwrap());
        pipes.give_back(one);
        pipes.lend_no_more();
        assert!(take(&pipes).is_none());
        // One that was out meanwhile finds out for itself.
        pipes.give_back(other);
        assert!(take(&pipes).is_some());
        pipes.lend_no_more();
        assert!(take(&pipes).is_none());
    }

    #[test]
    fn a_pipe_that_could_not_be_made_is_not_tried_again_at_once() {
        let pipes = Pipes::<()>::new(4);
        assert!(pipes.take_or_make(PAUSE, || None).is_none());
        for _ in 0..PAUSE {
            assert!(take(&pipes).is_none());
        }
        assert!(take(&pipes).is_some());
    }
}
