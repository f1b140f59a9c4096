//! What the admin address shows, as JSON.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use serde_json::{Map, Value, json};
use tinylb_core::{EndReason, Report};
use tinylb_tokio::VerdictBoard;

use crate::service::Service;

/// What a replacement did.
pub(super) fn report(report: &Report) -> Value {
    let keys = |keys: &[tinylb_core::BackendKey]| -> Vec<String> {
        keys.iter().map(ToString::to_string).collect()
    };
    json!({
        "generation": report.generation.number(),
        "backends": report.backends,
        "added": keys(&report.added),
        "removed": keys(&report.removed),
        "retargeted": keys(&report.retargeted),
        "sessions_cut": report.sessions_cut,
        "dials_revoked": report.dials_revoked,
        "sessions_draining": report.sessions_draining,
    })
}

/// The report on a set of which nothing is in force before it passes its first checks.
pub(super) fn nothing_replaced() -> Value {
    json!({
        "generation": 0,
        "backends": 0,
        "added": [],
        "removed": [],
        "retargeted": [],
        "sessions_cut": 0,
        "dials_revoked": 0,
        "sessions_draining": 0,
    })
}

/// What the checks say of each backend, by key.
fn checks(board: &VerdictBoard) -> Value {
    let mut by_key = Map::new();
    let Some(set) = board.set() else { return by_key.into() };
    for (verdict, since) in board.verdicts() {
        for key in set.keys_of(&verdict.target) {
            let check = json!({
                "target": verdict.target.to_string(),
                "state": verdict.state.as_str(),
                "reason": verdict.reason.as_deref(),
                "since_seconds": since.as_secs_f64(),
            });
            by_key.insert(key.to_string(), check);
        }
    }
    by_key.into()
}

/// The state of a service.
pub(super) fn show(service: &Service) -> Value {
    let snapshot = service.handle().snapshot();
    let backends = snapshot.set.as_ref().map(|set| {
        let pairs = set.iter().map(|(key, target)| (key.to_string(), target.to_string().into()));
        Value::Object(pairs.collect())
    });
    let targets: Vec<Value> = snapshot
        .loads
        .iter()
        .map(|load| {
            json!({
                "target": load.target.to_string(),
                "dialling": load.dialling,
                "connected": load.connected,
                "draining": load.is_draining,
            })
        })
        .collect();
    let ejected: Vec<Value> = snapshot
        .ejected
        .iter()
        .map(|ejected| {
            json!({
                "target": ejected.target.to_string(),
                "cause": ejected.fault.as_str(),
                "ejected_seconds": ejected.ejected_for.as_secs_f64(),
                "next_probe_seconds": ejected.next_probe.map(|time| time.as_secs_f64()),
            })
        })
        .collect();
    let ended = EndReason::ALL
        .map(|reason| (reason.as_str().to_string(), Value::from(snapshot.ended.of(reason))));
    let left_out: BTreeMap<_, _> =
        snapshot.left_out.iter().map(|entry| (&*entry.key, &*entry.reason)).collect();
    let absent: BTreeMap<_, _> =
        snapshot.absent.iter().map(|one| (one.key.as_str(), one.time.as_secs_f64())).collect();
    json!({
        "backends": backends,
        "generation": snapshot.generation.number(),
        "set_age_seconds": snapshot.set_age.map(|age| age.as_secs_f64()),
        "source": service.source(),
        "source_lost": snapshot.source_lost.as_deref(),
        "source_restarts": service.source_restarts.load(Ordering::Relaxed),
        "set_held": snapshot.set_held.map(|held| {
            json!({
                "removed": held.removed,
                "targets": held.targets,
                "hold_seconds": held.hold.as_secs_f64(),
            })
        }),
        "left_out": left_out,
        "absent_seconds": absent,
        "targets": targets,
        "checks": service.board().as_ref().map(checks),
        "ejected": ejected,
        "probes": snapshot.probes,
        "waiting": snapshot.waiting,
        "accepted": snapshot.accepted,
        "live": snapshot.live,
        "ended": Value::Object(ended.into_iter().collect()),
        "bytes_to_backends": snapshot.bytes_to_backends,
        "bytes_to_clients": snapshot.bytes_to_clients,
        "listeners": snapshot.listeners,
        "shutting_down": service.is_leaving(),
    })
}
