use std::{
    future::ready,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use tinylb_core::{BackendSet, CheckSettings, Update};
use tinylb_tokio::{Address, Checked, Checker, HttpCheck, TcpCheck, VerdictBoard};
use tracing::warn;

use crate::{
    args::{CheckHow, Question, Register},
    config::Tls,
    log::OwnFaults,
};

/// Whether a backend passes its check.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    Passes,
    /// It doesn't, with the reason.
    Fails(Arc<str>),
}

/// Checks in a row without an answer that take a backend out of etcd, at one a second. An answer that
/// means no counts at once. Anything else may be this machine's own trouble, or a backlog that is full
/// for a moment, and taking a backend out cuts its connections.
const UNANSWERED_MAX: u32 = 5;

/// How long the backend has to answer, and how long the first verdict is awaited.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The first verdict, and each that differs from the one before. Without a check, a backend passes.
///
/// # Errors
/// What is wrong with the check.
pub(super) fn verdicts(args: &Register) -> Result<BoxStream<'static, Verdict>, String> {
    let Some(how) = args.check else {
        let Question { path, port, host, tls, rise, fall } = &args.question;
        let is_plain = path.is_none() && port.is_none() && host.is_none();
        return match is_plain && *tls == Tls::default() && (*rise, *fall) == (1, 1) {
            true => Ok(stream::iter([Verdict::Passes]).chain(stream::pending()).boxed()),
            false => Err("there is no check to have these settings: give `--check`".into()),
        };
    };
    let question = &args.question;
    if !matches!(how, CheckHow::Https) && question.tls != Tls::default() {
        return Err("only `--check https` has a CA, a certificate and a domain: give that".into());
    }
    Ok(match how {
        CheckHow::Tcp if question.path.is_some() || question.host.is_some() => {
            return Err("`--check tcp` has no path and no host: give `--check http`".into());
        }
        CheckHow::Tcp => {
            let mut check = TcpCheck::new().with_refusal_as_no();
            if let Some(port) = question.port {
                check = check.with_port(port);
            }
            checked(check, args)?
        }
        CheckHow::Http | CheckHow::Https => {
            let path = question.path.as_deref().unwrap_or("/");
            let mut check =
                HttpCheck::new(path).map_err(|error| error.to_string())?.with_refusal_as_no();
            if let Some(port) = question.port {
                check = check.with_port(port);
            }
            if let Some(host) = &question.host {
                check = check.with_host(host).map_err(|error| error.to_string())?;
            }
            if let CheckHow::Https = how {
                check = question.tls.clone().encrypt(check)?;
            }
            checked(check, args)?
        }
    })
}

/// Checks the one backend there is.
fn checked(checker: impl Checker, args: &Register) -> Result<BoxStream<'static, Verdict>, String> {
    let mut settings = CheckSettings::default();
    settings.timeout = TIMEOUT;
    (settings.rise, settings.fall) = (args.question.rise, args.question.fall);
    settings.fall_unanswered = UNANSWERED_MAX.max(settings.fall);
    let checked = Checked::new(checker, settings).map_err(|error| error.to_string())?;
    let set = BackendSet::new([(args.key.as_str(), args.address.clone())]);
    let set = set.map_err(|error| error.to_string())?;
    let own_faults = Mutex::new(OwnFaults::default());
    let checked = checked.on_own_fault(move |target, reason| {
        let mut own_faults = own_faults.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(spared) = own_faults.line(Instant::now(), reason) {
            let address = target.to_string();
            warn!(address, spared, "the backend can't be checked, nothing changes: {reason}");
        }
    });
    let source = stream::iter([Update::Set(set)]).chain(stream::pending());
    let board = checked.board();
    Ok(checked.updates(source).filter_map(move |update| ready(verdict(update, &board))).boxed())
}

fn verdict(update: Update<Address>, board: &VerdictBoard) -> Option<Verdict> {
    let set = match update {
        Update::Set(set) | Update::Partial(set, _) | Update::Narrowed(set) => set,
        Update::Lost(_) => return None,
    };
    if !set.is_empty() {
        return Some(Verdict::Passes);
    }
    let reason = board.verdicts().into_iter().find_map(|(verdict, _)| verdict.reason);
    // Its first check began at once. It has had its time, and may not have been given up yet.
    Some(Verdict::Fails(reason.unwrap_or_else(|| format!("no answer within {TIMEOUT:?}").into())))
}
