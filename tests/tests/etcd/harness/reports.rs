use std::time::Duration;

use futures::{
    StreamExt,
    channel::mpsc::{UnboundedReceiver, unbounded},
};
use tinylb_core::Update;
use tinylb_tokio::{Address, EtcdOptions, EtcdSource};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::DEADLINE;

/// What a source reports, as text: `a=127.0.0.1:1 b=127.0.0.1:2`, with `!key: reason` for each bad
/// entry, or `lost: reason`.
pub(crate) struct Reports {
    updates: UnboundedReceiver<String>,
    task: JoinHandle<()>,
    /// All of it so far.
    pub(crate) all: Vec<String>,
}

impl Reports {
    /// By a source with these options, from now on.
    pub(crate) fn by(options: EtcdOptions) -> Self {
        let (sender, updates) = unbounded();
        let mut source = Box::pin(EtcdSource::new(options).unwrap().updates());
        let task = tokio::spawn(async move {
            while let Some(update) = source.next().await {
                let _ = sender.unbounded_send(text(update));
            }
        });
        Self { updates, task, all: Vec::new() }
    }

    /// Waits for exactly this.
    pub(crate) async fn until(&mut self, text: &str) {
        self.until_it(text, |report| report == text).await;
    }

    /// Waits for a loss whose reason has all of these parts.
    pub(crate) async fn until_lost(&mut self, parts: &[&str]) -> String {
        let fits =
            |report: &str| report.starts_with("lost: ") && parts.iter().all(|p| report.contains(p));
        self.until_it(&format!("a loss with {parts:?}"), fits).await
    }

    async fn until_it(&mut self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let began = Instant::now();
        loop {
            let left = DEADLINE.saturating_sub(began.elapsed());
            let Ok(Some(report)) = timeout(left, self.updates.next()).await else {
                panic!("this was never reported: {what}\nbut this was: {:#?}", self.all);
            };
            self.all.push(report);
            if fits(&self.all[self.all.len() - 1]) {
                return self.all[self.all.len() - 1].clone();
            }
        }
    }

    /// Asserts that nothing is reported for a time.
    pub(crate) async fn nothing_for(&mut self, time: Duration) {
        if let Ok(report) = timeout(time, self.updates.next()).await {
            panic!("this was reported: {report:?}\nafter: {:#?}", self.all);
        }
    }

    /// Whether a loss was reported.
    pub(crate) fn lost(&self) -> bool {
        self.all.iter().any(|report| report.starts_with("lost: "))
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn text(update: Update<Address>) -> String {
    let (set, bad) = match update {
        Update::Set(set) => (set, Vec::new()),
        Update::Partial(set, bad) => (set, bad.to_vec()),
        Update::Lost(reason) => return format!("lost: {reason}"),
        Update::Narrowed(_) => unreachable!("nothing is checked here"),
    };
    let good = set.iter().map(|(key, target)| format!("{key}={target}"));
    good.chain(bad.iter().map(|bad| format!("!{bad}"))).collect::<Vec<_>>().join(" ")
}
