//! `tinylb-sim zoo`: proves that scenarios find bugs. Each planted bug goes into a copy of the
//! sources, this program is built from them, and has to find it.

mod bug;
mod found;
mod tree;

use std::{iter, time::Instant};

use tinylb_sim::Level;

use self::{
    bug::Bug,
    found::{Found, look_for},
    tree::Tree,
};
use crate::{
    args,
    output::{Failure, print},
};

pub(crate) fn zoo(args: &args::Zoo) -> Result<(), Failure> {
    let all = bug::all(&args.root)?;
    let named = |name: &str| {
        all.iter().find(|bug| bug.name == name).ok_or_else(|| {
            let remedy = "take the name of a patch, without .patch";
            Failure::Usage(format!("{name} is no planted bug; {remedy}"))
        })
    };
    let bugs: Vec<_> = match args.names.is_empty() {
        true => all.iter().collect(),
        false => args.names.iter().map(|name| named(name)).collect::<Result<_, _>>()?,
    };
    let levels = match args.level {
        Some(level) => vec![level],
        None => Level::ALL.to_vec(),
    };
    let starts = if args.short { 1 } else { args.starts };
    let tree = Tree::new(&args.root)?;
    tree.build().map_err(Failure::Error)?;
    for level in &levels {
        found::check_clean(&tree.program, *level, args.seeds)?;
    }
    print(format_args!("{:<32}", "bug"));
    for level in &levels {
        print(format_args!("{:<36}", level.name()));
    }
    print(format_args!("seconds\n"));
    let mut sums = Sums::default();
    for bug in bugs {
        if let Some(needs) = bug.needs() {
            print(format_args!("{:<31} not tried: it needs {needs}\n", bug.name));
            continue;
        }
        let hidden = bug.hides().map(named).transpose()?;
        sums.add(&try_bug(bug, hidden, &tree, &levels, starts, args), args.seeds);
    }
    tree.restore()?;
    if args.names.len() == 1 {
        print(format_args!("the program that has it: {}\n", tree.program.display()));
    }
    sums.judge(args.seeds)
}

/// Plants a bug, with another that it hides, and looks for it on each level.
fn try_bug(
    bug: &Bug,
    hidden: Option<&Bug>,
    tree: &Tree,
    levels: &[Level],
    starts: u64,
    args: &args::Zoo,
) -> Vec<Found> {
    let began = Instant::now();
    print(format_args!("{:<31} ", bug.name));
    let built = tree.plant(iter::once(bug).chain(hidden)).and_then(|()| tree.build());
    let found: Vec<_> = match &built {
        Ok(()) => {
            let look = |level: &Level| look_for(bug, &tree.program, *level, starts, args.seeds);
            levels.iter().map(look).collect()
        }
        Err(_) => levels.iter().map(|_| Found::Blind).collect(),
    };
    for found in &found {
        let text = if built.is_ok() { found.to_string() } else { "NOT TRIED".into() };
        print(format_args!("{text:<35} "));
    }
    print(format_args!("{:.1}\n", began.elapsed().as_secs_f64()));
    if args.describe {
        print(format_args!("    {}\n", bug.first_sentence()));
    }
    if let Err(message) = built {
        print(format_args!("{message}\n"));
    }
    found
}

/// What all bugs come to.
#[derive(Default)]
struct Sums {
    bugs: usize,
    missed: usize,
    /// For each bug, how many seeds it took on the level that took the fewest. Those that only show
    /// in checks of the simulation don't count here.
    seeds: Vec<u64>,
}

impl Sums {
    /// `on_levels`: how one bug was found on each level.
    fn add(&mut self, on_levels: &[Found], limit: u64) {
        self.bugs += 1;
        if on_levels.iter().all(|found| matches!(found, Found::Blind)) {
            self.missed += 1;
            // It would have taken more than all seeds.
            self.seeds.push(limit.saturating_add(1));
        }
        self.seeds.extend(on_levels.iter().filter_map(Found::seeds).min());
    }

    fn judge(mut self, limit: u64) -> Result<(), Failure> {
        self.seeds.sort_unstable();
        let median = self.seeds.get(self.seeds.len() / 2).copied().unwrap_or_default();
        let Self { bugs, missed, .. } = self;
        print(format_args!(
            "{} of {bugs} planted bugs found; the median bug takes {median} seeds, and must take \
             fewer than {limit}\n",
            bugs - missed,
        ));
        if missed == 0 && median < limit { Ok(()) } else { Err(Failure::Told) }
    }
}
