//! UAA and Cloud Controller over TLS: who cannot show a good certificate is told nothing and
//! believed nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd,
};
use sarcenet_server::certs::{self, Certs};
use sarcenet_server::cloud_controller::SecurityGroupSource;
use sarcenet_server::http::metrics::Metrics;
use sarcenet_server::http::tls::{IdentityFiles, ServerFiles};
use sarcenet_server::outbound::OutboundSettings;
use sarcenet_server::syncer::{Leader, SyncMetrics, Synced, Syncer};
use serde_json::json;
use tempfile::TempDir;

use crate::world::{Backend, Options, OverTls, World, v1};

const POLICIES: &str = "/networking/v1/external/policies";

/// A platform's certificates, and those of somebody else.
struct Authorities {
    directory: TempDir,
    ours: Certs,
    theirs: Certs,
}

impl Authorities {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let init = |name: &str| {
            certs::init(&directory.path().join(name), &certs::Options::default()).unwrap()
        };
        let (ours, theirs) = (init("ours"), init("theirs"));
        Self { directory, ours, theirs }
    }

    /// A certificate of our CA, for this address, as the caller wants it.
    fn made(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> IdentityFiles {
        let ca_key = KeyPair::from_pem(&fs::read_to_string(&self.ours.ca.key).unwrap()).unwrap();
        let mut ca = CertificateParams::default();
        ca.distinguished_name = rcgen::DistinguishedName::new();
        ca.distinguished_name.push(DnType::CommonName, "Sarcenet CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        let file = |kind: &str| self.directory.path().join(format!("{name}.{kind}"));
        fs::write(file("crt"), certificate.pem()).unwrap();
        fs::write(file("key"), key.serialize_pem()).unwrap();
        IdentityFiles { certificate: file("crt"), key: file("key") }
    }

    /// Certificates that are not good enough for who trusts our CA, and what is said of them.
    fn bad(&self) -> Vec<(IdentityFiles, &'static str)> {
        let elsewhere = SanType::DnsName("elsewhere.example.org".try_into().unwrap());
        vec![
            // Of a CA with the same name.
            (self.theirs.server.clone(), "BadSignature"),
            (
                self.made("elsewhere", |params| params.subject_alt_names = vec![elsewhere]),
                "not valid for name",
            ),
            (
                self.made("expired", |params| params.not_after = date_time_ymd(2020, 1, 1)),
                "certificate expired",
            ),
            (
                self.made("early", |params| params.not_before = date_time_ymd(2200, 1, 1)),
                "certificate not valid yet",
            ),
        ]
    }
}

fn trusting(authority: &Path) -> OutboundSettings {
    OutboundSettings {
        authorities: Some(authority.to_owned()),
        timeout: Duration::from_mins(1),
        ..OutboundSettings::default()
    }
}

fn over(server: IdentityFiles, client_ca: Option<PathBuf>, outbound: &OutboundSettings) -> OverTls {
    let server = ServerFiles { identity: server, client_ca };
    OverTls { server, outbound: outbound.clone() }
}

#[tokio::test]
async fn nobody_is_let_in_by_an_uaa_that_cannot_show_who_it_is() {
    let authorities = Authorities::new();
    let trusting = trusting(&authorities.ours.ca.certificate);
    for (server, why) in authorities.bad() {
        let uaa = Some(over(server.clone(), None, &trusting));
        let world = World::with(Backend::Sqlite, Options { uaa, ..Options::default() }).await;
        for (method, path) in [("GET", POLICIES), ("POST", POLICIES)] {
            let answer =
                world.ask(method, path, Some("Bearer admin"), v1(&[("a", "b", 1, 1)])).await;
            let told = r#"{"error": "failed to verify token with uaa"}"#;
            assert_eq!((answer.status, &*answer.body), (401, told), "{why}");
        }
        assert_eq!(world.database.policy_count().await.unwrap(), 0, "{why}");
        assert_eq!(world.platform.asked(""), 0, "{why}: it was told a token");
        let counted = world.metrics.text().unwrap();
        assert!(counted.contains("sarcenet_refused_callers_total{reason=\"uaa\"} 2"), "{counted}");

        // Who does not look takes any.
        let blind = OutboundSettings { skip_verification: true, ..trusting.clone() };
        let uaa = Some(over(server, None, &blind));
        let world = World::with(Backend::Sqlite, Options { uaa, ..Options::default() }).await;
        world.create(&[("a", "b", 1, 1)]).await;
    }
    let uaa = Some(over(authorities.ours.server.clone(), None, &trusting));
    let world = World::with(Backend::Sqlite, Options { uaa, ..Options::default() }).await;
    world.create(&[("a", "b", 1, 1)]).await;
    assert_eq!(world.listed().await, ["a b 1-1"]);
}

#[tokio::test]
async fn a_cloud_controller_that_cannot_show_who_it_is_changes_nothing() {
    let authorities = Authorities::new();
    let trusting = trusting(&authorities.ours.ca.certificate);
    for (server, why) in authorities.bad() {
        let cloud_controller = Some(over(server, None, &trusting));
        let options = Options { cloud_controller, ..Options::default() };
        let world = World::with(Backend::Sqlite, options).await;
        let body = v1(&[("a", "b", 1, 1)]);
        for (method, told) in [("POST", "check access failed"), ("GET", "filter policies failed")] {
            let answer = world.ask(method, POLICIES, Some("Bearer dev"), body.clone()).await;
            let told = format!(r#"{{"error": "{told}"}}"#);
            assert_eq!((answer.status, answer.body), (500, told), "{why}");
            // There is something to filter then.
            world.create(&[("a", "x", 1, 1)]).await;
        }
        assert_eq!(world.listed().await, ["a x 1-1"], "{why}");
        let (error, counted) = sync(&world, &trusting).await;
        let error = error.unwrap_err();
        let begin = "cannot bring security groups up to date: look up when security groups changed: \
                     no answer; is the server up and its certificate from the right authority?";
        assert!(error.starts_with(begin) && error.contains(why), "{why}: {error}");
        let failures = "sarcenet_security_group_sync_failures_total{reason=\"latest\"} 1";
        assert!(counted.contains(failures), "{counted}");
        assert_eq!(world.platform.asked("GET "), 0, "{why}: it was told a token");
    }
}

/// Brings the groups of the platform; what came of it, and what was counted.
async fn sync(world: &World, outbound: &OutboundSettings) -> (Result<Synced, String>, String) {
    let group =
        json!({"guid": "G", "name": "G", "globally_enabled": {"running": true, "staging": true}});
    world.platform.known.lock().groups = vec![group];
    let source = SecurityGroupSource::new(&world.cloud_controller_url, outbound).unwrap();
    let leader = Leader::new(world.database.clone());
    let mut syncer = Syncer::new(leader, world.cloud_controller.clone(), source);
    let metrics = Metrics::default();
    let counted = SyncMetrics::new(&metrics);
    // The next one is not kept away.
    let outcome = syncer.sync(Duration::ZERO).await;
    counted.count(&outcome);
    let (groups, _) = world.database.security_groups(&[], 0, 0).await.unwrap();
    assert_eq!(groups.len(), usize::from(outcome.is_ok()));
    (outcome.map_err(|e| e.to_string()), metrics.text().unwrap())
}

/// The internal API of Cloud Controller asks for a certificate (contract section 1.10).
#[tokio::test]
async fn the_sync_shows_its_certificate_where_it_is_asked_for() {
    let authorities = Authorities::new();
    let Certs { ca, server, client, .. } = authorities.ours.clone();
    let anonymous = trusting(&ca.certificate);
    let as_client = |files: IdentityFiles| OutboundSettings {
        identity: Some((files.certificate, files.key)),
        ..anonymous.clone()
    };
    let known = as_client(client);
    let cloud_controller = Some(over(server, Some(ca.certificate), &known));
    let options = Options { cloud_controller, ..Options::default() };
    let world = World::with(Backend::Sqlite, options).await;
    for outbound in [&anonymous, &as_client(authorities.theirs.client.clone())] {
        let (outcome, counted) = sync(&world, outbound).await;
        assert!(outcome.unwrap_err().contains("no answer; is the server up"));
        assert!(counted.contains("{reason=\"latest\"} 1"), "{counted}");
    }
    assert_eq!(sync(&world, &known).await.0, Ok(Synced::Compared(true)));
    assert_eq!(world.ask("GET", POLICIES, Some("Bearer dev"), "").await.status, 200);
}
