//! `auth:`, `cloud_controller:` and `security_groups:`: other servers of the platform.

use std::path::PathBuf;
use std::time::Duration;

use sarcenet_server::access::{Secret, UaaSettings};
use sarcenet_server::cloud_controller::CloudControllerSettings;
use sarcenet_server::outbound::{self, OutboundSettings};

use super::read::ControlReader;
use super::{AuthSpec, CloudControllerSpec, GroupsSpec, SourceSpec, SyncSpec, UaaSpec};
use crate::config::reader::Entries;
use crate::config::tree::{At, Node, Place};

/// Where UAA is in Cloud Foundry, and as whom it is asked (contract section 13.2).
const UAA: (&str, &str) = ("https://uaa.service.cf.internal:8443", "network-policy");

/// The three sections; what could not be read is not there.
pub(super) struct Platform {
    auth: Option<At<Option<AuthSpec>>>,
    cloud_controller: Option<At<Option<CloudControllerSpec>>>,
    groups: Option<Source>,
}

/// Where security groups come from.
enum Source {
    Sync(At<Option<SourceSpec>>),
    File(Option<PathBuf>),
}

impl ControlReader<'_> {
    pub(super) fn platform(&mut self, top: &mut Entries<'_>) -> Platform {
        let auth = top.take("auth").filter(|node| node.value != Node::Null);
        let cleanup = Duration::from_hours(1);
        let cleanup_interval = self.seconds(top, "cleanup_interval", 60..=31_536_000, cleanup);
        Platform {
            auth: auth.map(|node| At { place: node.place, value: self.authority(node) }),
            cloud_controller: top.take("cloud_controller").map(|node| At {
                place: node.place,
                value: self.cloud_controller(node, cleanup_interval),
            }),
            groups: self.groups(top.take("security_groups")),
        }
    }

    /// What the policy server has of it, and where security groups come from. None when that could
    /// not be read.
    pub(super) fn auth(
        &mut self,
        file: Place,
        platform: Platform,
        self_service: bool,
    ) -> Option<(AuthSpec, Option<GroupsSpec>)> {
        let Platform { auth, cloud_controller, groups } = platform;
        let (sync, group_file) = match groups {
            Some(Source::Sync(sync)) => (Some(sync), None),
            Some(Source::File(path)) => (None, path.map(GroupsSpec::File)),
            None => (None, None),
        };
        if let (None, Some(At { place, .. })) = (&cloud_controller, &sync) {
            let message = "security_groups.sync lists what Cloud Controller has; add \
                           `cloud_controller:` with its address";
            self.reader.wrong(*place, message);
        }
        if cloud_controller.is_none() && self_service {
            let message = "self_service needs to know who develops which app; add \
                           `cloud_controller:` with its address";
            self.reader.wrong(file, message);
        }
        let Some(At { value: auth, .. }) = auth else {
            let message = "the control file has no `auth`, without which nobody can be told from \
                           anybody; add it, e.g. `auth: {tokens_file: /etc/sarcenet/tokens.yaml}`";
            self.reader.wrong(file, message);
            return None;
        };
        match (auth?, cloud_controller) {
            (AuthSpec::Uaa(spec), cloud_controller) => {
                let cloud_controller = match cloud_controller {
                    Some(At { value, .. }) => Some(value?),
                    None => None,
                };
                let source = sync.and_then(|sync| sync.value);
                let sync =
                    cloud_controller.as_ref().zip(source).map(|(cloud_controller, source)| {
                        let cloud_controller = cloud_controller.settings.clone();
                        let uaa = spec.uaa.clone();
                        GroupsSpec::Sync(Box::new(SyncSpec { uaa, cloud_controller, source }))
                    });
                let spec = UaaSpec { cloud_controller, ..*spec };
                Some((AuthSpec::Uaa(Box::new(spec)), sync.or(group_file)))
            }
            (tokens_file @ AuthSpec::TokensFile(_), None) => Some((tokens_file, group_file)),
            (AuthSpec::TokensFile(_), Some(At { place, .. })) => {
                let message = "cloud_controller is asked with a token of UAA; write `auth: {uaa: \
                               ...}` instead of a tokens_file, or remove cloud_controller";
                self.reader.wrong(place, message);
                None
            }
        }
    }

    fn authority(&mut self, node: At<Node>) -> Option<AuthSpec> {
        let place = node.place;
        let mut section = self.reader.map(node, "auth", &["tokens_file", "uaa"])?;
        match (section.take("tokens_file"), section.take("uaa")) {
            (Some(file), None) => self.path(file, "tokens_file").map(AuthSpec::TokensFile),
            (None, Some(uaa)) => {
                let uaa = self.uaa(uaa)?;
                Some(AuthSpec::Uaa(Box::new(UaaSpec { uaa, cloud_controller: None })))
            }
            (both, _) => {
                let has = match both {
                    Some(_) => "both tokens_file and uaa",
                    None => "neither tokens_file nor uaa",
                };
                self.reader.wrong(place, format!("auth has {has}; write one of them"));
                None
            }
        }
    }

    fn uaa(&mut self, node: At<Node>) -> Option<UaaSettings> {
        let place = node.place;
        let known =
            ["url", "client", "secret", "secret_file", "ca", "skip_verification", "remember"];
        let mut section = self.reader.map(node, "uaa", &known)?;
        let url = match section.take("url") {
            Some(node) => self.server_url(node, "url"),
            None => Some(UAA.0.to_owned()),
        };
        let client = match section.take("client") {
            Some(node) => self.reader.name(node, "client").map(|client| client.value),
            None => Some(UAA.1.to_owned()),
        };
        let secret = match (section.take("secret"), section.take("secret_file")) {
            (Some(secret), None) => {
                self.reader.text(secret, "secret").map(|secret| secret.value.into())
            }
            (None, Some(file)) => self.secret_file(file),
            _ => {
                let message = "uaa needs either secret_file, a file with the client's secret, or \
                               secret, the secret itself";
                self.reader.wrong(place, message);
                None
            }
        };
        let remember = self.seconds(&mut section, "remember", 0..=3600, Duration::ZERO);
        let outbound = self.outbound(&mut section);
        Some(UaaSettings { url: url?, client: client?, secret: secret?, remember, outbound })
    }

    fn secret_file(&mut self, node: At<Node>) -> Option<Secret> {
        let place = node.place;
        let path = self.path(node, "secret_file")?;
        match std::fs::read_to_string(&path) {
            Ok(text) => Some(text.trim_end_matches(['\r', '\n']).into()),
            Err(e) => {
                let message = format!("secret_file {} cannot be read: {e}", path.display());
                self.reader.wrong(place, message);
                None
            }
        }
    }

    fn cloud_controller(
        &mut self,
        node: At<Node>,
        cleanup_interval: Duration,
    ) -> Option<CloudControllerSpec> {
        let known = ["url", "ca", "skip_verification", "remember"];
        let mut section = self.reader.map(node, "cloud_controller", &known)?;
        let example = "https://cloud-controller-ng.service.cf.internal:9024";
        let url = self.reader.required(&mut section, "url", example);
        let url = url.and_then(|node| self.server_url(node, "url"));
        let minute = Duration::from_mins(1);
        let remember = self.seconds(&mut section, "remember", 0..=3600, minute);
        let outbound = self.outbound(&mut section);
        let settings = CloudControllerSettings { url: url?, remember, outbound };
        Some(CloudControllerSpec { settings, cleanup_interval })
    }

    fn groups(&mut self, node: Option<At<Node>>) -> Option<Source> {
        let mut section = self.section(node, "security_groups", &["sync", "file"])?;
        match (section.take("sync"), section.take("file")) {
            (Some(_), Some(At { place, .. })) => {
                let message = "security_groups has both sync and file, and each would take away \
                               what the other brings; write one of them";
                self.reader.wrong(place, message);
                None
            }
            (Some(sync), None) => {
                Some(Source::Sync(At { place: sync.place, value: self.sync(sync) }))
            }
            (None, file) => file.map(|file| Source::File(self.path(file, "file"))),
        }
    }

    fn sync(&mut self, node: At<Node>) -> Option<SourceSpec> {
        let place = node.place;
        let known = ["url", "ca", "cert", "key", "skip_verification", "interval"];
        let mut section = self.reader.map(node, "sync", &known)?;
        let example = "https://cloud-controller-ng.service.cf.internal:9023";
        let url = self.reader.required(&mut section, "url", example);
        let url = url.and_then(|node| self.server_url(node, "url"));
        let interval = self.seconds(&mut section, "interval", 1..=86_400, Duration::from_mins(1));
        let mut file = |key: &str| section.take(key).map(|node| self.path(node, key));
        let identity = match (file("cert"), file("key")) {
            (Some(certificate), Some(key)) => certificate.zip(key),
            (None, None) => None,
            _ => {
                let message = "sync needs cert and key, or neither";
                self.reader.wrong(place, message);
                None
            }
        };
        let outbound = OutboundSettings { identity, ..self.outbound(&mut section) };
        Some(SourceSpec { url: url?, outbound, interval })
    }

    /// `ca` and `skip_verification`.
    fn outbound(&mut self, section: &mut Entries<'_>) -> OutboundSettings {
        let authorities = section.take("ca").and_then(|node| self.path(node, "ca"));
        let skip = section.take("skip_verification");
        OutboundSettings {
            authorities,
            skip_verification: skip
                .and_then(|node| self.reader.flag(node, "skip_verification"))
                .unwrap_or(false),
            ..OutboundSettings::default()
        }
    }

    fn server_url(&mut self, node: At<Node>, key: &str) -> Option<String> {
        let At { place, value } = self.reader.text(node, key)?;
        match outbound::server(&value) {
            Ok(_) => Some(value),
            Err(e) => {
                self.reader.wrong(place, e.to_string());
                None
            }
        }
    }
}
