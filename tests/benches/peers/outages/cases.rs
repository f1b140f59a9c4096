use std::{io, time::Duration};

use futures::future::try_join_all;
use tinylb_tests::outage::{Filter, Outcome, at_once, at_rate, one_by_one};
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    Times,
    stage::{Balancer, Row, Stage, first_turn, start_all, waits},
};

/// What can happen to backends of any balancer.
#[derive(Clone, Copy)]
pub enum Case {
    Paced,
    Burst,
    OneByOne,
    Recovery,
    Restart,
    Refusing,
}

pub const ALL: [Case; 6] =
    [Case::Paced, Case::Burst, Case::OneByOne, Case::Recovery, Case::Restart, Case::Refusing];

/// Clients a second, where they come at a steady rate and little else says what it should be.
const RATE: u32 = 100;

impl Case {
    pub fn name(self) -> &'static str {
        match self {
            Self::Paced => "paced",
            Self::Burst => "burst",
            Self::OneByOne => "one-by-one",
            Self::Recovery => "recovery",
            Self::Restart => "restart",
            Self::Refusing => "refusing",
        }
    }

    /// Its rows. Where clients come at their own pace, the balancers are measured at the same time.
    pub async fn measure(
        self,
        balancers: &[Balancer],
        filter: &Filter,
        times: Times,
    ) -> io::Result<Vec<Row>> {
        let backends = match self {
            Self::OneByOne => 2,
            Self::Refusing => 10,
            _ => 3,
        };
        let mut columns = Vec::new();
        if let Self::Burst = self {
            for balancer in balancers {
                columns.push(self.play(&mut balancer.start(backends, "")?, filter, times).await?);
            }
        } else {
            let mut stages = start_all(balancers, backends)?;
            let plays = stages.iter_mut().map(|stage| self.play(stage, filter, times));
            columns = try_join_all(plays).await?;
        }
        let rows = self.titles(times).into_iter().enumerate().map(|(row, title)| {
            let cells = columns.iter().map(|column| column[row].clone()).collect();
            Row { title, cells }
        });
        Ok(rows.collect())
    }

    fn titles(self, times: Times) -> Vec<String> {
        match self {
            Self::Paced => vec!["1 of 3 hangs, 1,000 clients at 100/s".into()],
            Self::Burst => {
                vec!["1 of 3 hangs, 1,000 clients at once".into(), "… and then 1,000 more".into()]
            }
            Self::OneByOne => vec!["1 of 2 hangs, 30 clients one by one".into()],
            Self::Recovery => {
                let hung = times.hung.as_secs();
                vec![
                    format!("1 of 3 hangs for {hung} s and recovers, clients at 50/s"),
                    "… its first client after that".into(),
                    "… its share of the next 300 clients".into(),
                ]
            }
            Self::Restart => vec![
                "1 of 3 dies and restarts after 2 s, clients at 100/s".into(),
                "… its first client after that".into(),
            ],
            Self::Refusing => vec!["5 of 10 refuse, 300 clients at 300/s".into()],
        }
    }

    /// What one balancer made of it: a cell for each title.
    async fn play(
        self,
        stage: &mut Stage,
        filter: &Filter,
        times: Times,
    ) -> io::Result<Vec<String>> {
        let address = stage.running.address;
        match self {
            Self::Paced => {
                filter.hang(stage.backends[1].address)?;
                Ok(vec![waits(&at_rate(address, 1000, RATE).await)])
            }
            Self::Burst => {
                filter.hang(stage.backends[1].address)?;
                let first = at_once(address, 1000).await;
                Ok(vec![waits(&first), waits(&at_once(address, 1000).await)])
            }
            Self::OneByOne => {
                filter.hang(stage.backends[1].address)?;
                Ok(vec![waits(&one_by_one(address, 30).await)])
            }
            Self::Recovery => recovery(stage, filter, times.hung).await,
            Self::Restart => restart(stage).await,
            Self::Refusing => {
                for backend in &mut stage.backends[2..7] {
                    backend.stop().await;
                }
                Ok(vec![waits(&at_rate(address, 300, 300).await)])
            }
        }
    }
}

async fn recovery(stage: &Stage, filter: &Filter, hung: Duration) -> io::Result<Vec<String>> {
    let (address, backend) = (stage.running.address, &stage.backends[1]);
    let (began, rate) = (Instant::now(), 50);
    filter.hang(backend.address)?;
    let count = rate * (hung.as_secs() as u32 + 20);
    let clients = tokio::spawn(at_rate(address, count, rate));
    sleep_until(began + hung).await;
    filter.heal(backend.address)?;
    let healed = began.elapsed();
    let outcomes = clients.await?;
    let Some(first) = first_turn(&outcomes, backend.number, healed) else {
        return Ok(vec![waits(&outcomes), "none".into(), String::new()]);
    };
    let later = outcomes.iter().filter(|outcome| outcome.came > healed + first);
    let later: Vec<Outcome> = later.take(300).copied().collect();
    let is_its = |outcome: &&Outcome| outcome.backend == Some(backend.number);
    let share = later.iter().filter(is_its).count();
    let most = later.windows(30).map(|thirty| thirty.iter().filter(is_its).count()).max();
    let share = format!("{share}; at most {} of 30", most.unwrap_or_default());
    Ok(vec![waits(&outcomes), after(first), share])
}

async fn restart(stage: &mut Stage) -> io::Result<Vec<String>> {
    let (address, backend) = (stage.running.address, &mut stage.backends[1]);
    let began = Instant::now();
    let clients = tokio::spawn(at_rate(address, RATE * 14, RATE));
    sleep(Duration::from_secs(2)).await;
    backend.stop().await;
    sleep(Duration::from_secs(2)).await;
    backend.restart()?;
    let restarted = began.elapsed();
    let outcomes = clients.await?;
    let first = first_turn(&outcomes, backend.number, restarted);
    Ok(vec![waits(&outcomes), first.map_or("none".into(), after)])
}

fn after(time: Duration) -> String {
    format!("after {:.2} s", time.as_secs_f64())
}
