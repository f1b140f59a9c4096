use std::{
    collections::BTreeMap,
    fmt::{Display, Write},
    sync::atomic::Ordering,
};

use tinylb_core::{EndReason, Fault, SharedBudget, Snapshot, VerdictState};
use tinylb_tokio::{Address, VerdictBoard};

use crate::{
    log::{Ejections, Verdicts},
    service::Service,
};

/// The state of all services in Prometheus's text format, version 0.0.4.
pub(crate) fn text(services: &[std::sync::Arc<Service>], budget: &SharedBudget) -> String {
    let mut page = Page::default();
    let (total, in_use) = (budget.total(), budget.in_use());
    let help = "Connections that all services may have together, given the descriptor limit.";
    page.add("tinylb_descriptor_connections_max", "gauge", help, &[], total);
    let help = "Connections that have not ended, in all services together.";
    page.add("tinylb_descriptor_connections_live", "gauge", help, &[], in_use);
    for service in services {
        let snapshot = service.handle().snapshot();
        let name = service.name.as_str();
        totals(&mut page, name, &snapshot, total);
        page.add(
            "tinylb_shutting_down",
            "gauge",
            "Whether the service has stopped accepting while its sessions finish.",
            &[("service", name)],
            u8::from(service.is_leaving()),
        );
        backends(&mut page, name, &snapshot);
        ejections(&mut page, name, &service.events.ejections);
        if let Some(board) = service.board() {
            checks(&mut page, name, &board, &service.events.verdicts);
        }
        let failures = [
            ("tinylb_dial_failures_total", "Dials that failed.", &service.events.dial_failures),
            (
                "tinylb_accept_failures_total",
                "Accepts that failed.",
                &service.events.accept_failures,
            ),
            (
                "tinylb_address_failures_total",
                "Addresses of a backend's name that failed in a dial, even if another answered.",
                &service.events.address_failures,
            ),
            (
                "tinylb_source_restarts_total",
                "Times that the source panicked or ended and was restarted.",
                &*service.source_restarts,
            ),
        ];
        for (metric, help, counter) in failures {
            let labels = [("service", name)];
            page.add(metric, "counter", help, &labels, counter.load(Ordering::Relaxed));
        }
    }
    page.finish()
}

fn totals(page: &mut Page, service: &str, snapshot: &Snapshot<Address>, connections: usize) {
    let labels = [("service", service)];
    page.add(
        "tinylb_connections_accepted_total",
        "counter",
        "Clients' connections accepted.",
        &labels,
        snapshot.accepted,
    );
    for reason in EndReason::ALL {
        page.add(
            "tinylb_connections_ended_total",
            "counter",
            "Connections ended, by reason.",
            &[("service", service), ("reason", reason.as_str())],
            snapshot.ended.of(reason),
        );
    }
    for (direction, bytes) in
        [("to_backends", snapshot.bytes_to_backends), ("to_clients", snapshot.bytes_to_clients)]
    {
        page.add(
            "tinylb_bytes_total",
            "counter",
            "Bytes relayed by connections that have ended.",
            &[("service", service), ("direction", direction)],
            bytes,
        );
    }
    let backends = snapshot.set.as_ref().map_or(0, |set| set.len());
    let age = snapshot.set_age.map_or(0.0, |age| age.as_secs_f64());
    let targets = snapshot.set.as_ref().map_or(0, |set| set.targets().len());
    let are_all_ejected = targets > 0 && snapshot.ejected.len() == targets;
    let gauges: [(&str, &str, &dyn Display); 14] = [
        ("tinylb_connections_live", "Connections that have not ended.", &snapshot.live),
        ("tinylb_connections_waiting", "Connections that wait for a set.", &snapshot.waiting),
        (
            "tinylb_connections_max",
            "Connections at which accepting pauses.",
            &snapshot.settings.max_connections.min(connections),
        ),
        (
            "tinylb_connections_limit_reached",
            "Whether clients had to wait for room in the last 10 s.",
            &u8::from(snapshot.limit_reached.is_some()),
        ),
        (
            "tinylb_listeners",
            "Accept loops: each worker has one at each address.",
            &snapshot.listeners,
        ),
        ("tinylb_backends", "Backends in the set.", &backends),
        (
            "tinylb_targets_ejected",
            "Targets that get no new clients, since they don't accept connections.",
            &snapshot.ejected.len(),
        ),
        (
            "tinylb_targets_all_ejected",
            "Whether every target of the set is ejected. Then all of them are tried.",
            &u8::from(are_all_ejected),
        ),
        ("tinylb_set_generation", "Replacements of the set so far.", &snapshot.generation),
        ("tinylb_set_age_seconds", "Time since the set was last given.", &age),
        (
            "tinylb_source_lost",
            "Whether the source of sets is lost.",
            &u8::from(snapshot.source_lost.is_some()),
        ),
        (
            "tinylb_set_held",
            "Whether a set that removes too many backends is held.",
            &u8::from(snapshot.set_held.is_some()),
        ),
        (
            "tinylb_entries_left_out",
            "Entries of the source that are no backends.",
            &snapshot.left_out.len(),
        ),
        (
            "tinylb_backends_absent",
            "Backends in the set that the source no longer names.",
            &snapshot.absent.len(),
        ),
    ];
    for (metric, help, value) in gauges {
        page.add(metric, "gauge", help, &labels, value);
    }
}

/// Why targets were ejected, and what came after.
fn ejections(page: &mut Page, service: &str, ejections: &Ejections) {
    for cause in Fault::ALL.into_iter().filter(|cause| *cause != Fault::Ours) {
        page.add(
            "tinylb_ejections_total",
            "counter",
            "Ejections of targets, by cause.",
            &[("service", service), ("cause", cause.as_str())],
            ejections.of(cause),
        );
    }
    let probes = [("succeeded", &ejections.probes_succeeded), ("failed", &ejections.probes_failed)];
    for (result, count) in probes {
        page.add(
            "tinylb_probes_total",
            "counter",
            "Probes of ejected targets, by result.",
            &[("service", service), ("result", result)],
            count.load(Ordering::Relaxed),
        );
    }
    let labels = [("service", service)];
    let help = "Ejected targets that came back into rotation.";
    let returns = ejections.returns.load(Ordering::Relaxed);
    page.add("tinylb_returns_total", "counter", help, &labels, returns);
    let help = "Dials without an answer that were given up for another backend.";
    let given_up = ejections.dials_given_up.load(Ordering::Relaxed);
    page.add("tinylb_dials_given_up_total", "counter", help, &labels, given_up);
}

/// What the checks say of each target.
fn checks(page: &mut Page, service: &str, board: &VerdictBoard, verdicts: &Verdicts) {
    let mut passing = 0;
    let all = board.verdicts();
    for (verdict, _) in &all {
        let target = verdict.target.to_string();
        let is_passing = verdict.state == VerdictState::Passing;
        passing += usize::from(is_passing);
        page.add(
            "tinylb_backend_check_passing",
            "gauge",
            "Whether each target passes its checks.",
            &[("service", service), ("target", &target)],
            u8::from(is_passing),
        );
    }
    let labels = [("service", service)];
    let help = "Targets that are checked.";
    page.add("tinylb_targets_checked", "gauge", help, &labels, all.len());
    let help = "Targets that pass their checks.";
    page.add("tinylb_targets_passing", "gauge", help, &labels, passing);
    for (verdict, count) in [("passing", &verdicts.passed), ("failing", &verdicts.failed)] {
        page.add(
            "tinylb_check_changes_total",
            "counter",
            "Changes of what the checks say of a target, by what they say since.",
            &[("service", service), ("verdict", verdict)],
            count.load(Ordering::Relaxed),
        );
    }
}

/// Each target of the set, and those that left it and drain.
fn backends(page: &mut Page, service: &str, snapshot: &Snapshot<Address>) {
    let mut targets: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    for target in snapshot.set.iter().flat_map(|set| set.targets()) {
        targets.entry(target.to_string()).or_default();
    }
    for load in &snapshot.loads {
        let counts = targets.entry(load.target.to_string()).or_default();
        counts[0] += load.dialling;
        counts[if load.is_draining { 2 } else { 1 }] += load.connected;
    }
    for (target, counts) in &targets {
        for (state, count) in ["dialling", "connected", "draining"].iter().zip(counts) {
            page.add(
                "tinylb_backend_connections",
                "gauge",
                "Connections of each target.",
                &[("service", service), ("target", target), ("state", state)],
                count,
            );
        }
    }
}

/// Samples by metric: the format wants all of one metric together.
#[derive(Default)]
struct Page(BTreeMap<&'static str, String>);

impl Page {
    fn add(
        &mut self,
        metric: &'static str,
        kind: &str,
        help: &str,
        labels: &[(&str, &str)],
        value: impl Display,
    ) {
        let text = self
            .0
            .entry(metric)
            .or_insert_with(|| format!("# HELP {metric} {help}\n# TYPE {metric} {kind}\n"));
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        let labels =
            if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(text, "{metric}{labels} {value}");
    }

    fn finish(self) -> String {
        self.0.into_values().collect()
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_metric_stand_together_and_labels_are_escaped() {
        let mut page = Page::default();
        page.add("b", "gauge", "B.", &[("x", "1")], 1);
        page.add("a", "counter", "A.", &[("x", "q\"\\\n")], 2);
        page.add("b", "gauge", "B.", &[("x", "2")], 3.5);
        let expected = "# HELP a A.\n# TYPE a counter\na{x=\"q\\\"\\\\\\n\"} 2\n\
                        # HELP b B.\n# TYPE b gauge\nb{x=\"1\"} 1\nb{x=\"2\"} 3.5\n";
        assert_eq!(page.finish(), expected);
    }
}
