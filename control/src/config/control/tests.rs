//! A table of files and what is said about them.

use super::*;

const GOOD: &str = "\
auth: {tokens_file: /etc/sarcenet/tokens.yaml}
external:
  listen: 10.0.16.4:4002
";

/// A deployment in Cloud Foundry with every key.
const FULL: &str = "\
roles: [policy-server, subnet-controller]
database: postgres://network:secret@sql.example.org/network_policy
database_connections: 50
tag_quarantine: 1200
tag_length: 1
certs: {ca: /certs/ca, cert: /certs/cert, key: /certs/key}
external: {listen: 127.0.0.1:14002, tls: true}
internal: {listen: '[::1]:14003'}
leases: {listen: 127.0.0.1:14103, overlay: 172.16.0.0/12, block_prefix: 26, expiry: 3600}
status: {listen: 127.0.0.1:19000}
auth:
  uaa: {url: https://uaa.example.org, client: network, secret: hush, ca: /uaa, remember: 5}
cloud_controller: {url: https://cc.example.org:9024, ca: /cc, skip_verification: true, remember: 7}
cleanup_interval: 120
max_policies_per_source: 20
cors: [https://console.example.org]
self_service: true
security_groups:
  sync: {url: https://cc.example.org:9023, ca: /cc, cert: /sync.crt, key: /sync.key, interval: 30}
";

fn root() -> Root {
    Root::new("/r")
}

fn parse(text: &str) -> ControlSpec {
    ControlSpec::parse(text, &root()).unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
}

fn mistakes(text: &str) -> Vec<String> {
    let mistakes = ControlSpec::parse(text, &root()).unwrap_err();
    mistakes.iter().map(ToString::to_string).collect()
}

#[test]
fn the_contracts_defaults() {
    let spec = parse("auth: {tokens_file: /tokens}\n");
    assert_eq!(spec.database.url, "sqlite:/r/var/lib/sarcenet-control/control.db");
    assert_eq!(spec.database_directory, Some("/r/var/lib/sarcenet-control".into()));
    assert_eq!(spec.status.unwrap().to_string(), "127.0.0.1:31946");
    assert!(spec.security_groups.is_none() && spec.debug.is_none());
    let internal = spec.internal.unwrap();
    assert_eq!(internal.listen.to_string(), "0.0.0.0:4003");
    assert_eq!(internal.tls.client_ca, Some("/r/etc/sarcenet/certs/ca.crt".into()));
    assert_eq!(internal.tls.identity.certificate, Path::new("/r/etc/sarcenet/certs/server.crt"));
    assert_eq!(internal.tls.identity.key, Path::new("/r/etc/sarcenet/certs/server.key"));
    let external = spec.external.unwrap();
    assert_eq!(external.listen.to_string(), "0.0.0.0:4002");
    assert!(external.tls.is_none());
    let settings = external.settings;
    assert!(!settings.tls && !settings.space_developer_self_service);
    assert_eq!((settings.max_policies_per_app_source, settings.tag_bytes), (150, 2));
    assert_eq!((spec.database.tag_bits, internal.settings.tag_bytes), (16, 2));
    let AuthSpec::TokensFile(tokens) = external.auth else { panic!() };
    assert_eq!(tokens, Path::new("/r/tokens"));
    let controller = spec.subnet_controller.unwrap();
    assert_eq!(controller.listen.to_string(), "0.0.0.0:4103");
    assert_eq!(controller.tls, internal.tls);
    assert_eq!(controller.settings.pools.overlay.to_string(), "10.255.0.0/16");
    assert_eq!(controller.settings.pools.block_prefix, 24);
    assert_eq!(controller.settings.expiry, Duration::from_hours(168));
}

#[test]
fn every_key() {
    let spec = parse(FULL);
    assert!(spec.database.url.starts_with("postgres://") && spec.database_directory.is_none());
    assert_eq!(spec.database.max_connections, 50);
    assert_eq!(spec.database.tag_quarantine, Duration::from_mins(20));
    assert_eq!(spec.status.unwrap().port(), 19000);
    let internal = spec.internal.unwrap();
    assert_eq!(internal.listen.to_string(), "[::1]:14003");
    assert_eq!((spec.database.tag_bits, internal.settings.tag_bytes), (8, 1));
    let external = spec.external.unwrap();
    let tls = external.tls.unwrap();
    assert_eq!((tls.identity.key.to_str(), tls.client_ca), (Some("/r/certs/key"), None));
    let settings = external.settings;
    assert!(settings.tls && settings.space_developer_self_service);
    assert_eq!((settings.max_policies_per_app_source, settings.tag_bytes), (20, 1));
    assert_eq!(settings.allowed_cors_domains, ["https://console.example.org"]);
    let AuthSpec::Uaa(platform) = external.auth else { panic!() };
    let UaaSpec { uaa, cloud_controller } = *platform;
    assert_eq!((&*uaa.url, &*uaa.client), ("https://uaa.example.org", "network"));
    assert!(uaa.secret == "hush".into());
    assert_eq!(uaa.remember, Duration::from_secs(5));
    assert_eq!(uaa.outbound.authorities, Some("/r/uaa".into()));
    let cloud_controller = cloud_controller.unwrap();
    assert_eq!(cloud_controller.settings.url, "https://cc.example.org:9024");
    assert_eq!(cloud_controller.settings.remember, Duration::from_secs(7));
    assert!(cloud_controller.settings.outbound.skip_verification);
    assert_eq!(cloud_controller.cleanup_interval, Duration::from_mins(2));
    let Some(GroupsSpec::Sync(sync)) = spec.security_groups else { panic!() };
    let SyncSpec { source: sync, cloud_controller, .. } = *sync;
    assert_eq!(cloud_controller.url, "https://cc.example.org:9024");
    assert_eq!(sync.interval, Duration::from_secs(30));
    assert_eq!(sync.outbound.identity, Some(("/r/sync.crt".into(), "/r/sync.key".into())));
    let controller = spec.subnet_controller.unwrap();
    assert_eq!(controller.settings.pools.overlay.to_string(), "172.16.0.0/12");
    assert_eq!(controller.settings.expiry, Duration::from_hours(1));
}

#[test]
fn a_role_alone_needs_nothing_of_the_other() {
    let spec = parse("roles: [subnet-controller]\n");
    assert!(spec.external.is_none() && spec.internal.is_none());
    assert_eq!(spec.status.unwrap().to_string(), "127.0.0.1:19683");
    let spec = parse(&format!("roles: [policy-server]\n{GOOD}"));
    assert!(spec.subnet_controller.is_none());
}

#[test]
fn security_groups_may_be_in_a_file() {
    for auth in ["tokens_file: /t", "uaa: {secret: hush}"] {
        let spec = parse(&format!("auth: {{{auth}}}\nsecurity_groups: {{file: /groups.yaml}}\n"));
        let Some(GroupsSpec::File(file)) = spec.security_groups else { panic!("{auth}") };
        assert_eq!(file, Path::new("/r/groups.yaml"));
    }
}

#[test]
fn a_secret_may_be_in_a_file() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("secret"), "hush\n").unwrap();
    let text = "auth: {uaa: {secret_file: /secret}}\n";
    let spec = ControlSpec::parse(text, &Root::new(directory.path())).unwrap();
    let AuthSpec::Uaa(platform) = spec.external.unwrap().auth else { panic!() };
    let UaaSpec { uaa, cloud_controller } = *platform;
    assert!(cloud_controller.is_none());
    assert!(uaa.secret == "hush".into());
    assert_eq!(uaa.url, "https://uaa.service.cf.internal:8443");
    assert_eq!(
        mistakes(text),
        ["1:27: secret_file /r/secret cannot be read: No such file or directory (os error 2)"]
    );
}

/// What is added to the good file, and what is said.
const MISTAKES: &[(&str, &[&str])] = &[
    ("databse: x", &["4:1: the control file has no key `databse`; did you mean `database`?"]),
    (
        "roles: [policy-sever]",
        &["4:9: no role is named `policy-sever`; did you mean `policy-server`?"],
    ),
    (
        "tag_length: 3",
        &["4:13: tag_length 3 is not in 1 to 2 (bytes of a tag; the tunnel's header has 2 for it)"],
    ),
    ("roles: []", &["4:8: roles is empty; write at least one of policy-server, subnet-controller"]),
    (
        "internal: {listen: 4003}",
        &["4:20: listen reads as a number; put it in quotes to make it text"],
    ),
    (
        "internal: {listen: localhost}",
        &[
            "4:20: listen `localhost` is not an address with a port; write it like 0.0.0.0:4002 or '[::1]:4002'",
        ],
    ),
    (
        "internal: {listen: '0.0.0.0:4002'}",
        &[
            "4:20: internal would listen on 0.0.0.0:4002, and external on 10.0.16.4:4002; give one of them another port",
        ],
    ),
    (
        "status: {listen: '10.0.16.4:4003'}",
        &[
            "4:18: internal would listen on 0.0.0.0:4003, and status on 10.0.16.4:4003; give one of them another port",
        ],
    ),
    (
        "leases: {overlay: 100.64.0.0/10}",
        &[
            "4:19: overlay 100.64.0.0/10 is not private; choose a part of 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 (RFC 1918)",
        ],
    ),
    (
        "leases: {overlay: 10.0.0.0/7}",
        &[
            "4:19: overlay 10.0.0.0/7 is not private; choose a part of 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 (RFC 1918)",
        ],
    ),
    (
        "leases: {overlay: 10.1.0.0/24}",
        &[
            "4:19: block_prefix 24 leaves no block for a cell in the overlay 10.1.0.0/24; write one larger than 24",
        ],
    ),
    (
        "leases: {block_prefix: 16}",
        &[
            "4:24: block_prefix 16 leaves no block for a cell in the overlay 10.255.0.0/16; write one larger than 16",
        ],
    ),
    (
        "leases: {block_prefix: 31, expiry: 1}",
        &[
            "4:24: block_prefix 31 is not in 1 to 30 (the prefix length of a cell's block)",
            "4:36: expiry 1 is not in 60 to 315360000 (seconds)",
        ],
    ),
    (
        "database: control.db",
        &[
            "4:11: cannot use control.db as the database: write sqlite:PATH or postgres://USER:PASSWORD@HOST:PORT/NAME",
        ],
    ),
    (
        "database: sqlite:control.db",
        &["4:11: the file of database `control.db` is not an absolute path"],
    ),
    ("certs: {ca: ca.crt}", &["4:13: ca `ca.crt` is not an absolute path"]),
    ("cleanup_interval: 10", &["4:19: cleanup_interval 10 is not in 60 to 31536000 (seconds)"]),
    (
        "cors: ['*', console]",
        &[
            "4:13: `console` is not the origin of a page; write one like https://console.example.org, or '*'",
        ],
    ),
    (
        "self_service: true",
        &[
            "1:1: self_service needs to know who develops which app; add `cloud_controller:` with its address",
        ],
    ),
    (
        "cloud_controller: {url: cc}",
        &[
            "4:19: cloud_controller is asked with a token of UAA; write `auth: {uaa: ...}` instead of a tokens_file, or remove cloud_controller",
            "4:25: `cc` is not the address of a server: relative URL without a base",
        ],
    ),
    (
        "security_groups: {sync: {cert: /c}}",
        &[
            "4:25: security_groups.sync lists what Cloud Controller has; add `cloud_controller:` with its address",
            "4:25: sync has no `url`; add it, e.g. `url: https://cloud-controller-ng.service.cf.internal:9023`",
            "4:25: sync needs cert and key, or neither",
        ],
    ),
    (
        "security_groups: {sync: {}, file: /groups.yaml}",
        &[
            "4:35: security_groups has both sync and file, and each would take away what the other brings; write one of them",
        ],
    ),
    ("security_groups: {file: groups.yaml}", &["4:25: file `groups.yaml` is not an absolute path"]),
];

#[test]
fn mistakes_have_a_place_and_a_cure() {
    let mut wrong = Vec::new();
    for (added, expected) in MISTAKES {
        let said = mistakes(&format!("{GOOD}{added}\n"));
        if said != *expected {
            wrong.push((added, said));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn nobody_is_let_in_without_a_word() {
    let neither = "neither tokens_file nor uaa; write one of them";
    let table = [
        (
            "",
            "1:1: the control file has no `auth`, without which nobody can be told from anybody; \
              add it, e.g. `auth: {tokens_file: /etc/sarcenet/tokens.yaml}`"
                .to_owned(),
        ),
        ("auth: {}", format!("1:7: auth has {neither}")),
        (
            "auth: {tokens_file: /t, uaa: {secret: x}}",
            "1:7: auth has both tokens_file and uaa; write one of them".to_owned(),
        ),
        (
            "auth: {uaa: {}}",
            "1:13: uaa needs either secret_file, a file with the client's secret, or secret, the \
             secret itself"
                .to_owned(),
        ),
    ];
    for (text, expected) in table {
        assert_eq!(mistakes(text), [expected], "{text}");
    }
}

#[test]
fn all_mistakes_are_told_together() {
    let text = "auth: {token_file: /t}\nexternal: {tls: 1}\nleases: {listen: x}\nstatus: 5\n";
    let said = mistakes(text);
    let places: Vec<_> = said.iter().map(|text| &text[..4]).collect();
    assert_eq!(places, ["1:7:", "1:8:", "2:17", "3:18", "4:9:"], "{said:#?}");
}

proptest::proptest! {
    #[test]
    fn no_file_panics(
        lines in proptest::collection::vec(
            proptest::sample::select(FULL.lines().collect::<Vec<_>>()), 0..12,
        ),
        noise in ".{0,20}",
    ) {
        let _ = ControlSpec::parse(&(lines.join("\n") + &noise), &root());
    }
}
