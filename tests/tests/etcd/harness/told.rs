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

/// What a source tells, as text: `a=127.0.0.1:1 b=127.0.0.1:2`, with `!key: reason` for each bad
/// entry, or `lost: reason`.
pub(crate) struct Told {
    updates: UnboundedReceiver<String>,
    task: JoinHandle<()>,
    /// All of it so far.
    pub(crate) all: Vec<String>,
}

impl Told {
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
        self.until_it(text, |told| told == text).await;
    }

    /// Waits for a loss whose reason has all of these parts.
    pub(crate) async fn until_lost(&mut self, parts: &[&str]) -> String {
        let fits =
            |told: &str| told.starts_with("lost: ") && parts.iter().all(|p| told.contains(p));
        self.until_it(&format!("a loss with {parts:?}"), fits).await
    }

    async fn until_it(&mut self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let began = Instant::now();
        loop {
            let left = DEADLINE.saturating_sub(began.elapsed());
            let Ok(Some(told)) = timeout(left, self.updates.next()).await else {
                panic!("this was never told: {what}\nbut this was: {:#?}", self.all);
            };
            self.all.push(told);
            if fits(&self.all[self.all.len() - 1]) {
                return self.all[self.all.len() - 1].clone();
            }
        }
    }

    /// Asserts that nothing is told for a time.
    pub(crate) async fn nothing_for(&mut self, time: Duration) {
        if let Ok(told) = timeout(time, self.updates.next()).await {
            panic!("this was told: {told:?}\nafter: {:#?}", self.all);
        }
    }

    /// Whether a loss was told.
    pub(crate) fn lost(&self) -> bool {
        self.all.iter().any(|told| told.starts_with("lost: "))
    }
}

impl Drop for Told {
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
