//! `control:` of the network file: what this cell gets from servers, in the place of cells, apps and
//! policies in the file itself.
//!
//! Names of servers, ports and times are those of Cloud Foundry's agents where there are any
//! (contract sections 0.3, 13.4 and 13.5).

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use sarcenet_server::client::ClientFiles;
use sarcenet_server::http::tls::IdentityFiles;
use sarcenet_server::outbound;

use super::reader::{Entries, Reader};
use super::tree::{At, Node, Place};
use crate::paths::Root;

const DAY: u64 = 24 * 60 * 60;
const LEASES_URL: &str = "https://silk-controller.service.cf.internal:4103";
const POLICIES_URL: &str = "https://policy-server.service.cf.internal:4003";

/// What `control:` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowSpec {
    /// This cell's address on the underlay.
    pub underlay: Ipv4Addr,
    /// With what the subnet controller is asked.
    pub certs: CertsSpec,
    /// Where this cell's part of the overlay comes from.
    pub leases: LeasesSpec,
    /// Where policies and the tags of apps come from. None when a program beside the agent asks for
    /// them, and tells the agent.
    pub policy_server: Option<PolicyServerSpec>,
    /// Where the cell's subnet and MTU are told (contract section 5.5).
    pub network_info: SocketAddr,
}

/// `policies:`, and all else that has to do with the policy server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyServerSpec {
    /// Its internal API: `https://host:port`.
    pub url: String,
    /// With what it is asked.
    pub certs: CertsSpec,
    /// How often it is asked when it cannot be watched.
    pub interval: Duration,
    /// How long a request may take.
    pub timeout: Duration,
    /// Whether to watch it, if it can be.
    pub watch: bool,
    /// How often it is asked for security groups; none when it is not asked.
    pub security_groups: Option<Duration>,
    /// Where it can be asked for at once (contract section 9.6).
    pub force: SocketAddr,
    /// Whether it is asked for the tag of routers: the ports that apps name are open to it, and a
    /// cell of a single address sends it (contract sections 5.7 and 9.2).
    pub routers: bool,
    /// Where recording of conversations can be switched (contract section 9.7), if anywhere.
    pub logging: Option<SocketAddr>,
}

/// `certs:`, as written: absolute paths below the root of all paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertsSpec {
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

/// `leases:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasesSpec {
    /// The subnet controller: `https://host:port`.
    pub url: String,
    /// How often the lease is renewed, and the other cells' leases asked for.
    pub interval: Duration,
    /// How long a request may take.
    pub timeout: Duration,
    /// How long the agent goes on when the lease cannot be renewed.
    pub partition_tolerance: Duration,
    /// Prefix length of a cell's block.
    pub block_prefix: u8,
    /// Whether the cell needs one address only (contract section 5.7).
    pub single_ip: bool,
}

impl CertsSpec {
    /// These files.
    pub fn new(ca: PathBuf, cert: PathBuf, key: PathBuf) -> Self {
        Self { ca: Some(ca), cert: Some(cert), key: Some(key) }
    }

    /// The files below `root`: by default what `sarcenet certs init` makes there for clients.
    pub fn files(&self, root: &Root) -> ClientFiles {
        let file = |given: &Option<PathBuf>, default: &str| match given {
            Some(path) => root.below(path),
            None => root.certs_directory().join(default),
        };
        ClientFiles {
            server_ca: file(&self.ca, "ca.crt"),
            identity: IdentityFiles {
                certificate: file(&self.cert, "client.crt"),
                key: file(&self.key, "client.key"),
            },
        }
    }
}

/// `control:` as far as it could be read, and where that is written which others depend on.
#[derive(Debug)]
pub(super) struct FollowParts {
    pub(super) spec: FollowSpec,
    pub(super) underlay: Place,
    pub(super) block_prefix: Option<Place>,
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

impl Reader {
    pub(super) fn follow(&mut self, node: At<Node>) -> Option<FollowParts> {
        let known = [
            "underlay",
            "certs",
            "leases",
            "policies",
            "security_groups",
            "network_info",
            "force",
            "logging",
        ];
        let mut section = self.map(node, "control", &known)?;
        let underlay = self.required(&mut section, "underlay", "10.0.0.11");
        let underlay = underlay.and_then(|node| self.underlay(node));
        let certs = self.client_certs(section.take("certs"));
        let (leases, block_prefix) = self.leases(section.take("leases"));
        let mut policy_server = self.policy_server(section.take("policies"));
        policy_server.certs.clone_from(&certs);
        policy_server.routers |= leases.single_ip;
        policy_server.security_groups = section.take("security_groups").map(|node| {
            let minute = Duration::from_mins(1);
            let section = self.map(node, "security_groups", &["interval"]);
            section.map_or(minute, |mut section| {
                self.seconds(&mut section, "interval", 1..=DAY, minute)
            })
        });
        let mut address = |key: &str| {
            let node = section.take(key).filter(|node| node.value != Node::Null);
            Some(node.and_then(|node| self.socket_address(node, key))?.value)
        };
        let network_info = address("network_info").unwrap_or(local(23954));
        policy_server.force = address("force").unwrap_or(policy_server.force);
        policy_server.logging = address("logging");
        let underlay = underlay?;
        let spec = FollowSpec {
            underlay: underlay.value,
            certs,
            leases,
            policy_server: Some(policy_server),
            network_info,
        };
        Some(FollowParts { spec, underlay: underlay.place, block_prefix })
    }

    fn client_certs(&mut self, node: Option<At<Node>>) -> CertsSpec {
        let Some(mut section) =
            node.and_then(|node| self.map(node, "certs", &["ca", "cert", "key"]))
        else {
            return CertsSpec::default();
        };
        let mut file = |key: &str| section.take(key).and_then(|node| self.absolute_path(node, key));
        CertsSpec { ca: file("ca"), cert: file("cert"), key: file("key") }
    }

    fn leases(&mut self, node: Option<At<Node>>) -> (LeasesSpec, Option<Place>) {
        let mut spec = LeasesSpec {
            url: LEASES_URL.into(),
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
            partition_tolerance: Duration::from_hours(168),
            block_prefix: 24,
            single_ip: false,
        };
        let known =
            ["url", "interval", "timeout", "partition_tolerance", "block_prefix", "single_ip"];
        let Some(mut section) = node.and_then(|node| self.map(node, "leases", &known)) else {
            return (spec, None);
        };
        spec.url = self.mtls_url(&mut section, spec.url);
        spec.interval = self.seconds(&mut section, "interval", 1..=3600, spec.interval);
        spec.timeout = self.seconds(&mut section, "timeout", 1..=300, spec.timeout);
        spec.partition_tolerance = self.seconds(
            &mut section,
            "partition_tolerance",
            60..=3650 * DAY,
            spec.partition_tolerance,
        );
        let prefix = section.take("block_prefix").and_then(|node| {
            self.number(node, "block_prefix", 16..=30, "the prefix length of a cell's block")
        });
        if let Some(prefix) = &prefix {
            spec.block_prefix = prefix.value as u8;
        }
        let single = section.take("single_ip").and_then(|node| self.flag(node, "single_ip"));
        spec.single_ip = single.unwrap_or(false);
        (spec, prefix.map(|prefix| prefix.place))
    }

    fn policy_server(&mut self, node: Option<At<Node>>) -> PolicyServerSpec {
        let mut spec = PolicyServerSpec {
            url: POLICIES_URL.into(),
            certs: CertsSpec::default(),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
            watch: true,
            security_groups: None,
            routers: false,
            force: local(8722),
            logging: None,
        };
        let known = ["url", "interval", "timeout", "watch", "overlay_ingress"];
        if let Some(mut section) = node.and_then(|node| self.map(node, "policies", &known)) {
            spec.url = self.mtls_url(&mut section, spec.url);
            spec.interval = self.seconds(&mut section, "interval", 1..=3600, spec.interval);
            spec.timeout = self.seconds(&mut section, "timeout", 1..=300, spec.timeout);
            let watch = section.take("watch").and_then(|node| self.flag(node, "watch"));
            spec.watch = watch.unwrap_or(true);
            let ingress = section.take("overlay_ingress");
            let ingress = ingress.and_then(|node| self.flag(node, "overlay_ingress"));
            spec.routers = ingress.unwrap_or(false);
        }
        spec
    }

    /// The address of a server that is asked over mTLS.
    fn mtls_url(&mut self, section: &mut Entries<'_>, default: String) -> String {
        let given = section.take("url").filter(|node| node.value != Node::Null);
        let Some(At { place, value }) = given.and_then(|node| self.text(node, "url")) else {
            return default;
        };
        match outbound::server(&value) {
            Ok(url) if url.scheme() == "https" => {}
            Ok(_) => self.wrong(
                place,
                format!("`{value}` is asked with a certificate; write https:// instead of http://"),
            ),
            Err(e) => self.wrong(place, e.to_string()),
        }
        value
    }
}
