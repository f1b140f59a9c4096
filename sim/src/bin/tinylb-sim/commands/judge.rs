//! `tinylb-sim judge`: whether a recording of the program breaks a law.

use std::{fmt::Write, fs};

use tinylb_core::Recording;
use tinylb_sim::recorded::{JUDGED, Judgement, judge as judged};

use crate::{
    args,
    output::{Failure, print},
};

pub(crate) fn judge(args: &args::Judge) -> Result<(), Failure> {
    let name = args.file.display();
    let error =
        |cause: &dyn std::fmt::Display| Failure::Usage(format!("can't judge {name}: {cause}"));
    let text = fs::read(&args.file).map_err(|cause| error(&cause))?;
    let recording = Recording::read(&text).map_err(|cause| error(&cause))?;
    let judgement = judged(&recording, args.slack).map_err(|cause| error(&cause))?;
    print(format_args!("{}", report(&judgement)));
    if judgement.is_broken() { Err(Failure::Reported) } else { Ok(()) }
}

fn report(judgement: &Judgement) -> String {
    let mut text = String::new();
    for service in &judgement.services {
        let (name, sessions) = (&service.name, service.sessions);
        let _ = write!(text, "service {name}: {sessions} sessions");
        if service.open > 0 {
            let _ = write!(text, ", {} of them without their end", service.open);
        }
        if let Some((at, why)) = &service.stopped {
            let _ = write!(text, "; not judged from {:.3} s on, since {why}", at.as_secs_f64());
        }
        let _ =
            writeln!(text, "{}", if service.broken.is_empty() { ": no law is broken" } else { "" });
        for broken in &service.broken {
            let (law, at) = (broken.law, broken.at.as_secs_f64());
            let _ = writeln!(text, "  at {at:.6} s: {law}: {}", broken.text);
            let _ = writeln!(text, "    the law {law}: {}", law.sentence());
        }
    }
    let laws: Vec<_> = JUDGED.iter().map(|law| law.name()).collect();
    let (length, slack) = (judgement.length.as_secs_f64(), judgement.slack.as_secs_f64());
    let end = if judgement.is_full { ", up to its bound" } else { "" };
    let _ = writeln!(
        text,
        "{length:.1} s recorded{end}; timers may be {slack:.1} s late; judged: {}",
        laws.join(", ")
    );
    text
}
