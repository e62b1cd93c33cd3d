//! Whom a server lets in, and what happens when its files change.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::routing::get;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::PrivateKeyDer;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SupportedProtocolVersion};
use sarcenet_server::certs::{self, Options};
use sarcenet_server::http::Limits;
use sarcenet_server::http::tls::{self, Identity, ServerFiles, ServerTls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{Authority, OURS, Running, THEIRS, ask, request};

fn hello() -> Router {
    Router::new().route("/", get(|| async { "hello" }))
}

async fn server() -> Running {
    Running::mutual(hello(), Limits::default()).await
}

/// The settings of a client that trusts our CA, with any identity or none.
fn client(
    provider: CryptoProvider,
    versions: &[&'static SupportedProtocolVersion],
    identity: Option<Identity>,
) -> ClientConfig {
    client_of(&OURS, provider, versions, identity)
}

fn client_of(
    authority: &Authority,
    provider: CryptoProvider,
    versions: &[&'static SupportedProtocolVersion],
    identity: Option<Identity>,
) -> ClientConfig {
    let roots = tls::roots(&authority.certs.ca.certificate).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    match identity {
        None => builder.with_no_client_auth(),
        Some(Identity { chain, key }) => builder.with_client_auth_cert(chain, key).unwrap(),
    }
}

/// A certificate of our CA, or of the client itself, as the caller wants it.
fn made(by_ca: bool, change: impl FnOnce(&mut CertificateParams)) -> Identity {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = if by_ca {
        let ca_key = KeyPair::from_pem(&fs::read_to_string(&OURS.certs.ca.key).unwrap()).unwrap();
        let mut ca = CertificateParams::default();
        ca.distinguished_name = rcgen::DistinguishedName::new();
        ca.distinguished_name.push(rcgen::DnType::CommonName, "Sarcenet CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap()
    } else {
        params.self_signed(&key).unwrap()
    };
    Identity {
        chain: vec![certificate.der().clone()],
        key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
    }
}

/// Whether a client with these settings is answered.
async fn is_answered(server: &Running, settings: ClientConfig) -> bool {
    let Ok(stream) = server.tls(settings).await else { return false };
    ask(stream, &request("GET", "/", "")).await.is_ok_and(|answer| answer.body == "hello")
}

#[tokio::test]
async fn only_certificates_of_the_ca_are_let_in() {
    let server = server().await;
    type Make = fn() -> Option<Identity>;
    let table: [(&str, bool, Make); 7] = [
        ("the agent's", true, || Some(OURS.certs.client.read().unwrap())),
        ("any other of the CA", true, || Some(made(true, |_| {}))),
        ("none", false, || None),
        ("another CA's", false, || Some(THEIRS.certs.client.read().unwrap())),
        ("its own", false, || Some(made(false, |_| {}))),
        ("an expired one", false, || {
            Some(made(true, |params| params.not_after = date_time_ymd(2020, 1, 1)))
        }),
        ("one from the future", false, || {
            Some(made(true, |params| params.not_before = date_time_ymd(4000, 1, 1)))
        }),
    ];
    for version in [&TLS12, &TLS13] {
        for (what, good, identity) in &table {
            let settings = client(aws_lc_rs::default_provider(), &[version], identity());
            let answered = is_answered(&server, settings).await;
            assert_eq!(answered, *good, "{what}, {version:?}");
        }
    }
    // The server's own certificate is for servers.
    let settings =
        client(aws_lc_rs::default_provider(), &[&TLS13], Some(OURS.certs.server.read().unwrap()));
    assert!(!is_answered(&server, settings).await);
    let failed = r#"sarcenet_http_failed_connections_total{server="test",reason="handshake"} 11"#;
    server.count(failed).await;
}

/// As while one CA takes the place of another: both have the same name.
#[tokio::test]
async fn all_cas_of_a_bundle_are_good() {
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path().join("bundle.crt");
    let cas = [&OURS, &THEIRS].map(|authority| fs::read(&authority.certs.ca.certificate).unwrap());
    fs::write(&bundle, cas.concat()).unwrap();
    let files = ServerFiles { client_ca: Some(bundle), ..OURS.server() };
    let server = Running::start(hello(), Limits::default(), Some(files)).await;
    for authority in [&OURS, &THEIRS] {
        let identity = authority.certs.client.read().unwrap();
        let settings = client(aws_lc_rs::default_provider(), &[&TLS13], Some(identity));
        assert!(is_answered(&server, settings).await);
    }
}

#[tokio::test]
async fn the_one_suite_that_shipped_clients_offer_is_enough() {
    let server = server().await;
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256];
    let identity = OURS.certs.client.read().unwrap();
    assert!(is_answered(&server, client(provider, &[&TLS12], Some(identity))).await);
}

#[tokio::test]
async fn plain_http_on_a_tls_port_is_told_so() {
    let server = server().await;
    let long = format!("GET /?{} HTTP/1.1\r\n\r\n", "x".repeat(100_000));
    for text in ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", "PUT ", "h", &long] {
        let mut stream = server.tcp().await;
        stream.write_all(text.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(
            answer,
            "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
        );
    }
    let plaintext = r#"sarcenet_http_failed_connections_total{server="test",reason="plaintext"} 4"#;
    server.count(plaintext).await;
    // Anything else is no HTTP either.
    let mut stream = server.tcp().await;
    stream.write_all(&[0; 64]).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    assert_eq!(server.ask("GET", "/", "").await.body, "hello");
}

#[tokio::test]
async fn the_client_of_agents() {
    let server = server().await;
    let port = server.address().port();
    let timeout = Duration::from_secs(30);
    let ours = OURS.client().client(timeout).unwrap();
    let url = format!("https://localhost:{port}/");
    assert_eq!(ours.get(&url).send().await.unwrap().text().await.unwrap(), "hello");
    let by_address = format!("https://127.0.0.1:{port}/");
    assert_eq!(ours.get(by_address).send().await.unwrap().status(), 200);

    let mut other_ca = OURS.client();
    other_ca.server_ca = THEIRS.certs.ca.certificate.clone();
    let error = other_ca.client(timeout).unwrap().get(&url).send().await.unwrap_err();
    assert!(format!("{error:?}").contains("InvalidCertificate"), "{error:?}");
    // A name that is not in the server's certificate.
    let error = ours.get(format!("https://127.0.0.2:{port}/")).send().await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    assert!(ours.get(format!("http://localhost:{port}/")).send().await.is_err());
}

#[tokio::test]
async fn files_are_exchanged_while_it_runs() {
    let changing = Authority::new();
    let limits = Limits { reload: Duration::from_millis(5), ..Limits::default() };
    let server = Running::start(hello(), limits, Some(changing.server())).await;
    let current = || changing.client().settings().unwrap();
    let mut idle = server.tls(current()).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    let old = changing.certs.client.read().unwrap();

    // Nonsense changes nothing.
    let certificate = changing.directory.path().join("server.crt");
    let nonsense = changing.directory.path().join("nonsense");
    fs::write(&nonsense, "nonsense").unwrap();
    fs::rename(nonsense, certificate).unwrap();
    server.count(r#"sarcenet_http_tls_reloads_total{server="test",result="bad"} 1"#).await;
    assert!(is_answered(&server, current()).await);

    // Another CA altogether, as if the deployment's had been exchanged.
    for file in ["ca.crt", "ca.key", "server.crt", "server.key", "client.crt", "client.key"] {
        fs::remove_file(changing.directory.path().join(file)).unwrap();
    }
    certs::init(changing.directory.path(), &Options::default()).unwrap();
    server.count(r#"sarcenet_http_tls_reloads_total{server="test",result="good"} 1"#).await;
    assert!(is_answered(&server, current()).await);
    let outdated = client_of(&changing, aws_lc_rs::default_provider(), &[&TLS13], Some(old));
    assert!(!is_answered(&server, outdated).await);
    // What was let in before is not let ask again.
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    assert!(rest.ends_with(b"hello"), "{rest:?}");
}

#[tokio::test]
async fn files_are_looked_at_when_asked() {
    let changing = Authority::new();
    let limits = Limits { reload: Duration::from_hours(1), ..Limits::default() };
    let server = Running::start(hello(), limits, Some(changing.server())).await;
    let renew = Options { renew: true, ..Options::default() };
    for changes in 1..=2 {
        certs::init(changing.directory.path(), &renew).unwrap();
        server.server.look_at_tls();
        let line =
            format!(r#"sarcenet_http_tls_reloads_total{{server="test",result="good"}} {changes}"#);
        server.count(&line).await;
    }
}

#[test]
fn bad_files_are_refused_at_the_start_and_change_nothing_later() {
    let fresh = Authority::new();
    let path = |file: &str| fresh.directory.path().join(file);
    let good = ["server.crt", "server.key", "ca.crt"].map(|file| fs::read(path(file)).unwrap());
    let other = fs::read(&THEIRS.certs.server.key).unwrap();
    let running = ServerTls::load(fresh.server()).unwrap();
    let mut in_force = running.watch();
    let table: [(&str, Option<&[u8]>, &str); 8] = [
        ("server.crt", None, "cannot read"),
        ("server.key", None, "cannot read"),
        ("ca.crt", None, "cannot read"),
        ("server.crt", Some(b"garbage"), "no certificate in PEM"),
        ("server.key", Some(&good[0]), "no private key in PEM"),
        ("ca.crt", Some(b""), "no certificate in PEM"),
        (
            "ca.crt",
            Some(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "cannot use",
        ),
        ("server.key", Some(&other), "cannot use certificate"),
    ];
    for (file, text, wanted) in table {
        match text {
            Some(text) => fs::write(path(file), text).unwrap(),
            None => fs::remove_file(path(file)).unwrap(),
        }
        for error in [
            ServerTls::load(fresh.server()).err().map(|e| e.to_string()),
            running.reload().err().map(|e| e.to_string()),
        ] {
            let error = error.unwrap();
            assert!(error.contains(wanted), "{error}");
            assert!(error.contains(path(file).to_str().unwrap()), "{error}");
        }
        assert!(!in_force.has_changed().unwrap());
        for (file, text) in ["server.crt", "server.key", "ca.crt"].iter().zip(&good) {
            fs::write(path(file), text).unwrap();
        }
        // A file that was away for a moment is no change.
        assert_eq!(running.reload().unwrap(), text.is_some(), "{file}");
        assert!(!running.reload().unwrap());
        assert_eq!(in_force.has_changed().unwrap(), text.is_some());
        in_force.mark_unchanged();
    }
    let unasked = ServerFiles { client_ca: None, ..fresh.server() };
    assert!(ServerTls::load(unasked).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_told_when_the_certificate_is_over() {
    let server = server().await;
    let text = server.metrics.text().unwrap();
    let begin = r#"sarcenet_http_certificate_expiry_seconds{server="test"} "#;
    let told = text.lines().find_map(|line| line.strip_prefix(begin)).unwrap();
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let left = told.parse::<u64>().unwrap() - now;
    let year = 365 * 24 * 60 * 60;
    assert!((year / 12..20 * year).contains(&left), "{left} seconds");
}
