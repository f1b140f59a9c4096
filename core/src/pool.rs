use std::num::NonZeroU32;

use slab::Slab;

use crate::{BackendSet, Change, Generation, Removal, SessionId, Target};

/// "No such index", in the lists and tables of this crate.
pub(crate) const NONE: u32 = u32::MAX;

/// The attempts that are dialling or connected: by member (session, kill handle) and by target.
///
/// A target has an entry, a *group*, only while it has members. Insert and remove are O(1); taking
/// a whole target out is O(1) for each member taken. The members of a group that drains stay until
/// they end, expire or their target comes back, but their group stands apart from the set.
pub(crate) struct Pool<T, K> {
    members: Slab<Member<K>>,
    groups: Slab<Group<T>>,
    /// For each target of the current set, by index: its group, or [`NONE`].
    group_of: Vec<u32>,
}

struct Member<K> {
    owner: SessionId,
    kill: K,
    group: u32,
    /// How many dials of the target had succeeded when this one began; `None` once it has, too.
    dials_since: Option<NonZeroU32>,
    before: u32,
    after: u32,
}

struct Group<T> {
    target: T,
    /// The target's index in the current set, or [`NONE`] while it drains.
    index: u32,
    /// The replacement that removed the target; meaningless while it is in the set.
    drains_since: Generation,
    /// Counts the dials and probes that have succeeded, from 1, wrapping.
    successes: NonZeroU32,
    dialling: List,
    connected: List,
}

/// The ends of a list whose links are in the members; in order of insertion.
#[derive(Clone, Copy)]
struct List {
    first: u32,
    last: u32,
    length: u32,
}

/// A member that a replacement or a deadline has taken out.
pub(crate) struct TakenOut<K> {
    pub(crate) owner: SessionId,
    pub(crate) kill: K,
}

/// What a replacement has done to the pool.
pub(crate) struct Retargeted<K> {
    pub(crate) dialling: Vec<TakenOut<K>>,
    pub(crate) connected: Vec<TakenOut<K>>,
    pub(crate) draining: usize,
}

/// How many sessions a target has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load<T> {
    /// The target.
    pub target: T,
    /// Sessions that are dialling it.
    pub dialling: usize,
    /// Sessions that are connected to it, those that drain included.
    pub connected: usize,
    /// Whether the target has left the set and its sessions drain.
    pub is_draining: bool,
}

impl<T: Target, K> Pool<T, K> {
    pub(crate) fn new() -> Self {
        Self { members: Slab::new(), groups: Slab::new(), group_of: Vec::new() }
    }

    /// Adds an attempt that dials the target at this index of the current set.
    pub(crate) fn insert(
        &mut self,
        set: &BackendSet<T>,
        index: u32,
        owner: SessionId,
        kill: K,
    ) -> u32 {
        let mut group = self.group_of[index as usize];
        if group == NONE {
            group = self.groups.insert(Group {
                target: set.targets()[index as usize].clone(),
                index,
                drains_since: Generation::default(),
                successes: NonZeroU32::MIN,
                dialling: List::EMPTY,
                connected: List::EMPTY,
            }) as u32;
            self.group_of[index as usize] = group;
        }
        let member = self.members.insert(Member {
            owner,
            kill,
            group,
            dials_since: Some(self.groups[group as usize].successes),
            before: NONE,
            after: NONE,
        }) as u32;
        self.link(member);
        member
    }

    /// Moves a dialling member to its target's connected ones.
    pub(crate) fn connect(&mut self, member: u32) {
        self.unlink(member);
        let Member { group, dials_since, .. } = &mut self.members[member as usize];
        *dials_since = None;
        self.groups[*group as usize].note_success();
        self.link(member);
    }

    /// Notes that a probe of the target at this index has succeeded.
    pub(crate) fn note_success(&mut self, index: u32) {
        if let Some(group) = self.groups.get_mut(self.group_of[index as usize] as usize) {
            group.note_success();
        }
    }

    pub(crate) fn is_connected(&self, member: u32) -> bool {
        self.members[member as usize].is_connected()
    }

    /// Whether no dial or probe of its target has succeeded since this member began to dial.
    pub(crate) fn has_no_success_since(&self, member: u32) -> bool {
        let Member { group, dials_since, .. } = self.members[member as usize];
        dials_since == Some(self.groups[group as usize].successes)
    }

    /// The index of a member's target in the current set, or [`NONE`] while it drains.
    pub(crate) fn target_index(&self, member: u32) -> u32 {
        self.groups[self.members[member as usize].group as usize].index
    }

    pub(crate) fn is_draining(&self, member: u32) -> bool {
        self.target_index(member) == NONE
    }

    pub(crate) fn kill_of(&self, member: u32) -> &K {
        &self.members[member as usize].kill
    }

    /// Takes one member out, and its target's entry if it was the last.
    pub(crate) fn remove(&mut self, member: u32) -> K {
        self.unlink(member);
        let removed = self.members.remove(member as usize);
        let group = &self.groups[removed.group as usize];
        if group.dialling.length == 0 && group.connected.length == 0 {
            self.forget(removed.group);
        }
        removed.kill
    }

    /// Follows a change of the set: what is dialling or connected to a target that leaves is taken
    /// out, or left to drain. O(targets that have members), besides the members taken.
    pub(crate) fn retarget(
        &mut self,
        change: &mut Change<T>,
        generation: Generation,
        removal: Removal,
    ) -> Retargeted<K> {
        std::mem::swap(&mut self.group_of, &mut change.unfilled);
        let mut leaving = Vec::new();
        for (place, group) in &mut self.groups {
            let was_in_set = group.index != NONE;
            group.index = if was_in_set {
                change.moved[group.index as usize]
            } else {
                change.next.target_index(&group.target).unwrap_or(NONE)
            };
            if group.index != NONE {
                self.group_of[group.index as usize] = place as u32;
            } else if was_in_set {
                group.drains_since = generation;
                leaving.push(place as u32);
            }
        }

        let mut done = Retargeted { dialling: Vec::new(), connected: Vec::new(), draining: 0 };
        for place in leaving {
            let dialling =
                std::mem::replace(&mut self.groups[place as usize].dialling, List::EMPTY);
            self.take(dialling, &mut done.dialling);
            match removal {
                Removal::Abort => {
                    let connected = self.forget(place).connected;
                    self.take(connected, &mut done.connected);
                }
                Removal::Drain(_) => match self.groups[place as usize].connected.length {
                    0 => drop(self.forget(place)),
                    length => done.draining += length as usize,
                },
            }
        }
        done
    }

    /// Takes out what still drains since this replacement.
    pub(crate) fn take_drained(&mut self, since: Generation) -> Vec<TakenOut<K>> {
        let expired: Vec<u32> = self
            .groups
            .iter()
            .filter(|(_, group)| group.index == NONE && group.drains_since == since)
            .map(|(place, _)| place as u32)
            .collect();
        let mut taken = Vec::new();
        for place in expired {
            let connected = self.forget(place).connected;
            self.take(connected, &mut taken);
        }
        taken
    }

    /// Takes out the connected members of the target at this index.
    pub(crate) fn take_connected(&mut self, index: u32, taken: &mut Vec<TakenOut<K>>) {
        let place = self.group_of[index as usize];
        let Some(group) = self.groups.get_mut(place as usize) else { return };
        let connected = std::mem::replace(&mut group.connected, List::EMPTY);
        if group.dialling.length == 0 {
            self.forget(place);
        }
        self.take(connected, taken);
    }

    /// The sessions of each target that has any, in no order that means anything.
    pub(crate) fn loads(&self) -> impl Iterator<Item = Load<T>> {
        self.groups.iter().map(|(_, group)| Load {
            target: group.target.clone(),
            dialling: group.dialling.length as usize,
            connected: group.connected.length as usize,
            is_draining: group.index == NONE,
        })
    }

    fn forget(&mut self, place: u32) -> Group<T> {
        let group = self.groups.remove(place as usize);
        if group.index != NONE {
            self.group_of[group.index as usize] = NONE;
        }
        group
    }

    /// Moves the members of a list that is no group's any more.
    fn take(&mut self, list: List, taken: &mut Vec<TakenOut<K>>) {
        taken.reserve(list.length as usize);
        let mut next = list.first;
        while next != NONE {
            let member = self.members.remove(next as usize);
            next = member.after;
            taken.push(TakenOut { owner: member.owner, kill: member.kill });
        }
    }

    /// Appends a member to the list that its state and group say.
    fn link(&mut self, member: u32) {
        let links = &self.members[member as usize];
        let list = self.groups[links.group as usize].list(links.is_connected());
        let last = std::mem::replace(&mut list.last, member);
        list.length += 1;
        match last {
            NONE => list.first = member,
            last => self.members[last as usize].after = member,
        }
        let links = &mut self.members[member as usize];
        (links.before, links.after) = (last, NONE);
    }

    fn unlink(&mut self, member: u32) {
        let links = &self.members[member as usize];
        let (connected, before, after) = (links.is_connected(), links.before, links.after);
        let group = links.group;
        let list = self.groups[group as usize].list(connected);
        list.length -= 1;
        match before {
            NONE => list.first = after,
            before => self.members[before as usize].after = after,
        }
        match after {
            NONE => self.groups[group as usize].list(connected).last = before,
            after => self.members[after as usize].before = before,
        }
    }
}

impl<K> Member<K> {
    fn is_connected(&self) -> bool {
        self.dials_since.is_none()
    }
}

impl<T> Group<T> {
    fn note_success(&mut self) {
        self.successes = self.successes.checked_add(1).unwrap_or(NonZeroU32::MIN);
    }

    fn list(&mut self, connected: bool) -> &mut List {
        if connected { &mut self.connected } else { &mut self.dialling }
    }
}

impl List {
    const EMPTY: Self = Self { first: NONE, last: NONE, length: 0 };
}
