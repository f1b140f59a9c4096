//! What must be, as the documentation says it.

use super::*;

impl Running {
    pub(super) fn new(name: &str, draft: &Draft) -> Self {
        Self {
            name: name.into(),
            draft: draft.clone(),
            room: Room::default(),
            accepts: BTreeSet::new(),
            stopping: 0,
            set: Set::new(),
            keeps: false,
            sessions: Vec::new(),
            ends: Ends::default(),
            expected: Set::new(),
            phase: Phase::Serving,
            ends_before: Ends::default(),
            ends_at_stop: Ends::default(),
        }
    }

    pub(super) fn leave(&mut self, since: u64, why: Why) {
        self.phase = Phase::Leaving { since, why, is_urgent: false };
        self.ends_before = self.ends;
    }
}

/// Of each service, before a reload: its phase and its backends.
pub(super) type Before = BTreeMap<ServiceId, (Phase, Backends)>;

impl World {
    pub(super) fn phases(&self) -> Before {
        let of = |running: &Running| (running.phase, running.draft.backends.clone());
        self.running.iter().map(|(id, running)| (*id, of(running))).collect()
    }

    /// The sockets that are accepted from before and after a reload.
    pub(super) fn that_stay(&mut self, drafts: &BTreeMap<u8, Draft>) -> Vec<SocketKey<u8>> {
        let mut stay = Vec::new();
        for (number, draft) in drafts.iter().filter(|_| !self.is_stopping) {
            for port in &draft.listen {
                let key = socket_key::<Config>(&name(*number), port);
                let mut before = self.running.values().filter(|r| r.accepts.contains(&key));
                if let Some(before) = before.next() {
                    if before.name != name(*number) {
                        self.seen.note(2);
                    }
                    stay.push(key);
                }
            }
        }
        stay
    }

    /// Works out what a reload must have done to each service.
    pub(super) fn expect(
        &mut self,
        drafts: &BTreeMap<u8, Draft>,
        before: &Before,
    ) -> Result<(), String> {
        let (now, is_stopping, seen) = (self.now, self.is_stopping, &mut self.seen);
        for (id, running) in &mut self.running {
            let named = drafts.iter().find(|(number, _)| name(**number) == running.name);
            match (before.get(id), named) {
                (Some((Phase::Closing { .. }, _)), _) => {}
                (Some((Phase::Leaving { .. }, _)), None) => {}
                (Some((Phase::Serving, _)), None) => running.leave(now, Why::Removed),
                (None, None) => return Err(format!("{} began unasked", running.name)),
                (was, Some((_, draft))) => {
                    ensure(was.is_some() || !is_stopping, || "it begins, and stops".into())?;
                    let is_back = matches!(was, Some((Phase::Leaving { .. }, _))) && !is_stopping;
                    let has_others = was.is_none_or(|(_, before)| *before != draft.backends);
                    match &draft.backends {
                        Backends::Table(table) if is_back || has_others => {
                            running.expected = table.clone();
                        }
                        Backends::Table(table) if *table != running.expected => seen.note(7),
                        Backends::Table(_) => {}
                        Backends::Source(source) => {
                            running.expected = self.sources[usize::from(*source)].clone();
                        }
                    }
                    match is_stopping {
                        true => seen.note(4),
                        false => running.phase = Phase::Serving,
                    }
                    if is_back {
                        seen.note(0);
                    }
                }
            }
            let keeps = matches!(running.draft.backends, Backends::Source(_)) && named.is_some();
            ensure(!running.is_alive() || running.keeps == keeps, || {
                format!("{} keeps its sets: {}", running.name, running.keeps)
            })?;
        }
        for number in drafts.keys().filter(|_| !is_stopping) {
            let mut serving = self.running.values().filter(|r| r.phase == Phase::Serving);
            let is_there = serving.any(|running| running.name == name(*number));
            ensure(is_there, || format!("{} doesn't serve", name(*number)))?;
            let mut closing = self.running.values().filter(|running| !running.is_alive());
            if closing.any(|running| running.name == name(*number)) {
                self.seen.note(1);
            }
        }
        let all = drafts.values().map(|draft| draft.listen.len()).sum::<usize>();
        let beside: usize = self.running.values().map(|running| running.room.descriptors()).sum();
        let limit = DESCRIPTORS as usize;
        let pipes = 2 * Descriptors::new(DESCRIPTORS).pipes_max();
        let taken = 28 + WORKERS * (4 + 3 * all) + pipes + beside + 2 * self.connections;
        ensure(is_stopping || taken <= limit || self.connections == 1, || {
            format!("{taken} descriptors are taken of {limit}")
        })
    }

    /// Asks whether each service that leaves has left, as the program does whenever less is left of
    /// one, and at the end of its time.
    pub(super) fn look(&mut self) -> Result<(), String> {
        for (id, running) in &mut self.running {
            let rest = Rest { sessions: running.sessions.len(), listeners: running.stopping };
            let departing = self.services.left(*id, Duration::from_secs(self.now), rest);
            let Phase::Leaving { since, why, is_urgent } = running.phase else {
                let is_left_alone = departing == Departing::Not;
                ensure(is_left_alone, || format!("{} goes: {departing:?}", running.name))?;
                continue;
            };
            let left = (since + running.draft.timeout).saturating_sub(self.now);
            let is_over = rest.sessions + rest.listeners == 0;
            let expected = match is_over || is_urgent || left == 0 {
                true => Departing::Close,
                false => Departing::Wait(Duration::from_secs(left)),
            };
            ensure(departing == expected, || {
                format!("{}: {departing:?}, not {expected:?}", running.name)
            })?;
            if departing == Departing::Close {
                running.phase = Phase::Closing { why };
                if !is_over && !is_urgent {
                    self.seen.note(6);
                }
            }
        }
        Ok(())
    }

    /// Checks what must always hold.
    pub fn check(&self) -> Result<(), String> {
        for running in self.running.values().filter(|running| running.is_alive()) {
            let (name, set, expected) = (&running.name, &running.set, &running.expected);
            ensure(set == expected, || format!("{name} has {set:?}, not {expected:?}"))?;
            let stray = running.sessions.iter().find(|target| !expected.contains(target));
            ensure(stray.is_none(), || format!("a session of {name} goes on to {stray:?}"))?;
            let accepts = !running.accepts.is_empty();
            ensure(accepts == (running.phase == Phase::Serving), || {
                format!("{name} accepts: {accepts}, {:?}", running.phase)
            })?;
        }
        let used = self.running.values().flat_map(|running| running.accepts.iter().cloned());
        let (open, used) = (&self.open, used.collect::<BTreeSet<_>>());
        ensure(*open == used, || format!("{open:?} are open, and {used:?} accepted from"))?;
        let mut names: Vec<_> = self.running.values().map(|running| &*running.name).collect();
        names.sort_unstable();
        names.dedup();
        let listed: Vec<_> = self.services.named().map(|(name, _)| name).collect();
        let is_stopped = self.services.stopped().is_some();
        ensure(is_stopped == (self.is_stopping && names.is_empty()), || "stopped".into())?;
        let alive = self.running.values().filter(|running| running.is_alive());
        let missing = alive.map(|running| &*running.name).find(|name| !listed.contains(name));
        ensure(missing.is_none(), || format!("{missing:?} is not listed"))
    }
}
