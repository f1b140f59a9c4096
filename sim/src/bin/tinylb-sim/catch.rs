//! Runs a scenario. A panic is a broken law of that run, and not the end of the program.

use std::{
    cell::RefCell,
    panic::{self, AssertUnwindSafe, PanicHookInfo},
};

use tinylb_sim::{AnyScenario, Counts, Law, Level, Outcome, Trace, Violation};

thread_local! {
    /// Of the run on this thread, the text of its first panic; outside of a run, nothing is kept.
    static PANIC: RefCell<Panic> = const { RefCell::new(Panic::OutsideOfRun) };
}

enum Panic {
    OutsideOfRun,
    NoneYet,
    Caught(String),
}

/// From now on, what a panic in a run says goes to the run's outcome, and not to standard error.
pub(crate) fn keep_panics_quiet() {
    let default = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        PANIC.with(|panic| match &mut *panic.borrow_mut() {
            Panic::OutsideOfRun => default(info),
            panic @ Panic::NoneYet => *panic = Panic::Caught(text_of(info)),
            Panic::Caught(_) => {}
        });
    }));
}

fn text_of(info: &PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("a panic that says nothing");
    match info.location() {
        Some(place) => format!("{text} ({}:{})", place.file(), place.line()),
        None => text.into(),
    }
}

/// Runs a scenario; one that panics has broken [`Law::Panic`], and no more is known of it.
pub(crate) fn run(level: Level, scenario: &AnyScenario, keep_trace: bool) -> Outcome {
    PANIC.set(Panic::NoneYet);
    let result = panic::catch_unwind(AssertUnwindSafe(|| level.run_any(scenario, keep_trace)));
    let panic = PANIC.replace(Panic::OutsideOfRun);
    result.unwrap_or_else(|_| {
        let text = match panic {
            Panic::Caught(text) => text,
            Panic::OutsideOfRun | Panic::NoneYet => "a panic that says nothing".into(),
        };
        Outcome {
            violations: vec![Violation {
                at: 0,
                law: Law::Panic,
                text: format!("the run: {text}"),
            }],
            steps: 0,
            simulated: 0,
            counts: Counts::default(),
            trace: Trace::new(keep_trace),
        }
    })
}
