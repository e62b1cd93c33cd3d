//! Requests made from the description of the APIs, right ones and nearly right ones, against the
//! servers themselves: no answer is an internal error, and each is as described.

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Map, Value, json};

use crate::world::{Answer, Backend, World, with_both};

const TEXT: &str = include_str!("../../../../docs/api/openapi.yaml");

/// How many requests are made.
const REQUESTS: u32 = 1500;

with_both!(whatever_is_asked_the_answer_is_as_described);

/// One operation of the description.
struct Operation {
    method: String,
    path: String,
    external: bool,
    text: Value,
}

/// The description, in which references are looked up.
struct Description(Value);

impl Description {
    fn read() -> Self {
        Self(serde_saphyr::from_str(TEXT).unwrap())
    }

    fn operations(&self) -> Vec<Operation> {
        let mut all = Vec::new();
        for (path, operations) in self.0["paths"].as_object().unwrap() {
            for (method, text) in operations.as_object().unwrap() {
                if method != "parameters" {
                    let (path, method) = (path.clone(), method.to_uppercase());
                    let external = text["tags"][0] == "external";
                    all.push(Operation { method, path, external, text: text.clone() });
                }
            }
        }
        all
    }

    /// What a reference stands for; anything else stands for itself.
    fn meant<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => self.0.pointer(reference.trim_start_matches('#')).unwrap(),
            None => value,
        }
    }

    /// Values that a schema allows, and now and then others.
    fn values(&self, schema: &Value) -> BoxedStrategy<Value> {
        prop_oneof![12 => self.good(schema), 1 => anything()].boxed()
    }

    fn good(&self, schema: &Value) -> BoxedStrategy<Value> {
        let schema = self.meant(schema);
        if let Some(choices) = schema["enum"].as_array() {
            return prop::sample::select(choices.clone()).boxed();
        }
        match schema["type"].as_str() {
            Some("object") => self.object(schema),
            Some("array") => vec(self.values(&schema["items"]), 0..4).prop_map(Value::from).boxed(),
            Some("integer") => {
                let least = schema["minimum"].as_i64().unwrap_or(-3);
                let most = schema["maximum"].as_i64().unwrap_or(70_000);
                let edge = prop::sample::select(vec![least, most, i64::MIN, i64::MAX, 0]);
                prop_oneof![4 => least..=most, 1 => edge].prop_map(Value::from).boxed()
            }
            Some("boolean") => any::<bool>().prop_map(Value::from).boxed(),
            _ => ids().prop_map(Value::from).boxed(),
        }
    }

    fn object(&self, schema: &Value) -> BoxedStrategy<Value> {
        let properties = schema["properties"].as_object().cloned().unwrap_or_default();
        let names: Vec<String> = properties.keys().cloned().collect();
        let values: Vec<_> = properties.values().map(|of| self.values(of)).collect();
        let left_out = btree_set(0..names.len().max(1) * 6, 0..2);
        let upper = prop::bool::weighted(0.2);
        (values, left_out, upper)
            .prop_map(move |(values, left_out, upper)| {
                let pairs = names.iter().cloned().zip(values).enumerate();
                let kept = pairs.filter(|(index, _)| !left_out.contains(index));
                let name = |name: String| if upper { name.to_uppercase() } else { name };
                kept.map(|(_, (key, value))| (name(key), value)).collect::<Map<_, _>>().into()
            })
            .boxed()
    }

    /// Whether a value is what a schema says.
    fn fits(&self, value: &Value, schema: &Value) -> bool {
        let schema = self.meant(schema);
        if let Some(choices) = schema["oneOf"].as_array() {
            return choices.iter().any(|choice| self.fits(value, choice));
        }
        let listed = schema["enum"].as_array();
        if listed.is_some_and(|choices| !choices.contains(value)) {
            return false;
        }
        match schema["type"].as_str() {
            Some("object") => value.as_object().is_some_and(|object| {
                let required = schema["required"].as_array().into_iter().flatten();
                let none = Map::new();
                let properties = schema["properties"].as_object().unwrap_or(&none);
                required.filter_map(Value::as_str).all(|name| object.contains_key(name))
                    && object.iter().all(|(name, value)| {
                        properties.get(name).is_some_and(|of| self.fits(value, of))
                    })
            }),
            Some("array") => value
                .as_array()
                .is_some_and(|list| list.iter().all(|item| self.fits(item, &schema["items"]))),
            Some("integer") => value.is_i64(),
            Some("boolean") => value.is_boolean(),
            Some("string") => value.is_string(),
            _ => true,
        }
    }

    /// A request for an operation.
    fn requests(&self, operation: &Operation) -> BoxedStrategy<Request> {
        let (method, external) = (operation.method.clone(), operation.external);
        let path = operation.path.clone();
        let versions = prop::sample::select(vec!["v0", "v1", "v1", "v1", "v2", "%00", ""]);
        let listed = operation.text["parameters"].as_array().cloned().unwrap_or_default();
        let names: Vec<String> =
            listed.iter().map(|it| self.meant(it)["name"].to_string()).collect();
        // Nobody waits.
        let waits = |name: &str| name.contains("timeout");
        let query: Vec<_> = (listed.iter().zip(&names))
            .map(|(of, name)| {
                let schema = &self.meant(of)["schema"];
                if waits(name) { Just(json!(0)).boxed() } else { self.values(schema) }
            })
            .collect();
        let given = vec(any::<bool>(), names.len());
        let schema = &operation.text["requestBody"]["content"]["application/json"]["schema"];
        let body = if schema.is_null() { Just(Value::Null).boxed() } else { self.values(schema) };
        let cut = prop::option::weighted(0.05, 0_usize..80);
        let token =
            prop::sample::select(vec!["Bearer admin", "bearer admin", "Bearer dev", "Bearer none"]);
        (versions, query, given, body, cut, token)
            .prop_map(move |(version, query, given, body, cut, token)| {
                let mut query = names.iter().zip(query).zip(given);
                let query = query.by_ref().filter(|((name, _), given)| *given || waits(name));
                let mut text = form_urlencoded::Serializer::new(String::new());
                for ((name, value), _) in query {
                    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    text.append_pair(name.trim_matches('"'), &value);
                }
                let path = format!("{}?{}", path.replace("{version}", version), text.finish());
                let mut body = body.to_string();
                if let Some(cut) = cut {
                    body = body.chars().take(cut).collect();
                }
                Request { method: method.clone(), path, external, body, token }
            })
            .boxed()
    }
}

/// What is asked.
#[derive(Debug)]
struct Request {
    method: String,
    path: String,
    external: bool,
    body: String,
    token: &'static str,
}

/// Names of apps: known, unknown, and strange ones.
fn ids() -> BoxedStrategy<String> {
    let known = prop::sample::select(vec!["a", "b", "x", "a,b", "app", "router", "tcp", ""]);
    prop_oneof![4 => known.prop_map(str::to_owned), 1 => "[^\u{0}]{0,40}"].boxed()
}

/// JSON of any shape, also very deep.
fn anything() -> BoxedStrategy<Value> {
    let deep = (1_usize..300).prop_map(|depth| {
        (0..depth).fold(Value::Null, |within, level| {
            if level % 2 == 0 { json!([within]) } else { json!({"policies": within}) }
        })
    });
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e300..1e300).prop_map(Value::from),
        ids().prop_map(Value::from),
        "a{2000,3000}".prop_map(Value::from),
        deep,
    ]
    .boxed()
}

/// What the contract has as an internal error although the client is at fault (sections 2.3, 2.4).
fn is_in_the_contract(request: &Request, answer: &Answer) -> bool {
    let of_a_page = request.path.contains("security_groups")
        && answer.body.contains("invalid value for '")
        && answer.body.contains("' parameter");
    let of_a_tag = request.path.contains("internal/tags") && answer.body.contains("create failed");
    of_a_page || of_a_tag
}

async fn whatever_is_asked_the_answer_is_as_described(on: Backend) {
    let world = World::new(on).await;
    let description = Description::read();
    let operations = description.operations();
    let strategies: Vec<_> =
        operations.iter().map(|operation| description.requests(operation)).collect();
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut good = 0;
    for number in 0..REQUESTS as usize {
        let operation = &operations[number % operations.len()];
        let request =
            strategies[number % operations.len()].new_tree(&mut runner).unwrap().current();
        let to = if request.external { world.external } else { world.internal };
        let Request { method, path, body, token, .. } = &request;
        let headers = [("authorization", *token)];
        let answer = world.request(to, method, path, &headers, body.clone()).await;
        let described = &operation.text["responses"][answer.status.to_string()];
        assert!(!described.is_null(), "{request:?}: {answer:?}");
        let failed = answer.status >= 500 && !is_in_the_contract(&request, &answer);
        assert!(!failed, "{request:?}: {answer:?}");
        let schema = &description.meant(described)["content"]["text/plain"]["schema"];
        if !schema.is_null() && method != "HEAD" {
            assert!(description.fits(&answer.json(), schema), "{request:?}: {answer:?}");
        }
        good += u32::from(answer.status == 200);
    }
    // Requests that are all refused would show nothing.
    assert!(good > REQUESTS / 4, "{good} of {REQUESTS} requests were good");
    assert_eq!(world.ask("GET", "/health", None, "").await.status, 200);
}
