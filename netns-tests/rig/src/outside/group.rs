//! Security groups, as operators write them.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{ContainerSpec, Workload};

/// Rules for the containers of some spaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecurityGroup {
    /// Its name.
    pub name: String,
    /// Its rules.
    pub rules: Vec<GroupRule>,
    /// Spaces to whose apps and tasks it applies.
    pub spaces: Vec<String>,
    /// Spaces to whose staging containers it applies.
    pub staging_spaces: Vec<String>,
}

impl SecurityGroup {
    /// A group for the apps and tasks of one space.
    pub fn running(name: &str, space: &str, rules: &[GroupRule]) -> Self {
        let (name, spaces) = (name.to_owned(), vec![space.to_owned()]);
        Self { name, rules: rules.to_vec(), spaces, staging_spaces: Vec::new() }
    }

    /// A group for the staging containers of one space.
    pub fn staging(name: &str, space: &str, rules: &[GroupRule]) -> Self {
        let (name, staging_spaces) = (name.to_owned(), vec![space.to_owned()]);
        Self { name, rules: rules.to_vec(), spaces: Vec::new(), staging_spaces }
    }

    /// Whether it applies to such a container.
    pub(crate) fn applies(&self, spec: &ContainerSpec) -> bool {
        let spaces = match spec.workload {
            Workload::App | Workload::Task => &self.spaces,
            Workload::Staging => &self.staging_spaces,
        };
        spec.space.as_ref().is_some_and(|space| spaces.contains(space))
    }

    /// Whether it may apply to a container of this space.
    pub(crate) fn concerns(&self, space: &str) -> bool {
        self.spaces.iter().chain(&self.staging_spaces).any(|one| one == space)
    }

    /// What a network file says of these groups, and the policy server's file of groups.
    pub(crate) fn file(groups: &[Self]) -> String {
        if groups.is_empty() {
            return "security_groups: []\n".to_owned();
        }
        let mut text = "security_groups:\n".to_owned();
        for group in groups {
            group.write(&mut text);
        }
        text
    }

    fn write(&self, text: &mut String) {
        let Self { name, rules, spaces, staging_spaces } = self;
        let _ = writeln!(
            text,
            "  - name: {name}\n    spaces: [{}]\n    staging_spaces: [{}]\n    rules:",
            spaces.join(", "),
            staging_spaces.join(", ")
        );
        for GroupRule { protocol, destination, ports, icmp, log } in rules {
            let _ = write!(text, "      - {{protocol: {protocol}, destination: \"{destination}\"");
            if let Some(ports) = ports {
                let _ = write!(text, ", ports: \"{ports}\"");
            }
            if let Some((kind, code)) = icmp {
                let _ = write!(text, ", type: {kind}, code: {code}");
            }
            if *log {
                text.push_str(", log: true");
            }
            text.push_str("}\n");
        }
    }

    /// As agents have it from the policy server (contract section 2.4), its rules not as the text of
    /// JSON but as the list itself.
    pub(crate) fn told(&self) -> Value {
        let rules = self.rules.iter().map(|rule| {
            let GroupRule { protocol, destination, ports, icmp, log } = rule;
            let (kind, code) = icmp.unwrap_or_default();
            json!({
                "protocol": protocol, "destination": destination,
                "ports": ports.as_deref().unwrap_or_default(),
                "type": kind, "code": code, "description": "", "log": log,
            })
        });
        json!({
            "guid": self.name, "name": self.name, "rules": rules.collect::<Vec<_>>(),
            "staging_default": false, "running_default": false,
            "staging_space_guids": self.staging_spaces, "running_space_guids": self.spaces,
        })
    }
}

/// One rule: "traffic of this kind to these addresses".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRule {
    /// `tcp`, `udp`, `icmp` or `all`.
    pub protocol: &'static str,
    /// Addresses, networks and ranges of addresses, joined by commas.
    pub destination: String,
    /// Ports and ranges of ports, joined by commas; only for TCP and UDP.
    pub ports: Option<String>,
    /// Type and code; -1 for any. Without, both are 0: echo replies alone.
    pub icmp: Option<(i16, i16)>,
    /// Whether what it admits is recorded.
    pub log: bool,
}

impl GroupRule {
    /// TCP to these ports.
    pub fn tcp(destination: impl ToString, ports: &str) -> Self {
        Self { ports: Some(ports.to_owned()), ..Self::plain("tcp", destination) }
    }

    /// UDP to these ports.
    pub fn udp(destination: impl ToString, ports: &str) -> Self {
        Self { ports: Some(ports.to_owned()), ..Self::plain("udp", destination) }
    }

    /// ICMP messages of this type and code; -1 for any.
    pub fn icmp(destination: impl ToString, kind: i16, code: i16) -> Self {
        Self { icmp: Some((kind, code)), ..Self::plain("icmp", destination) }
    }

    /// Everything.
    pub fn all(destination: impl ToString) -> Self {
        Self::plain("all", destination)
    }

    #[expect(clippy::needless_pass_by_value, reason = "texts and addresses alike, owned or not")]
    fn plain(protocol: &'static str, destination: impl ToString) -> Self {
        let destination = destination.to_string();
        Self { protocol, destination, ports: None, icmp: None, log: false }
    }

    /// The same with what it admits recorded.
    #[must_use]
    pub fn logged(mut self) -> Self {
        self.log = true;
        self
    }
}
