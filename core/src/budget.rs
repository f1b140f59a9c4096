use std::collections::VecDeque;

use slab::Slab;

/// A number of connections that several servers share, and which of them may have the next one.
/// Plain state, like the balancer; servers share one by a [`SharedBudget`](crate::SharedBudget).
///
/// Each member is guaranteed a minimum, which no other member can use up. The rest is first come,
/// first served. When it is used up, members have to wait. They take turns for room that comes
/// free, so that a busy member doesn't starve another.
///
/// After every step, if nobody has joined with connections of its own and neither the total nor a
/// minimum has changed since: `in_use <= total`, and each member below its minimum may have another
/// connection.
pub struct Budget {
    total: usize,
    in_use: usize,
    /// Room that is kept for members below their minimum.
    reserved: usize,
    members: Slab<Member>,
    /// The members that wait for room, the longest wait first. Each at most once.
    waiting: VecDeque<MemberId>,
}

/// A member of a [`Budget`], until it leaves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MemberId(pub(crate) usize);

#[derive(Default)]
struct Member {
    minimum: usize,
    in_use: usize,
    is_waiting: bool,
}

impl Member {
    fn is_below_minimum(&self) -> bool {
        self.in_use < self.minimum
    }

    fn reserved(&self) -> usize {
        self.minimum.saturating_sub(self.in_use)
    }
}

impl Budget {
    /// A budget of this many connections, without members.
    pub fn new(total: usize) -> Self {
        let (members, waiting) = (Slab::new(), VecDeque::new());
        Self { total, in_use: 0, reserved: 0, members, waiting }
    }

    /// Changes the total. If it shrinks, nothing is admitted until enough connections have ended.
    pub fn set_total(&mut self, total: usize) {
        self.total = total;
    }

    /// Adds a member that has this many connections already. If there is no room for its minimum
    /// now, that is met as connections of others end.
    pub fn join(&mut self, minimum: usize, in_use: usize) -> MemberId {
        let id = MemberId(self.members.insert(Member::default()));
        self.change(id, |member| {
            *member = Member { minimum, in_use, is_waiting: false };
        });
        id
    }

    /// Changes what a member is guaranteed.
    pub fn set_minimum(&mut self, id: MemberId, minimum: usize) {
        self.change(id, |member| member.minimum = minimum);
    }

    /// Removes a member, with the connections that it still has.
    pub fn leave(&mut self, id: MemberId) {
        self.stop_waiting(id);
        self.change(id, |member| *member = Member::default());
        self.members.remove(id.0);
    }

    /// Whether a member may have another connection now.
    pub fn may_admit(&self, id: MemberId) -> bool {
        let member = &self.members[id.0];
        self.in_use < self.total
            && (member.is_below_minimum()
                || (self.has_shared_room() && self.first().is_none_or(|first| first == id)))
    }

    /// Counts another connection of a member, if it may have one; it then no longer waits. Returns
    /// whether it may.
    pub fn admit(&mut self, id: MemberId) -> bool {
        let may_admit = self.may_admit(id);
        if may_admit {
            self.stop_waiting(id);
            self.change(id, |member| member.in_use += 1);
        }
        may_admit
    }

    /// Notes that a connection of a member has ended.
    pub fn finish(&mut self, id: MemberId) {
        debug_assert!(self.members[id.0].in_use > 0, "what ends has been admitted");
        self.change(id, |member| member.in_use = member.in_use.saturating_sub(1));
    }

    /// Puts a member at the end of the queue for room. Returns whether it was not in the queue.
    pub fn wait(&mut self, id: MemberId) -> bool {
        let was_waiting = std::mem::replace(&mut self.members[id.0].is_waiting, true);
        if !was_waiting {
            self.waiting.push_back(id);
        }
        !was_waiting
    }

    /// Takes a member out of the queue: it no longer needs room.
    pub fn stop_waiting(&mut self, id: MemberId) {
        if std::mem::take(&mut self.members[id.0].is_waiting) {
            self.waiting.retain(|waiting| *waiting != id);
        }
    }

    /// The waiting member that may have a connection now. Notify it after every step that may have
    /// made room. Until it takes a connection or stops waiting, that room is reserved for it.
    pub fn next(&self) -> Option<MemberId> {
        if self.waiting.is_empty() || self.in_use >= self.total {
            return None;
        }
        let is_below = |id: &&MemberId| self.members[id.0].is_below_minimum();
        let below = self.waiting.iter().find(is_below).copied();
        below.or_else(|| self.first().filter(|_| self.has_shared_room()))
    }

    /// How many connections all members may have together.
    pub fn total(&self) -> usize {
        self.total
    }

    /// How many connections all members have.
    pub fn in_use(&self) -> usize {
        self.in_use
    }

    /// How many connections a member has.
    pub fn in_use_by(&self, id: MemberId) -> usize {
        self.members[id.0].in_use
    }

    /// Whether there is room that isn't reserved for a minimum.
    fn has_shared_room(&self) -> bool {
        self.in_use + self.reserved < self.total
    }

    /// The member whose turn it is to take shared room.
    fn first(&self) -> Option<MemberId> {
        self.waiting.iter().find(|id| !self.members[id.0].is_below_minimum()).copied()
    }

    fn change(&mut self, id: MemberId, change: impl FnOnce(&mut Member)) {
        let member = &mut self.members[id.0];
        let (in_use, reserved) = (member.in_use, member.reserved());
        change(member);
        self.in_use = self.in_use - in_use + member.in_use;
        self.reserved = self.reserved - reserved + member.reserved();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Admits as many as it may.
    fn fill(budget: &mut Budget, id: MemberId) -> usize {
        (0..).take_while(|_| budget.admit(id)).count()
    }

    #[test]
    fn a_busy_member_gets_all_but_what_the_others_are_guaranteed() {
        let mut budget = Budget::new(100);
        let members: Vec<_> = (0..10).map(|_| budget.join(2, 0)).collect();
        assert_eq!(fill(&mut budget, members[0]), 82);
        for member in &members[1..] {
            assert_eq!(fill(&mut budget, *member), 2);
        }
        assert_eq!((budget.in_use(), budget.in_use_by(members[0])), (100, 82));
    }

    #[test]
    fn room_goes_in_turn_to_those_that_wait() {
        let mut budget = Budget::new(10);
        let [a, b, c] = [0; 3].map(|minimum| budget.join(minimum, 0));
        fill(&mut budget, a);
        assert_eq!([a, b, c, a].map(|id| budget.wait(id)), [true, true, true, false]);
        let mut order = Vec::new();
        for _ in 0..6 {
            assert_eq!(budget.next(), None);
            budget.finish(a);
            let next = budget.next().unwrap();
            for other in [a, b, c].into_iter().filter(|id| *id != next) {
                assert!(!budget.admit(other), "it is not the turn of {other:?}");
            }
            assert!(budget.admit(next));
            budget.wait(next);
            order.push(next);
        }
        assert_eq!(order, [a, b, c, a, b, c]);
    }

    #[test]
    fn a_member_that_declines_or_leaves_passes_the_turn_on() {
        let mut budget = Budget::new(1);
        let [a, b, c] = [0; 3].map(|minimum| budget.join(minimum, 0));
        assert!(budget.admit(a));
        assert_eq!([b, c].map(|id| budget.wait(id)), [true; 2]);
        budget.finish(a);
        assert_eq!(budget.next(), Some(b));
        budget.stop_waiting(b);
        assert_eq!(budget.next(), Some(c));
        budget.leave(c);
        assert_eq!(budget.next(), None);
        assert!(budget.admit(b));
    }

    #[test]
    fn one_that_joins_late_gets_its_minimum_before_others_get_more() {
        let mut budget = Budget::new(10);
        let a = budget.join(1, 0);
        fill(&mut budget, a);
        let b = budget.join(2, 0);
        assert_eq!([a, b].map(|id| budget.wait(id)), [true; 2]);
        for _ in 0..2 {
            assert_eq!(budget.next(), None);
            budget.finish(a);
            assert_eq!(budget.next(), Some(b));
            assert!(!budget.may_admit(a) && budget.admit(b));
            budget.wait(b);
        }
        budget.finish(a);
        assert_eq!(budget.next(), Some(a), "both have their minimum, and it has waited longer");
    }

    #[test]
    fn connections_of_one_that_is_guaranteed_nothing_any_more_still_count() {
        let mut budget = Budget::new(4);
        let [a, b] = [2; 2].map(|minimum| budget.join(minimum, 0));
        assert_eq!(fill(&mut budget, a), 2);
        budget.set_minimum(a, 0);
        assert_eq!(fill(&mut budget, b), 2);
        budget.finish(a);
        assert_eq!(fill(&mut budget, b), 1);
        budget.leave(a);
        assert_eq!((fill(&mut budget, b), budget.in_use()), (1, 4));
    }

    #[test]
    fn a_total_that_shrinks_admits_nothing_until_enough_has_ended() {
        let mut budget = Budget::new(4);
        let a = budget.join(2, 0);
        assert_eq!(fill(&mut budget, a), 4);
        budget.set_total(2);
        budget.finish(a);
        budget.finish(a);
        assert!(!budget.may_admit(a));
        budget.finish(a);
        assert_eq!(fill(&mut budget, a), 1);
    }
}
