use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{Definition, ServiceId, SocketKey};

/// What a configuration changes. Made without changing anything, so that whatever can fail is done
/// before [`Services::commit`](crate::Services::commit): a plan that is dropped has changed nothing.
#[derive(Debug)]
pub struct Plan<D: Definition> {
    /// What becomes of the services that the configuration names, by name.
    pub steps: BTreeMap<String, Planned<D>>,
    /// The services that it names too late: the program stops, and nothing begins.
    pub passed_over: BTreeSet<String>,
    /// The sockets to open first. All others that it needs are open.
    pub open: BTreeSet<SocketKey<D::Address>>,
    /// The serving services that it lacks.
    pub(crate) leave: Vec<ServiceId>,
    /// The services that leave already, and that it lacks.
    pub(crate) disown: Vec<ServiceId>,
    /// How often the state had changed when this was planned.
    pub(crate) base: u64,
}

/// What becomes of a service that the configuration names.
#[derive(Debug)]
pub struct Planned<D> {
    /// How it goes on.
    pub step: Step,
    /// Where its backends come from now.
    pub feed: Feed,
    /// What it is from now on.
    pub definition: Arc<D>,
}

/// What a configuration does to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It begins.
    Start,
    /// It goes on, perhaps with changes.
    Change(ServiceId),
    /// It was leaving and serves again: its sessions, its rotation and its totals go on.
    Return(ServiceId),
    /// It keeps leaving, with another set and other settings.
    Adjust(ServiceId),
}

impl Step {
    /// The service, unless it only begins.
    pub fn service(self) -> Option<ServiceId> {
        match self {
            Self::Start => None,
            Self::Change(id) | Self::Return(id) | Self::Adjust(id) => Some(id),
        }
    }
}

/// What a configuration does to where a service's backends come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// Nothing: a table that arrived by PUT stays, and a source is still followed.
    Stays,
    /// Its table takes the place of whatever there is.
    Given,
    /// The table stays, perhaps one that arrived by PUT. What changes is whether its backends are
    /// checked.
    Kept,
    /// Its source is followed from the start.
    Followed,
}

impl Feed {
    /// What another definition does to a service.
    pub(crate) fn between<D: Definition>(before: &D, after: &D, step: Step) -> Self {
        // While the service was not in the configuration, that had no say: a table that was put
        // since then is outdated.
        let is_named_again = matches!(step, Step::Return(_)) && !after.is_followed();
        let has_others = is_named_again || !after.has_backends_of(before);
        match (has_others, before.is_checked() == after.is_checked()) {
            (false, true) => Self::Stays,
            (false, false) if !after.is_followed() => Self::Kept,
            _ => Self::begin(after),
        }
    }

    /// What the definition of a new service does.
    pub(crate) fn begin<D: Definition>(definition: &D) -> Self {
        match definition.is_followed() {
            true => Self::Followed,
            false => Self::Given,
        }
    }
}
