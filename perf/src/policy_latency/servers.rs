//! The policy server, as those see it who change policies and those who follow them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::control::{Control, TOKEN, Usage};

/// Policies of one request.
const BATCH: u32 = 1000;

/// Apps that the policies are between.
const APPS: u32 = 5000;

/// How long a request may take.
const PATIENCE: Duration = Duration::from_mins(5);

const CONTROL: &str = "\
roles: [policy-server]
external: {listen: '127.0.0.1:0'}
internal: {listen: '127.0.0.1:0'}
status: {listen: '127.0.0.1:0'}
auth: {tokens_file: /etc/sarcenet/tokens.yaml}
";

/// A policy server; killed when dropped.
pub(super) struct Servers {
    control: Control,
    external: String,
    internal: String,
    client: reqwest::Client,
}

impl Servers {
    /// Starts it over a database, or over a file of its own.
    pub(super) fn start(database: Option<&str>) -> Result<Self> {
        let control = Control::start(CONTROL, database)?;
        let external = format!("http://{}/networking/v1/external", control.address("external")?);
        let internal = format!("https://{}/networking/v1/internal", control.address("internal")?);
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
        Ok(Self { control, external, internal, client })
    }

    /// Creates policies between apps that nobody changes later.
    pub(super) async fn fill(&self, policies: u32) -> Result<()> {
        let mut next = 0;
        while next < policies {
            let end = policies.min(next + BATCH);
            let batch = (next..end).map(|number| {
                let app = |of: u32| format!("00000000-0000-4000-8000-{:012}", of % APPS);
                policy(&app(number), &app(number + 1), 1024 + number / APPS)
            });
            self.change("policies", &json!({"policies": batch.collect::<Vec<_>>()})).await?;
            next = end;
        }
        Ok(())
    }

    /// Has the external API create (`policies`) or delete (`policies/delete`) policies.
    pub(super) async fn change(&self, what: &str, body: &Value) -> Result<()> {
        let request = self.client.post(format!("{}/{what}", self.external)).bearer_auth(TOKEN);
        let answer = request.body(body.to_string()).send().await.context("change policies")?;
        let (status, text) = (answer.status(), answer.text().await.context("change policies")?);
        ensure!(status.is_success(), "change policies: {status} {text}");
        Ok(())
    }

    /// Where agents watch.
    pub(super) fn watch(&self) -> String {
        format!("{}/policies", self.internal)
    }

    /// As whom agents come.
    pub(super) fn agent(&self) -> Result<reqwest::Client> {
        self.control.client(PATIENCE)
    }

    /// What it has taken.
    pub(super) fn usage(&self) -> Result<Usage> {
        self.control.usage()
    }
}

/// One policy as the external API has it.
pub(super) fn policy(source: &str, destination: &str, port: u32) -> Value {
    json!({
        "source": {"id": source},
        "destination":
            {"id": destination, "protocol": "tcp", "ports": {"start": port, "end": port}},
    })
}
