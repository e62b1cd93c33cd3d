//! `silk-daemon-bootstrap -config=FILE`: what a router's cell sends gets the tag of routers (contract
//! section 5.7).
//!
//! The tag is put where the agent finds it, which starts afterwards as `silk-daemon`; one that runs
//! already is told.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use sarcenet_agent_api::{AgentClient, AgentError, FollowProblems};
use sarcenet_server::outbound;
use tracing::{info, warn};

use super::cell;
use super::keys::Keys;
use crate::config::CertsSpec;
use crate::follow::asker::Asker;
use crate::follow::routers;
use crate::follow::saved::{Saved, SavedFile};
use crate::paths::Root;
use crate::process;

/// How long the policy server may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What its file says.
#[derive(Debug)]
pub(super) enum BootstrapSpec {
    /// The cell is none of a router: there is nothing to do.
    Nothing,
    /// It is one.
    Router {
        /// The policy server's internal API.
        url: String,
        /// With what it is asked.
        certs: CertsSpec,
    },
}

/// What its file says.
pub(super) fn spec(keys: &mut Keys) -> Option<BootstrapSpec> {
    if !keys.flag("single_ip_only") {
        keys.leave_the_rest();
        return Some(BootstrapSpec::Nothing);
    }
    let url = cell::server(keys, "policy_server_url");
    let ca = keys.required_path("policy_server_ca_cert_file");
    let cert = keys.required_path("policy_client_cert_file");
    let key = keys.required_path("policy_client_key_file");
    let certs = CertsSpec::new(ca?, cert?, key?);
    Some(BootstrapSpec::Router { url: url?, certs })
}

/// Asks, and tells the agent, now or when it starts.
pub(super) fn run(spec: &BootstrapSpec, root: &Root) -> Result<ExitCode> {
    let BootstrapSpec::Router { url, certs } = spec else { return Ok(ExitCode::SUCCESS) };
    let (asker, server) = (Asker::new(certs.files(root), TIMEOUT), outbound::server(url)?);
    let asked = process::runtime()?.block_on(routers::ask(&asker, &server, TIMEOUT));
    let tag = asked.context("cannot learn the tag of routers")?;
    match AgentClient::connect(&root.agent_socket()) {
        Ok(mut agent) => {
            let said = Saved { router_tag: Some(tag), ..Saved::default() };
            let told = agent.followed(&said.text()?, FollowProblems::default());
            told.context("cannot tell the agent the tag of routers")?;
        }
        Err(AgentError::Connect(_)) => {
            let file = SavedFile::new(root);
            let (saved, problem) = file.load()?;
            if let Some(problem) = problem {
                warn!("{problem}");
            }
            file.save(&Saved { router_tag: Some(tag), ..saved })?;
        }
        Err(error) => return Err(error).context("cannot tell the agent the tag of routers"),
    }
    info!(tag = format_args!("{tag:04X}"), "what this cell sends has the tag of routers");
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_the_file_says() {
        let certs = r#""policy_server_ca_cert_file":"/ca","policy_client_cert_file":"/crt",
            "policy_client_key_file":"/key","iptables_lock_file":"/lock""#;
        for (text, said) in [
            (format!(r#"{{"single_ip_only":false,{certs}}}"#), Ok("Nothing")),
            ("{}".to_owned(), Ok("Nothing")),
            (
                format!(
                    r#"{{"single_ip_only":true,"policy_server_url":"https://a:4003",{certs}}}"#
                ),
                Ok("Router"),
            ),
            (
                r#"{"single_ip_only":true}"#.to_owned(),
                Err("policy_server_url is missing; policy_server_ca_cert_file is missing; \
                     policy_client_cert_file is missing; policy_client_key_file is missing"),
            ),
            (
                format!(r#"{{"single_ip_only":true,"policy_server_url":"http://a",{certs}}}"#),
                Err("policy_server_url is asked with a certificate: it must begin with https://"),
            ),
        ] {
            let mut keys = Keys::parse(text.as_bytes()).unwrap();
            let spec = spec(&mut keys);
            match (keys.finish(Path::new("f")), said) {
                (Ok(_), Ok(said)) => assert!(format!("{spec:?}").contains(said), "{text}"),
                (Err(error), Err(said)) => {
                    assert!(error.to_string().contains(said), "{text}: {error}");
                }
                (outcome, _) => panic!("{text}: {outcome:?}"),
            }
        }
    }
}
