//! Agents that are nothing but their watch, each with a connection of its own.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;

use super::changes::{Change, Seen};
use super::servers::Servers;

/// Seconds that an agent asks the server to wait.
const TIMEOUT: u32 = 60;

/// Starts them; each has all policies when this is done. They end when dropped.
pub(super) async fn start(
    servers: &Servers,
    agents: u32,
    seen: &UnboundedSender<Seen>,
) -> Result<JoinSet<()>> {
    let mut starting = JoinSet::new();
    for number in 0..agents as usize {
        let mut agent = Agent { url: servers.watch(), client: servers.agent()?, generation: 0 };
        starting.spawn(async move {
            let everything = agent.ask().await?;
            everything["policies"].as_array().context("the first answer is not all policies")?;
            anyhow::Ok((number, agent))
        });
    }
    let mut running = JoinSet::new();
    while let Some(started) = starting.join_next().await {
        let (number, mut agent) = started??;
        let seen = seen.clone();
        running.spawn(async move {
            if let Err(e) = agent.follow(number, &seen).await {
                // Nobody listens after the last change.
                drop(seen.send(Err(e.context(format!("agent {number}")))));
            }
        });
    }
    Ok(running)
}

struct Agent {
    url: String,
    client: reqwest::Client,
    generation: i64,
}

impl Agent {
    /// The answer to a watch from the generation that is known.
    async fn ask(&mut self) -> Result<Value> {
        let url = format!("{}?watch={}&timeout={TIMEOUT}", self.url, self.generation);
        let answer = self.client.get(url).send().await.context("watch policies")?;
        let status = answer.status();
        let body = answer.bytes().await.context("watch policies")?;
        if !status.is_success() {
            bail!("watch policies: {status} {}", String::from_utf8_lossy(&body));
        }
        let answer: Value = serde_json::from_slice(&body).context("understand a watch")?;
        self.generation = answer["generation"].as_i64().context("an answer has a generation")?;
        Ok(answer)
    }

    /// Says which changes it has, for ever.
    async fn follow(&mut self, number: usize, seen: &UnboundedSender<Seen>) -> Result<()> {
        loop {
            let answer = self.ask().await?;
            let at = Instant::now();
            if answer["policies"].is_array() {
                bail!("it was told everything, not the difference");
            }
            for change in Change::among(&answer) {
                if seen.send(Ok((number, change, at))).is_err() {
                    return Ok(());
                }
            }
        }
    }
}
