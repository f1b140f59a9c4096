//! `tinylb-sim zoo`: proves that scenarios find bugs. Each planted bug goes into a copy of the
//! sources, this program is built from them, and has to find it. Several are tried at once, each in
//! a copy of its own.

mod bug;
mod found;
mod tree;

use std::{
    iter,
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};

use tinylb_sim::Level;

use self::{
    bug::Bug,
    found::{Build, Found, look_for},
    tree::Tree,
};
use super::run::cores;
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
    let (bugs, not_tried): (Vec<_>, Vec<_>) =
        bugs.into_iter().partition(|bug| bug.needs().is_none());
    let plants: Vec<_> = bugs
        .into_iter()
        .map(|bug| Ok(Plant { bug, hidden: bug.hides().map(named).transpose()? }))
        .collect::<Result<_, _>>()?;
    let levels = match args.level {
        Some(level) => vec![level],
        None => Level::ALL.to_vec(),
    };
    let trees = trees(args, &levels, plants.len())?;
    print(format_args!("{:<32}", "bug"));
    for level in &levels {
        print(format_args!("{:<36}", level.name()));
    }
    print(format_args!("seconds\n"));
    for bug in not_tried {
        let needs = bug.needs().unwrap_or_default();
        print(format_args!("{:<31} not tried: it needs {needs}\n", bug.name));
    }
    let sums = try_all(&plants, &trees, &levels, args);
    trees.iter().try_for_each(Tree::restore)?;
    if args.names.len() == 1 {
        print(format_args!("the program that has it: {}\n", trees[0].program.display()));
    }
    sums.judge(args.seeds)
}

/// A bug to try, and another that it hides.
struct Plant<'a> {
    bug: &'a Bug,
    hidden: Option<&'a Bug>,
}

/// A tree for each bug that is tried at once, once the first one has passed without any.
fn trees(args: &args::Zoo, levels: &[Level], bugs: usize) -> Result<Vec<Tree>, Failure> {
    let first = Tree::new(&args.root)?;
    first.build().map_err(Failure::Error)?;
    for level in levels {
        let build = Build { program: &first.program, level: *level, threads: cores() };
        found::check_clean(build, args.seeds)?;
    }
    let jobs = args.jobs.unwrap_or_else(cores).min(bugs);
    let mut trees = vec![first];
    for number in 2..=jobs {
        trees.push(trees[0].beside(number)?);
    }
    Ok(trees)
}

/// Has a thread for each tree try one bug after the other, and prints what comes of them as it
/// comes.
fn try_all(plants: &[Plant<'_>], trees: &[Tree], levels: &[Level], args: &args::Zoo) -> Sums {
    let threads = (cores() / trees.len()).max(1);
    let (next, sums) = (Mutex::new(plants.iter()), Mutex::new(Sums::default()));
    let work = |tree: &Tree| {
        loop {
            let plant = next.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(plant) = plant else { return };
            let (found, text) = plant.try_in(tree, levels, threads, args);
            let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
            sums.add(&found, args.seeds);
            print(format_args!("{text}"));
        }
    };
    thread::scope(|scope| trees.iter().for_each(|tree| drop(scope.spawn(|| work(tree)))));
    sums.into_inner().unwrap_or_else(PoisonError::into_inner)
}

impl Plant<'_> {
    /// Plants it, and looks for it on each level. Returns how it was found, and the lines that say
    /// so.
    fn try_in(
        &self,
        tree: &Tree,
        levels: &[Level],
        threads: usize,
        args: &args::Zoo,
    ) -> (Vec<Found>, String) {
        let (began, Self { bug, hidden }) = (Instant::now(), self);
        let built = tree.plant(iter::once(*bug).chain(*hidden)).and_then(|()| tree.build());
        let starts = if args.short { 1 } else { args.starts };
        let look = |level: &Level| match built {
            Ok(()) if !bug.is_in(*level) => Found::Blind,
            Ok(()) => {
                let build = Build { program: &tree.program, level: *level, threads };
                look_for(bug, build, starts, args.seeds)
            }
            Err(_) => Found::Blind,
        };
        let found: Vec<_> = levels.iter().map(look).collect();
        let mut text = format!("{:<31} ", bug.name);
        for found in &found {
            let how = if built.is_ok() { found.to_string() } else { "NOT TRIED".into() };
            text += &format!("{how:<35} ");
        }
        text += &format!("{:.1}\n", began.elapsed().as_secs_f64());
        if args.describe {
            text += &format!("    {}\n", bug.first_sentence());
        }
        if let Err(message) = built {
            text += &format!("{message}\n");
        }
        (found, text)
    }
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
        if missed == 0 && median < limit { Ok(()) } else { Err(Failure::Reported) }
    }
}
