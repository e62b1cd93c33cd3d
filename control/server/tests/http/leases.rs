//! Contract section 4, row by row, over mTLS.

use std::time::Duration;

use sarcenet_server::lease::Pools;
use sarcenet_server::leases::{LeaseMetrics, Settings};

use crate::store::{Store, controller, with_both};

const EXPIRY: Duration = Duration::from_hours(168);

/// One block, 10.255.0.4/30, and three single addresses: no choice is left to chance.
fn settings() -> Settings {
    let pools = Pools::new("10.255.0.0/29".parse().unwrap(), 30).unwrap();
    Settings { pools, expiry: EXPIRY }
}

with_both!(
    every_row_of_the_contract,
    what_a_broken_database_looks_like,
    a_lease_is_over_and_another_cell_has_it,
    leases_are_counted,
    the_database_is_measured,
);

struct Row {
    what: &'static str,
    request: (&'static str, &'static str, &'static str),
    status: u16,
    body: &'static str,
}

const fn row(
    what: &'static str,
    request: (&'static str, &'static str, &'static str),
    status: u16,
    body: &'static str,
) -> Row {
    Row { what, request, status, body }
}

const ACQUIRE: &str = "/leases/acquire";
const RENEW: &str = "/leases/renew";
const RELEASE: &str = "/leases/release";

const ONE: &str = concat!(
    r#"{"underlay_ip":"10.0.0.1","overlay_subnet":"10.255.0.4/30","#,
    r#""overlay_hardware_addr":"ee:ee:0a:ff:00:04"}"#
);
const LIST: &str = concat!(
    r#"{"leases":[{"underlay_ip":"10.0.0.1","overlay_subnet":"10.255.0.4/30","#,
    r#""overlay_hardware_addr":"ee:ee:0a:ff:00:04"}]}"#
);

/// In order: each row finds what those before it left.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    row("an empty list", ("GET", "/leases", ""), 200, r#"{"leases":[]}"#),
    row("a block", ("PUT", ACQUIRE, r#"{"underlay_ip":"10.0.0.1","single_overlay_ip":false}"#), 200, ONE),
    row("the same again", ("PUT", ACQUIRE, r#"{"underlay_ip":"10.0.0.1"}"#), 200, ONE),
    row("of whichever kind", ("PUT", ACQUIRE, r#"{"underlay_ip":"10.0.0.1","single_overlay_ip":true}"#), 200, ONE),
    row("keys in any case", ("PUT", ACQUIRE, r#"{"Underlay_IP":"10.0.0.1","SINGLE_OVERLAY_IP":null}"#), 200, ONE),
    row("none left", ("PUT", ACQUIRE, r#"{"underlay_ip":"10.0.0.2"}"#), 409, r#"{"error": "no lease available"}"#),
    row("the list", ("GET", "/leases", ""), 200, LIST),
    row("the list with a query", ("GET", "/leases?x=1", ""), 200, LIST),

    row("nobody", ("PUT", ACQUIRE, "{}"), 500, r#"{"error": "invalid ipv4 address: "}"#),
    row("nobody at all", ("PUT", ACQUIRE, "null"), 500, r#"{"error": "invalid ipv4 address: "}"#),
    row("IPv6", ("PUT", ACQUIRE, r#"{"underlay_ip":"::1"}"#), 500, r#"{"error": "invalid ipv4 address: ::1"}"#),
    row("a quote", ("PUT", ACQUIRE, r#"{"underlay_ip":"a\"b"}"#), 500, r#"{"error": "invalid ipv4 address: a\"b"}"#),
    row("no body", ("PUT", ACQUIRE, ""), 400,
        r#"{"error": "unmarshal-request: EOF while parsing a value at line 1 column 0"}"#),
    row("no JSON", ("PUT", RENEW, "lease"), 400,
        r#"{"error": "unmarshal-request: expected value at line 1 column 1"}"#),
    row("two values", ("PUT", RELEASE, "{}{}"), 400,
        r#"{"error": "unmarshal-request: trailing characters at line 1 column 3"}"#),
    row("a wrong type", ("PUT", ACQUIRE, r#"{"underlay_ip":7}"#), 400,
        r#"{"error": "unmarshal-request: invalid type: integer `7`, expected a string at line 1 column 16"}"#),
    row("a list", ("PUT", RELEASE, "[]"), 400,
        r#"{"error": "unmarshal-request: invalid type: sequence, expected struct ReleaseBody at line 1 column 0"}"#),

    row("renewed", ("PUT", RENEW, ONE), 200, "{}"),
    row("another MAC", ("PUT", RENEW, r#"{"underlay_ip":"10.0.0.1","overlay_subnet":"10.255.0.4/30",
        "overlay_hardware_addr":"ee:ee:0a:ff:00:05"}"#), 409, r#"{"error": "renew-subnet-lease: lease mismatch"}"#),
    row("another subnet", ("PUT", RENEW, r#"{"underlay_ip":"10.0.0.1","overlay_subnet":"10.1.0.0/24",
        "overlay_hardware_addr":"ee:ee:0a:ff:00:04"}"#), 409, r#"{"error": "renew-subnet-lease: lease mismatch"}"#),
    row("another's subnet", ("PUT", RENEW, r#"{"underlay_ip":"10.0.0.2","overlay_subnet":"10.255.0.4/30",
        "overlay_hardware_addr":"ee:ee:0a:ff:00:05"}"#), 409,
        r#"{"error": "renew-subnet-lease: another cell has the overlay subnet or the hardware address"}"#),
    row("a subnet from elsewhere", ("PUT", RENEW, r#"{"underlay_ip":"10.0.0.3","overlay_subnet":"10.1.0.0/24",
        "overlay_hardware_addr":"ee:ee:0a:01:00:00"}"#), 200, "{}"),
    row("which is gone again", ("PUT", RELEASE, r#"{"underlay_ip":"10.0.0.3"}"#), 200, "{}"),
    row("no address", ("PUT", RENEW, r#"{"underlay_ip":"10.0.0"}"#), 409,
        r#"{"error": "renew-subnet-lease: invalid underlay ip: 10.0.0"}"#),
    row("no subnet", ("PUT", RENEW, r#"{"underlay_ip":"10.0.0.2","overlay_subnet":"10.255.0.4"}"#), 409,
        r#"{"error": "renew-subnet-lease: invalid CIDR address: 10.255.0.4"}"#),
    row("no MAC", ("PUT", RENEW, r#"{"underlay_ip":"10.0.0.2","overlay_subnet":"10.255.0.4/30","overlay_hardware_addr":"ee"}"#), 409,
        r#"{"error": "renew-subnet-lease: address ee: invalid MAC address"}"#),

    row("an unknown cell", ("PUT", RELEASE, r#"{"underlay_ip":"10.9.9.9"}"#), 200, "{}"),
    row("no cell", ("PUT", RELEASE, r#"{"underlay_ip":"x"}"#), 200, "{}"),
    row("released", ("PUT", RELEASE, r#"{"UNDERLAY_IP":"10.0.0.1"}"#), 200, "{}"),
    row("an empty list again", ("GET", "/leases", ""), 200, r#"{"leases":[]}"#),
    row("taken over", ("PUT", RENEW, ONE), 200, "{}"),
    row("as if nothing had been", ("GET", "/leases", ""), 200, LIST),

    row("no such path", ("GET", "/", ""), 404, "404 page not found\n"),
    row("not even nearly", ("GET", "/leases/", ""), 404, "404 page not found\n"),
    row("another version", ("PUT", "/v1/leases/acquire", "{}"), 404, "404 page not found\n"),
    row("a wrong method", ("POST", "/leases", "{}"), 405, "Method Not Allowed\n"),
    row("another one", ("DELETE", RELEASE, ""), 405, "Method Not Allowed\n"),
    row("a method that nobody knows", ("BREW", "/leases", ""), 405, "Method Not Allowed\n"),
    row("the head alone", ("HEAD", "/leases", ""), 200, ""),
];

async fn every_row_of_the_contract(store: Store) {
    let controller = controller(&store.database, settings()).await;
    for Row { what, request: (method, path, body), status, body: wanted } in ROWS {
        let answer = controller.ask(method, path, body).await;
        assert_eq!((answer.status, answer.body.as_str()), (*status, *wanted), "{what}");
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"), "{what}");
        let length = if *method == "HEAD" { LIST.len() } else { wanted.len() };
        assert_eq!(answer.header("content-length"), Some(length.to_string().as_str()), "{what}");
        let allow = (*status == 405).then_some(if *path == "/leases" { "GET,HEAD" } else { "PUT" });
        assert_eq!(answer.header("allow"), allow, "{what}");
        let nosniff = matches!(status, 404 | 405).then_some("nosniff");
        assert_eq!(answer.header("x-content-type-options"), nosniff, "{what}");
        // Those that Cloud Foundry's controller does not send either.
        assert_eq!(answer.header("x-vcap-request-id"), None, "{what}");
        assert_eq!(answer.header("www-authenticate"), None, "{what}");
    }
}

async fn what_a_broken_database_looks_like(store: Store) {
    let controller = controller(&store.database, settings()).await;
    store.change("ALTER TABLE leases RENAME TO away").await;
    for (request, start) in [
        (("GET", "/leases", ""), "all-routable-leases: leases: "),
        (("PUT", ACQUIRE, ONE), "acquire lease: "),
        (("PUT", RENEW, ONE), "renew-subnet-lease: renew lease: "),
        (("PUT", RELEASE, ONE), "release lease: release lease: "),
    ] {
        let answer = controller.ask(request.0, request.1, request.2).await;
        assert_eq!(answer.status, 500, "{request:?}");
        let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        let error = body["error"].as_str().unwrap();
        assert!(error.starts_with(start), "{request:?}: {error}");
    }
    store.change("ALTER TABLE away RENAME TO leases").await;
    assert_eq!(controller.ask("GET", "/leases", "").await.status, 200);
}

async fn a_lease_is_over_and_another_cell_has_it(store: Store) {
    let controller = controller(&store.database, settings()).await;
    assert_eq!(controller.ask("PUT", ACQUIRE, r#"{"underlay_ip":"10.0.0.1"}"#).await.body, ONE);
    store.pass(EXPIRY);
    assert_eq!(controller.ask("GET", "/leases", "").await.body, r#"{"leases":[]}"#);
    let two = ONE.replace("10.0.0.1", "10.0.0.2");
    assert_eq!(controller.ask("PUT", ACQUIRE, r#"{"underlay_ip":"10.0.0.2"}"#).await.body, two);
    assert_eq!(controller.ask("PUT", RENEW, ONE).await.status, 409);
}

async fn leases_are_counted(store: Store) {
    let controller = controller(&store.database, settings()).await;
    let metrics = LeaseMetrics::new(settings().pools, &controller.metrics);
    let counts = |text: String| -> Vec<String> {
        let of_leases = |line: &&str| line.starts_with("sarcenet_") && line.contains("leases");
        let mut lines: Vec<_> = text.lines().filter(of_leases).map(str::to_owned).collect();
        lines.retain(|line| !line.contains("http"));
        lines.sort();
        lines
    };
    controller.ask("PUT", ACQUIRE, r#"{"underlay_ip":"10.0.0.1"}"#).await;
    store.pass(Duration::from_hours(1));
    let single = r#"{"underlay_ip":"10.0.0.2","single_overlay_ip":true}"#;
    controller.ask("PUT", ACQUIRE, single).await;
    metrics.count(&store.database).await.unwrap();
    assert_eq!(
        counts(controller.metrics.text().unwrap()),
        [
            r#"sarcenet_free_leases{kind="block"} 0"#,
            r#"sarcenet_free_leases{kind="single"} 2"#,
            r#"sarcenet_leases{kind="block"} 1"#,
            r#"sarcenet_leases{kind="single"} 1"#,
            "sarcenet_stale_leases 1",
        ]
    );
}

async fn the_database_is_measured(store: Store) {
    let controller = controller(&store.database, settings()).await;
    store.database.show_in(&controller.metrics);
    controller.ask("GET", "/leases", "").await;
    controller.ask("GET", "/leases", "").await;
    store.change("ALTER TABLE leases RENAME TO away").await;
    controller.ask("GET", "/leases", "").await;
    let text = controller.metrics.text().unwrap();
    for line in [
        "# TYPE sarcenet_database_operations counter",
        r#"sarcenet_database_operations_total{operation="leases",result="ok"} 2"#,
        r#"sarcenet_database_operations_total{operation="leases",result="failed"} 1"#,
        "# UNIT sarcenet_database_operation_seconds seconds",
        "sarcenet_database_failed_queries_total 1",
        "sarcenet_database_queries_in_flight 0",
    ] {
        assert!(text.lines().any(|have| have == line), "{line}: {text}");
    }
    for start in [
        r#"sarcenet_database_operation_seconds_total{operation="leases",result="ok"} 0."#,
        r#"sarcenet_database_slowest_operation_seconds{operation="leases"} 0."#,
        "sarcenet_database_slowest_query_seconds 0.",
        "sarcenet_database_connections ",
        "sarcenet_database_queries_total ",
    ] {
        assert!(text.lines().any(|have| have.starts_with(start)), "{start}: {text}");
    }
}
