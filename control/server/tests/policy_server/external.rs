//! Contract section 1, row by row.

use serde_json::json;

use crate::world::{Backend, Options, World, v1, with_both};

with_both!(
    who_may_what,
    versions_and_paths,
    without_a_token,
    who_am_i,
    headers_of_all_answers,
    policies_are_created_listed_and_deleted,
    what_is_asked_for_is_listed,
    bodies_that_are_refused,
    bodies_as_large_as_may_be,
    tags,
    cleanup_removes_policies_of_apps_that_are_gone,
    developers_change_and_see_policies_of_their_spaces,
    developers_without_a_scope_serve_themselves_if_they_may,
    developers_have_a_quota,
);

const ADMIN: Option<&str> = Some("Bearer admin");
const DEV: Option<&str> = Some("bearer dev");
const POLICIES: &str = "/networking/v1/external/policies";
const DELETE: &str = "/networking/v1/external/policies/delete";

fn v0(source: &str, destination: &str, port: u32) -> String {
    let destination = json!({"id": destination, "protocol": "tcp", "port": port});
    json!({"policies": [{"source": {"id": source}, "destination": destination}]}).to_string()
}

async fn who_may_what(on: Backend) {
    const NOT_ADMIN: &str = "do not include allowed scopes [network.admin]";
    const NOT_WRITE: &str = "do not include allowed scopes [network.admin network.write]";
    let world = World::new(on).await;
    let missing = r#"{"error": "missing authorization header"}"#.to_owned();
    let unknown = r#"{"error": "failed to verify token with uaa"}"#.to_owned();
    let refused =
        |scopes: &str, why: &str| format!(r#"{{"error": "provided scopes [{scopes}] {why}"}}"#);
    let v2 = r#"{"error": "api version 'v2' not supported"}"#.to_owned();
    let routes = [
        ("GET", "whoami", true),
        ("POST", "policies", false),
        ("POST", "policies/delete", false),
        ("GET", "policies", false),
        ("POST", "policies/cleanup", true),
        ("GET", "tags", true),
    ];
    for (method, path, admin) in routes {
        let why = if admin { NOT_ADMIN } else { NOT_WRITE };
        let mut rows = vec![
            ("v1", None, 401, missing.clone()),
            ("v0", None, 401, missing.clone()),
            ("v1", Some("Bearer nobody"), 401, unknown.clone()),
            ("v1", Some("Basic YTpi"), 401, unknown.clone()),
            ("v1", Some(""), 401, unknown.clone()),
            ("v1", Some("Bearer none"), 403, refused("", why)),
            ("v1", Some("Bearer other"), 403, refused("openid cloud_controller.read", why)),
            ("v2", None, 406, v2.clone()),
            ("v2", Some("Bearer nobody"), 406, v2.clone()),
        ];
        if admin {
            rows.push(("v1", DEV, 403, refused("network.write", why)));
        }
        for (version, token, status, body) in rows {
            let path = format!("/networking/{version}/external/{path}");
            let answer = world.ask(method, &path, token, "").await;
            assert_eq!((answer.status, answer.body.as_str()), (status, &*body), "{path} {token:?}");
            let challenge = (status == 401).then_some("Bearer");
            assert_eq!(answer.header("www-authenticate"), challenge, "{path} {token:?}");
            assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        }
    }
}

async fn versions_and_paths(on: Backend) {
    let world = World::new(on).await;
    for (method, path, status, body, allow) in [
        ("GET", "/networking/v01/external/tags", 406, "api version 'v01'", None),
        ("GET", "/networking/V1/external/tags", 406, "api version 'V1'", None),
        ("GET", "/networking/%22/external/tags", 406, "api version '%22'", None),
        ("GET", "/networking/v1/external/destinations", 404, "404 page not found\n", None),
        ("GET", "/networking/v1/external/policies/", 404, "404 page not found\n", None),
        ("GET", "/networking/v1/internal/policies", 404, "404 page not found\n", None),
        ("PUT", POLICIES, 405, "Method Not Allowed", Some("POST, GET, HEAD, OPTIONS")),
        ("DELETE", DELETE, 405, "Method Not Allowed", Some("POST, OPTIONS")),
        ("POST", "/health", 405, "Method Not Allowed", Some("GET, HEAD, OPTIONS")),
    ] {
        let answer = world.ask(method, path, ADMIN, "").await;
        assert_eq!(answer.status, status, "{method} {path}");
        assert!(answer.body.contains(body), "{method} {path}: {}", answer.body);
        let sorted = |list: &str| {
            let mut list: Vec<String> =
                list.split(',').map(|method| method.trim().to_owned()).collect();
            list.sort();
            list
        };
        assert_eq!(answer.header("allow").map(sorted), allow.map(sorted), "{method} {path}");
        let marked = answer.header("x-frame-options").is_some();
        assert_eq!(marked, status == 406, "{method} {path}: headers are those of routes");
    }
}

async fn without_a_token(on: Backend) {
    let world = World::new(on).await;
    for path in ["/", "/networking"] {
        let answer = world.ask("GET", path, None, "").await;
        assert_eq!(answer.status, 200);
        let up = answer.body.strip_prefix("Network policy server, up for ").unwrap();
        assert!(up.ends_with("s\n"), "{up}");
    }
    let answer = world.ask("GET", "/health", None, "").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    assert_eq!(world.ask("HEAD", "/health", None, "").await.status, 200);
    world.break_database().await;
    let answer = world.ask("GET", "/health", None, "").await;
    assert_eq!((answer.status, &*answer.body), (500, r#"{"error": "check database failed"}"#));
}

async fn who_am_i(on: Backend) {
    let world = World::new(on).await;
    for (token, body) in [
        ("Bearer admin", r#"{"subject":"admin@example.org"}"#),
        ("Bearer client", r#"{"subject":"robot"}"#),
    ] {
        for version in ["v0", "v1"] {
            let path = format!("/networking/{version}/external/whoami");
            let answer = world.ask("GET", &path, Some(token), "").await;
            assert_eq!((answer.status, answer.body.as_str()), (200, body));
        }
    }
}

async fn headers_of_all_answers(on: Backend) {
    let mut options = Options::default();
    options.external.allowed_cors_domains = vec!["https://one".into(), "https://two".into()];
    options.external.tls = true;
    let with_tls = World::with(on, options).await;
    let without = World::new(on).await;
    for (path, status) in [("/", 200), (POLICIES, 401), ("/networking/v7/external/tags", 406)] {
        let answer = without.ask("GET", path, None, "").await;
        assert_eq!(answer.status, status);
        for (name, value) in [
            ("x-frame-options", Some("deny")),
            ("content-security-policy", Some("frame-ancestors 'none'")),
            ("x-xss-protection", Some("1; mode=block")),
            ("x-content-type-options", Some("nosniff")),
            ("strict-transport-security", None),
            ("access-control-allow-origin", None),
            ("access-control-allow-methods", None),
        ] {
            assert_eq!(answer.header(name), value, "{path} {name}");
        }
        assert_eq!(answer.header("x-vcap-request-id").unwrap().len(), 36);
        let answer = with_tls.ask("GET", path, None, "").await;
        assert_eq!(answer.header("strict-transport-security"), Some("max-age=31536000"));
    }
    let headers = [("x-vcap-request-id", "theirs")];
    let answer = without.request(without.external, "GET", "/", &headers, "").await;
    let id = answer.header("x-vcap-request-id").unwrap();
    assert_eq!(id.strip_prefix("theirs::").map(str::len), Some(36), "{id}");

    for (origin, allowed) in
        [("https://two", Some("https://two")), ("https://three", None), ("https://tw", None)]
    {
        for (method, path, methods) in [
            ("GET", POLICIES, None),
            ("OPTIONS", POLICIES, Some("POST,GET,OPTIONS")),
            ("OPTIONS", "/networking/v1/external/tags", Some("GET,OPTIONS")),
            ("OPTIONS", "/health", Some("GET,OPTIONS")),
        ] {
            let headers = [("origin", origin)];
            let answer = with_tls.request(with_tls.external, method, path, &headers, "").await;
            assert_eq!(answer.header("access-control-allow-origin"), allowed, "{method} {path}");
            assert_eq!(answer.header("access-control-allow-methods"), methods, "{method} {path}");
            let asked = methods.map(|_| "authorization");
            assert_eq!(answer.header("access-control-allow-headers"), asked, "{method} {path}");
            if method == "OPTIONS" {
                assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{path}");
            }
        }
    }
    let mut options = Options::default();
    options.external.allowed_cors_domains = vec!["*".into()];
    let all = World::with(on, options).await;
    let answer = all.request(all.external, "GET", "/", &[("origin", "https://any")], "").await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
}

async fn policies_are_created_listed_and_deleted(on: Backend) {
    let world = World::new(on).await;
    let empty = r#"{"total_policies":0,"policies":[]}"#;
    assert_eq!(world.ask("GET", POLICIES, ADMIN, "").await.body, empty);
    world.create(&[("a", "b", 8080, 8090), ("b", "x", 80, 80)]).await;
    world.create(&[("a", "b", 8080, 8090)]).await;
    assert_eq!(world.listed().await, ["a b 8080-8090", "b x 80-80"], "twice is once");

    let v0_path = "/networking/v0/external/policies";
    let answer = world.ask("POST", v0_path, ADMIN, v0("a", "x", 70_000)).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "{}"));
    let answer = world.ask("GET", v0_path, ADMIN, "").await.json();
    assert_eq!(answer["total_policies"], 2, "ranges are left out");
    let ports: Vec<u64> = answer["policies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|policy| policy["destination"]["port"].as_u64().unwrap())
        .collect();
    assert!(ports.contains(&80) && ports.contains(&70_000), "{ports:?}");

    world.delete(&[("a", "b", 8080, 8080), ("no", "body", 1, 1)]).await;
    assert_eq!(world.listed().await.len(), 3, "what does not match exactly stays");
    let answer =
        world.ask("POST", "/networking/v0/external/policies/delete", ADMIN, v0("b", "x", 80)).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "{}"));
    world.delete(&[("a", "b", 8080, 8090), ("a", "b", 8080, 8090)]).await;
    assert_eq!(world.listed().await, ["a x 70000-70000"]);
}

async fn what_is_asked_for_is_listed(on: Backend) {
    let world = World::new(on).await;
    world.create(&[("a", "b", 1, 1), ("b", "a", 2, 2), ("a", "x", 3, 3), ("x", "x", 4, 4)]).await;
    for (query, ports) in [
        ("", "1 2 3 4"),
        ("?id=a", "1 2 3"),
        ("?id=b,x", "1 2 3 4"),
        ("?id=a%2Cx", "1 2 3 4"),
        ("?id=", ""),
        ("?id=b&id=x", "1 2"),
        ("?id=b&source_id=x", "1 2"),
        ("?source_id=a", "1 3"),
        ("?source_id=", ""),
        ("?dest_id=x", "3 4"),
        ("?source_id=a,b&dest_id=b,a", "1 2"),
        ("?source_id=x&dest_id=b", ""),
        ("?ID=a&other=1", "1 2 3 4"),
    ] {
        let answer = world.ask("GET", &format!("{POLICIES}{query}"), ADMIN, "").await.json();
        let mut found: Vec<String> = answer["policies"]
            .as_array()
            .unwrap()
            .iter()
            .map(|policy| policy["destination"]["ports"]["start"].to_string())
            .collect();
        found.sort();
        assert_eq!(found.join(" "), ports, "{query}");
        assert_eq!(answer["total_policies"], found.len(), "{query}");
    }
}

async fn bodies_that_are_refused(on: Backend) {
    let world = World::new(on).await;
    world.create(&[("a", "b", 1, 1)]).await;
    for path in [POLICIES, DELETE] {
        for (body, told) in [
            ("{}", "mapper: validate policies: missing policies".to_owned()),
            (&*v1(&[("", "b", 1, 1)]), "mapper: validate policies: missing source id".into()),
            (
                &*v1(&[("a", "b", 1, 1), ("a", "b", 9, 8)]),
                "mapper: validate policies: invalid port range 9-8, \
                 start must be less than or equal to end"
                    .into(),
            ),
            (&*v0("a", "b", 80), "mapper: validate policies: missing start port".into()),
        ] {
            let answer = world.ask("POST", path, ADMIN, body.to_owned()).await;
            assert_eq!(answer.status, 400, "{body}");
            assert_eq!(answer.body, format!(r#"{{"error": "{told}"}}"#), "{body}");
        }
        for body in ["", "no \"JSON\"", "[]", "\u{0}"] {
            let answer = world.ask("POST", path, ADMIN, body.to_owned()).await;
            assert_eq!(answer.status, 400, "{body:?}");
            let told = answer.json()["error"].as_str().unwrap().to_owned();
            assert!(told.starts_with("mapper: unmarshal json: "), "{body:?}: {told}");
        }
    }
    assert_eq!(world.listed().await, ["a b 1-1"], "nothing of it was done");
}

async fn bodies_as_large_as_may_be(on: Backend) {
    let world = World::new(on).await;
    let padded = |length: usize| {
        let body = v1(&[("a", "b", 1, 1)]);
        let padding = " ".repeat(length - body.len());
        body + &padding
    };
    let answer = world.ask("POST", POLICIES, ADMIN, padded(10 << 20)).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "{}"));
    for (path, told) in [
        (POLICIES, r#"{"error": "failed reading request body"}"#),
        (DELETE, r#"{"error": "invalid request body"}"#),
    ] {
        let answer = world.ask("POST", path, ADMIN, padded((10 << 20) + 1)).await;
        assert_eq!((answer.status, answer.body.as_str()), (400, told));
    }
    assert_eq!(world.listed().await, ["a b 1-1"]);
    // Many thousands of policies are one change, or none.
    let many: Vec<(&str, &str, u32, u32)> =
        (1..=20_000).map(|port| ("a", "b", port, port)).collect();
    world.create(&many).await;
    assert_eq!(world.listed().await.len(), 20_000);
}

async fn tags(on: Backend) {
    let world = World::new(on).await;
    let path = "/networking/v0/external/tags";
    assert_eq!(world.ask("GET", path, ADMIN, "").await.body, r#"{"tags":[]}"#);
    world.create(&[("a", "b", 1, 1)]).await;
    world.database.create_tag("INGRESS_ROUTER", "router").await.unwrap();
    let answer = world.ask("GET", path, ADMIN, "").await;
    assert_eq!(
        answer.body,
        concat!(
            r#"{"tags":[{"id":"a","tag":"0001","type":"app"},"#,
            r#"{"id":"b","tag":"0002","type":"app"},"#,
            r#"{"id":"INGRESS_ROUTER","tag":"0003","type":"router"}]}"#
        )
    );
}

async fn cleanup_removes_policies_of_apps_that_are_gone(on: Backend) {
    let world = World::new(on).await;
    let gone: Vec<String> = (0..150).map(|number| format!("gone-{number}")).collect();
    let mut policies = vec![("a", "b", 1, 1), ("x", "not a guid, at all", 2, 2)];
    policies.extend(gone.iter().map(|app| (app.as_str(), "a", 3, 3)));
    policies.push(("gone-1", "gone-149", 4, 4));
    world.create(&policies).await;
    let path = "/networking/v0/external/policies/cleanup";
    let answer = world.ask("POST", path, ADMIN, "").await.json();
    assert_eq!(answer["total_policies"], 152, "each once, in the shape of version 1");
    assert!(answer["policies"][0]["destination"]["ports"].is_object());
    assert_eq!(world.listed().await, ["a b 1-1"]);
    let answer = world.ask("POST", path, ADMIN, "").await;
    assert_eq!(answer.body, r#"{"total_policies":0,"policies":[]}"#);
}

async fn developers_change_and_see_policies_of_their_spaces(on: Backend) {
    let world = World::new(on).await;
    let refused = r#"{"error": "one or more applications cannot be found or accessed"}"#;
    for (path, policy, allowed) in [
        (POLICIES, ("a", "b", 1, 1), true),
        (POLICIES, ("a", "x", 1, 1), false),
        (POLICIES, ("x", "a", 1, 1), false),
        (POLICIES, ("a", "unknown", 1, 1), false),
        (POLICIES, ("b", "a", 2, 2), true),
        (DELETE, ("a", "x", 1, 1), false),
        (DELETE, ("a", "unknown", 1, 1), true),
        (DELETE, ("b", "a", 2, 2), true),
    ] {
        let answer = world.ask("POST", path, DEV, v1(&[policy])).await;
        let expected = if allowed { (200, "{}") } else { (403, refused) };
        assert_eq!((answer.status, answer.body.as_str()), expected, "{path} {policy:?}");
    }
    world.create(&[("a", "x", 5, 5), ("x", "x", 6, 6), ("gone", "a", 7, 7)]).await;
    let answer = world.ask("GET", POLICIES, DEV, "").await.json();
    assert_eq!(answer["total_policies"], 1);
    assert_eq!(answer["policies"][0]["destination"]["id"], "b");
    // Of two spaces, which are on two pages.
    world.platform.known.lock().developers.insert(("dev".into(), "S2".into()));
    let answer = world.ask("GET", POLICIES, DEV, "").await.json();
    assert_eq!(answer["total_policies"], 3);
    // A space that is gone.
    world.platform.known.lock().spaces.remove("S1");
    let answer = world.ask("POST", POLICIES, DEV, v1(&[("a", "b", 8, 8)])).await;
    assert_eq!((answer.status, answer.body.as_str()), (403, refused));
}

async fn developers_without_a_scope_serve_themselves_if_they_may(on: Backend) {
    let mut options = Options::default();
    options.external.space_developer_self_service = true;
    let world = World::with(on, options).await;
    world.platform.known.lock().developers.insert(("none".into(), "S1".into()));
    let none = Some("Bearer none");
    let answer = world.ask("POST", POLICIES, none, v1(&[("a", "b", 1, 1)])).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "{}"));
    assert_eq!(world.ask("POST", POLICIES, none, v1(&[("a", "x", 1, 1)])).await.status, 403);
    assert_eq!(world.ask("GET", POLICIES, none, "").await.json()["total_policies"], 1);
    assert_eq!(world.ask("GET", "/networking/v1/external/tags", none, "").await.status, 403);
}

async fn developers_have_a_quota(on: Backend) {
    let mut options = Options::default();
    options.external.max_policies_per_app_source = 3;
    let world = World::with(on, options).await;
    let exceeded = (403, r#"{"error": "policy quota exceeded"}"#);
    for (policies, expected) in [
        (vec![("a", "b", 1, 1), ("a", "b", 2, 2)], (200, "{}")),
        (vec![("a", "b", 1, 1), ("a", "b", 2, 2)], exceeded),
        (vec![("b", "b", 1, 1), ("a", "b", 3, 3)], (200, "{}")),
        (vec![("a", "b", 3, 3)], exceeded),
        (vec![("b", "b", 2, 2), ("b", "b", 3, 3)], (200, "{}")),
    ] {
        let answer = world.ask("POST", POLICIES, DEV, v1(&policies)).await;
        assert_eq!((answer.status, answer.body.as_str()), expected, "{policies:?}");
    }
    world.create(&[("a", "b", 4, 4), ("a", "b", 5, 5)]).await;
}
