//! The cells.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::control::Control;

/// Subnets of the overlay that cells can have: all but the first, which is for single addresses.
pub(super) const BLOCKS: u16 = 255;

/// The first subnet of the overlay.
const FIRST: &str = "10.255.0.0/24";

/// How long a request may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// What they took, in nanoseconds.
pub(super) struct Took {
    /// Until each cell had its subnet.
    pub(super) each: Vec<u64>,
    /// Until all had.
    pub(super) all: u64,
}

/// Has so many cells ask the controllers at once, in turns; then as many more, one after the other,
/// as there are subnets left, and one more.
pub(super) async fn storm(controllers: &[Control], cells: u16) -> Result<Took> {
    let mut asked = controllers.iter().cycle();
    let mut next = |number| {
        let controller = asked.next().context("there is no controller")?;
        Cell::new(controller, number)
    };
    let start = Arc::new(Barrier::new(usize::from(cells)));
    let mut asking = JoinSet::new();
    for number in 0..cells {
        let (cell, start) = (next(number)?, Arc::clone(&start));
        asking.spawn(async move {
            start.wait().await;
            let began = Instant::now();
            let answer = cell.acquire().await?;
            anyhow::Ok((answer, began, Instant::now()))
        });
    }
    let (mut answers, mut times) = (Vec::new(), Vec::new());
    while let Some(asked) = asking.join_next().await {
        let (answer, began, ended) = asked??;
        answers.push(answer);
        times.push((began, ended));
    }
    let took = |began: Instant, ended: Instant| ended.duration_since(began).as_nanos() as u64;
    let first = times.iter().map(|&(began, _)| began).min().context("there are no cells")?;
    let all = times.iter().map(|&(_, ended)| took(first, ended)).max().unwrap_or_default();
    let each = times.into_iter().map(|(began, ended)| took(began, ended)).collect();
    for number in cells..BLOCKS {
        answers.push(next(number)?.acquire().await?);
    }
    check(&answers)?;
    let (status, said) = next(BLOCKS)?.acquire().await?;
    ensure!(status == 409, "the cell for which no subnet is left is told {status} {said}");
    Ok(Took { each, all })
}

fn check(answers: &[(u16, Value)]) -> Result<()> {
    let mut given = BTreeSet::new();
    for (status, lease) in answers {
        let subnet = lease["overlay_subnet"].as_str();
        let subnet = subnet.with_context(|| format!("a cell is told {status} {lease}"))?;
        ensure!(given.insert(subnet), "{subnet} is given twice");
    }
    ensure!(!given.contains(FIRST), "{FIRST} is given, which is for single addresses");
    Ok(())
}

struct Cell {
    client: reqwest::Client,
    url: String,
    address: Ipv4Addr,
}

impl Cell {
    fn new(controller: &Control, number: u16) -> Result<Self> {
        let [high, low] = number.to_be_bytes();
        Ok(Self {
            client: controller.client(PATIENCE)?,
            url: format!("https://{}/leases/acquire", controller.address("leases")?),
            address: Ipv4Addr::new(10, 0, high, low),
        })
    }

    /// The status of the answer, and what it says.
    async fn acquire(&self) -> Result<(u16, Value)> {
        let body = json!({"underlay_ip": self.address, "single_overlay_ip": false});
        let answer = self.client.put(&self.url).body(body.to_string()).send().await;
        let answer = answer.context("ask for a subnet")?;
        let status = answer.status().as_u16();
        let body = answer.bytes().await.context("ask for a subnet")?;
        let said = serde_json::from_slice(&body).context("understand the answer with a subnet")?;
        Ok((status, said))
    }
}
