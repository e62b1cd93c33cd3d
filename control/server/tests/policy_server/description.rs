//! The description of both APIs has exactly the routes that are served.

use std::collections::{BTreeMap, BTreeSet};

use sarcenet_server::policies::routes::{EXTERNAL, INTERNAL};
use serde_json::Value;

use crate::world::{Backend, World};

const TEXT: &str = include_str!("../../../../docs/api/openapi.yaml");

/// Method and path, and whether they are of the external API.
type Described = (String, String, bool);

fn described() -> BTreeMap<Described, BTreeSet<u16>> {
    let description: Value = serde_saphyr::from_str(TEXT).unwrap();
    let mut described = BTreeMap::new();
    for (path, operations) in description["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            if method == "parameters" {
                continue;
            }
            let external = operation["tags"][0] == "external";
            let statuses = operation["responses"].as_object().unwrap().keys();
            let statuses = statuses.map(|status| status.parse().unwrap()).collect();
            described.insert((method.to_uppercase(), path.clone(), external), statuses);
        }
    }
    described
}

#[test]
fn all_routes_are_described_and_no_others() {
    let mut served = BTreeSet::new();
    for route in EXTERNAL {
        served.insert((route.method.to_string(), route.path.to_owned(), true));
        served.insert(("OPTIONS".into(), route.path.to_owned(), true));
    }
    for route in INTERNAL {
        served.insert((route.method.to_string(), route.path.to_owned(), false));
    }
    assert_eq!(described().into_keys().collect::<BTreeSet<Described>>(), served);
}

#[test]
fn what_is_referred_to_is_there() {
    let description: Value = serde_saphyr::from_str(TEXT).unwrap();
    let references: Vec<&str> =
        TEXT.split("$ref: \"#").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(references.len() > 50);
    for reference in references {
        assert!(description.pointer(reference).is_some(), "{reference}");
    }
}

/// Whatever is asked, the answer has a status that is described.
#[tokio::test]
async fn answers_are_as_described() {
    let world = World::new(Backend::Sqlite).await;
    let bodies =
        ["", "{}", "[]", "null", r#"{"policies":[{}]}"#, r#"{"id":"a","type":"b"}"#, "\u{0}"];
    let queries = ["", "?id=", "?id=%ff%00&watch=1", "?watch=x", "?from=x&limit=-1", "?watch=0"];
    for ((method, path, external), statuses) in described() {
        for version in ["v0", "v1", "v9"] {
            let path = path.replace("{version}", version);
            for token in ["Bearer admin", "Bearer dev", "nonsense"] {
                for body in bodies {
                    for query in queries {
                        let to = if external { world.external } else { world.internal };
                        let headers = [("authorization", token)];
                        let path = format!("{path}{query}");
                        let answer =
                            world.request(to, &method, &path, &headers, body.to_owned()).await;
                        assert!(
                            statuses.contains(&answer.status),
                            "{method} {path} {body:?}: {answer:?}"
                        );
                        if answer.status >= 400 {
                            assert!(answer.json()["error"].is_string(), "{method} {path}");
                        }
                    }
                }
            }
        }
    }
}
