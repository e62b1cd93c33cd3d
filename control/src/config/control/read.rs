//! From the tree to [`ControlSpec`].

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv4Net;
use sarcenet_server::database::DatabaseSettings;
use sarcenet_server::http::tls::{IdentityFiles, ServerFiles};
use sarcenet_server::lease::Pools;
use sarcenet_server::leases;
use sarcenet_server::policies::{ExternalSettings, InternalSettings};

use super::{ControlSpec, ExternalSpec, InternalSpec, SubnetControllerSpec};
use crate::config::mistake::{Mistake, suggestion};
use crate::config::reader::{Entries, Reader};
use crate::config::tree::{self, At, Node, Place};
use crate::paths::Root;

const KEYS: &[&str] = &[
    "roles",
    "database",
    "database_connections",
    "tag_quarantine",
    "certs",
    "external",
    "internal",
    "leases",
    "status",
    "auth",
    "cloud_controller",
    "cleanup_interval",
    "max_policies_per_source",
    "cors",
    "self_service",
    "security_groups",
];

const ROLES: [&str; 2] = ["policy-server", "subnet-controller"];

const DAY: u64 = 24 * 60 * 60;

/// Reads a whole file.
pub(super) fn control(text: &str, root: &Root) -> Result<ControlSpec, Vec<Mistake>> {
    let tree = tree::read(text).map_err(|mistake| vec![mistake])?;
    let mut reader = ControlReader { reader: Reader { mistakes: Vec::new() }, root };
    match reader.control(tree) {
        Some(spec) if reader.reader.mistakes.is_empty() => Ok(spec),
        _ => {
            let mut mistakes = reader.reader.mistakes;
            mistakes.sort();
            Err(mistakes)
        }
    }
}

/// Where a server listens, and where that is written; nowhere when it is the default.
#[derive(Debug, Clone, Copy)]
struct Listen {
    key: &'static str,
    place: Option<Place>,
    address: SocketAddr,
}

/// Reads with a root of all paths. What is wrong is remembered, and has its default meanwhile.
pub(super) struct ControlReader<'a> {
    pub(super) reader: Reader,
    root: &'a Root,
}

impl ControlReader<'_> {
    /// None when there is no telling what was meant.
    fn control(&mut self, tree: At<Node>) -> Option<ControlSpec> {
        let file = tree.place;
        let mut top = self.reader.map(tree, "the control file", KEYS)?;
        let (policy_server, subnet_controller) = self.roles(top.take("roles"));
        let (database, database_directory) = self.database(&mut top);
        let tls = self.certs(top.take("certs"));
        let (external, tls_outside) = self.external(top.take("external"));
        let internal = self.listen(top.take("internal"), "internal", all_addresses(4003));
        let (leases, settings) = self.leases(top.take("leases"));
        // One of the ports where Cloud Foundry's servers tell of their health.
        let port = if policy_server { 31946 } else { 19683 };
        let status = (Ipv4Addr::LOCALHOST, port).into();
        let status = self.listen(top.take("status"), "status", status);

        let external_settings = ExternalSettings { tls: tls_outside, ..self.manners(&mut top) };
        let platform = self.platform(&mut top);
        let auth = if policy_server {
            let auth = self.auth(file, platform, external_settings.space_developer_self_service);
            Some(auth?)
        } else {
            None
        };

        let mut listeners = vec![status];
        if policy_server {
            listeners.extend([external, internal]);
        }
        if subnet_controller {
            listeners.push(leases);
        }
        self.apart(file, &listeners);
        let (auth, security_groups) = auth.unzip();
        let internal = policy_server.then(|| InternalSpec {
            listen: internal.address,
            tls: tls.clone(),
            settings: InternalSettings::default(),
        });
        let external = auth.map(|auth| ExternalSpec {
            listen: external.address,
            tls: tls_outside.then(|| ServerFiles { client_ca: None, ..tls.clone() }),
            settings: external_settings,
            auth,
        });
        let listen = leases.address;
        let subnet_controller =
            subnet_controller.then_some(SubnetControllerSpec { listen, tls, settings: settings? });
        Some(ControlSpec {
            database,
            database_directory,
            external,
            internal,
            subnet_controller,
            security_groups: security_groups.flatten(),
            status: Some(status.address),
            debug: None,
        })
    }

    /// Whether each of the [`ROLES`] is to be played.
    fn roles(&mut self, list: Option<At<Node>>) -> (bool, bool) {
        let Some(list) = list.filter(|list| list.value != Node::Null) else { return (true, true) };
        let place = list.place;
        let empty = list.value == Node::List(Vec::new());
        let named = self.reader.each(Some(list), "roles", |reader, node| {
            let At { place, value } = reader.text(node, "a role")?;
            if !ROLES.contains(&value.as_str()) {
                let hint = match suggestion(&value, ROLES) {
                    none if none.is_empty() => format!("; there are {}", ROLES.join(" and ")),
                    near => near,
                };
                reader.wrong(place, format!("no role is named `{value}`{hint}"));
                return None;
            }
            Some(value)
        });
        if empty {
            let all = ROLES.join(", ");
            self.reader.wrong(place, format!("roles is empty; write at least one of {all}"));
        }
        let is_named = |role: &str| named.iter().any(|named| named.value == role);
        (is_named(ROLES[0]), is_named(ROLES[1]))
    }

    /// The database, and the directory to be made for it.
    fn database(&mut self, top: &mut Entries<'_>) -> (DatabaseSettings, Option<PathBuf>) {
        let node = top.take("database").filter(|node| node.value != Node::Null);
        let (mut settings, directory) = if let Some(node) = node {
            let place = node.place;
            let settings = DatabaseSettings::new(self.database_url(node).unwrap_or_default());
            if !settings.url.is_empty()
                && let Err(e) = settings.check()
            {
                self.reader.wrong(place, e.to_string());
            }
            (settings, None)
        } else {
            let file = self.root.database_file();
            let settings = DatabaseSettings::new(format!("sqlite:{}", file.display()));
            (settings, file.parent().map(PathBuf::from))
        };
        if let Some(most) = top.take("database_connections").and_then(|node| {
            let hint = "connections at a time; all replicas share what PostgreSQL has";
            self.reader.number(node, "database_connections", 2..=10_000, hint)
        }) {
            settings.max_connections = most.value as u32;
        }
        settings.tag_quarantine =
            self.seconds(top, "tag_quarantine", 0..=30 * DAY, settings.tag_quarantine);
        (settings, directory)
    }

    fn database_url(&mut self, node: At<Node>) -> Option<String> {
        let At { place, value } = self.reader.text(node, "database")?;
        let Some(path) = value.strip_prefix("sqlite:") else { return Some(value) };
        let path = path.strip_prefix("//").unwrap_or(path);
        let node = At { place, value: Node::Text(path.to_owned()) };
        let path = self.path(node, "the file of database")?;
        Some(format!("sqlite:{}", path.display()))
    }

    fn certs(&mut self, node: Option<At<Node>>) -> ServerFiles {
        let mut given = self.section(node, "certs", &["ca", "cert", "key"]);
        let mut file = |key: &str, default: &str| {
            let node = given.as_mut().and_then(|given| given.take(key));
            let path = node.and_then(|node| self.path(node, key));
            path.unwrap_or_else(|| self.root.certs_directory().join(default))
        };
        let client_ca = Some(file("ca", "ca.crt"));
        let identity = IdentityFiles {
            certificate: file("cert", "server.crt"),
            key: file("key", "server.key"),
        };
        ServerFiles { identity, client_ca }
    }

    fn external(&mut self, node: Option<At<Node>>) -> (Listen, bool) {
        let mut given = self.section(node, "external", &["listen", "tls"]);
        let listen = self.address(given.as_mut(), "external", all_addresses(4002));
        let tls = given.as_mut().and_then(|given| given.take("tls"));
        (listen, tls.and_then(|node| self.reader.flag(node, "tls")).unwrap_or(false))
    }

    /// A section that says nothing but where to listen.
    fn listen(&mut self, node: Option<At<Node>>, key: &'static str, default: SocketAddr) -> Listen {
        let mut given = self.section(node, key, &["listen"]);
        self.address(given.as_mut(), key, default)
    }

    fn address(
        &mut self,
        section: Option<&mut Entries<'_>>,
        key: &'static str,
        default: SocketAddr,
    ) -> Listen {
        let node = section.and_then(|section| section.take("listen"));
        match node.and_then(|node| self.reader.socket_address(node, "listen")) {
            Some(At { place, value }) => Listen { key, place: Some(place), address: value },
            None => Listen { key, place: None, address: default },
        }
    }

    fn leases(&mut self, node: Option<At<Node>>) -> (Listen, Option<leases::Settings>) {
        let place = node.as_ref().map_or_else(Place::default, |node| node.place);
        let mut given =
            self.section(node, "leases", &["listen", "overlay", "block_prefix", "expiry"]);
        let listen = self.address(given.as_mut(), "leases", all_addresses(4103));
        let mut take = |key: &str| given.as_mut().and_then(|given| given.take(key));
        let overlay = take("overlay").map(|node| self.overlay(node));
        let overlay = overlay.unwrap_or_else(|| default_overlay().map(|value| At { place, value }));
        let prefix = take("block_prefix").map_or(Some(At { place, value: 24 }), |node| {
            self.reader.number(node, "block_prefix", 1..=30, "the prefix length of a cell's block")
        });
        let expiry = match &mut given {
            Some(given) => self.seconds(given, "expiry", 60..=3650 * DAY, EXPIRY),
            None => EXPIRY,
        };
        let settings = overlay.zip(prefix).and_then(|(overlay, prefix)| {
            let (net, bits) = (overlay.value, prefix.value as u8);
            let pools = Pools::new(net, bits).ok();
            if pools.is_none() {
                let message = format!(
                    "block_prefix {bits} leaves no block for a cell in the overlay {net}; write one \
                     larger than {}",
                    net.prefix_len()
                );
                self.reader.wrong(prefix.place.max(overlay.place), message);
            }
            Some(leases::Settings { pools: pools?, expiry })
        });
        (listen, settings)
    }

    fn overlay(&mut self, node: At<Node>) -> Option<At<Ipv4Net>> {
        let overlay = self.reader.network_address(node, "overlay")?;
        self.reader.private(overlay)
    }

    /// How users are answered, but for TLS.
    fn manners(&mut self, top: &mut Entries<'_>) -> ExternalSettings {
        let default = ExternalSettings::default();
        let origins = self.reader.each(top.take("cors"), "cors", Reader::origin);
        let self_service = top.take("self_service");
        let most = top.take("max_policies_per_source").and_then(|node| {
            let hint = "policies with one app as their source, for users who are no admins";
            self.reader.number(node, "max_policies_per_source", 1..=1_000_000, hint)
        });
        ExternalSettings {
            allowed_cors_domains: origins.into_iter().map(|origin| origin.value).collect(),
            space_developer_self_service: self_service
                .and_then(|node| self.reader.flag(node, "self_service"))
                .unwrap_or(default.space_developer_self_service),
            max_policies_per_app_source: most
                .map_or(default.max_policies_per_app_source, |most| most.value as u64),
            ..default
        }
    }

    /// No two servers can have one port.
    fn apart(&mut self, file: Place, listeners: &[Listen]) {
        for (index, later) in listeners.iter().enumerate() {
            let (port, host) = (later.address.port(), later.address.ip());
            let taken = listeners[..index].iter().find(|earlier| {
                let other = earlier.address.ip();
                let meet = host == other || host.is_unspecified() || other.is_unspecified();
                port != 0 && earlier.address.port() == port && meet
            });
            if let Some(Listen { key, place, address }) = taken {
                let message = format!(
                    "{} would listen on {}, and {key} on {address}; give one of them another port",
                    later.key, later.address
                );
                self.reader.wrong(later.place.or(*place).unwrap_or(file), message);
            }
        }
    }

    /// A part of the file, if it is there and a map.
    pub(super) fn section<'a>(
        &mut self,
        node: Option<At<Node>>,
        what: &'a str,
        known: &[&str],
    ) -> Option<Entries<'a>> {
        self.reader.map(node?, what, known)
    }

    /// A file, where it is below the root.
    pub(super) fn path(&mut self, node: At<Node>, key: &str) -> Option<PathBuf> {
        let path = self.reader.absolute_path(node, key)?;
        Some(self.root.below(&path))
    }

    pub(super) fn seconds(
        &mut self,
        section: &mut Entries<'_>,
        key: &str,
        range: std::ops::RangeInclusive<u64>,
        default: Duration,
    ) -> Duration {
        self.reader.seconds(section, key, range, default)
    }
}

/// How long a lease lasts without renewal (contract section 13.1).
const EXPIRY: Duration = Duration::from_hours(168);

/// The overlay of contract section 13.1.
fn default_overlay() -> Option<Ipv4Net> {
    Ipv4Net::new(Ipv4Addr::new(10, 255, 0, 0), 16).ok()
}

fn all_addresses(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}
