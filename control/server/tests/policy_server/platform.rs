//! UAA and Cloud Controller, as far as the policy server asks them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// `network-policy:secret`.
const BASIC: &str = "Basic bmV0d29yay1wb2xpY3k6c2VjcmV0";

/// How a server answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    #[default]
    Well,
    Failing,
    Garbage,
    Silent,
}

/// What the platform knows.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) uaa: Mood,
    pub(crate) cloud_controller: Mood,
    /// What UAA says of tokens.
    pub(crate) tokens: BTreeMap<String, Value>,
    /// The spaces of apps.
    pub(crate) apps: BTreeMap<String, String>,
    /// Names and organizations of spaces.
    pub(crate) spaces: BTreeMap<String, (String, String)>,
    /// Users and the spaces they are developers of.
    pub(crate) developers: BTreeSet<(String, String)>,
    /// Resources of Cloud Controller, and how many are on a page.
    pub(crate) groups: Vec<Value>,
    pub(crate) groups_on_page: usize,
    /// What it says of their last change; none: it does not know the question.
    pub(crate) groups_latest: Option<String>,
    /// How often they change in the middle of a list.
    pub(crate) groups_restless: u32,
    /// How many of the server's own tokens are not accepted any more.
    pub(crate) revoked: u32,
    granted: u32,
    /// All that was asked.
    pub(crate) asked: Vec<String>,
}

/// The servers of a platform, both at one address.
#[derive(Debug, Clone)]
pub(crate) struct Platform {
    pub(crate) known: Arc<Mutex<Known>>,
    pub(crate) address: SocketAddr,
}

impl Platform {
    pub(crate) async fn start() -> Self {
        let known = Arc::new(Mutex::new(Known { groups_on_page: 5000, ..Known::default() }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let this = Self { known, address };
        let router = this.router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        this
    }

    pub(crate) fn router(&self) -> Router {
        Router::new().fallback(answer).with_state(Arc::clone(&self.known))
    }

    /// How often something was asked whose method and address begin so.
    pub(crate) fn asked(&self, start: &str) -> usize {
        self.known.lock().asked.iter().filter(|asked| asked.starts_with(start)).count()
    }
}

async fn answer(State(known): State<Arc<Mutex<Known>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let path = parts.uri.path().to_owned();
    let authorization = parts.headers.get("authorization").map(|v| v.to_str().unwrap().to_owned());
    let authorization = authorization.unwrap_or_default();
    let of_uaa = matches!(path.as_str(), "/check_token" | "/oauth/token");
    let mood = {
        let mut known = known.lock();
        known.asked.push(format!("{} {}", parts.method, parts.uri));
        if of_uaa { known.uaa } else { known.cloud_controller }
    };
    match mood {
        Mood::Well => {}
        Mood::Failing => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Mood::Garbage => return "<html>{\"scope\":[\"network.admin\"]}".into_response(),
        Mood::Silent => std::future::pending().await,
    }
    let mut known = known.lock();
    let fields = |text: &[u8]| form_urlencoded::parse(text).into_owned().collect::<Vec<_>>();
    if of_uaa {
        assert_eq!((parts.method, authorization.as_str()), (Method::POST, BASIC));
        assert_eq!(parts.headers["content-type"], "application/x-www-form-urlencoded");
        return known.uaa(&path, &fields(&body)).into_response();
    }
    let accepted =
        known.revoked < known.granted && authorization == format!("bearer own-{}", known.granted);
    if path != "/internal/v4/asg_latest_update" && !accepted {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let query = fields(parts.uri.query().unwrap_or_default().as_bytes());
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    known.cloud_controller(&segments, &query).into_response()
}

fn json(value: &Value) -> (StatusCode, String) {
    (StatusCode::OK, value.to_string())
}

fn value<'a>(fields: &'a [(String, String)], name: &str) -> &'a str {
    fields.iter().find(|(own, _)| own == name).map_or("", |(_, value)| value)
}

impl Known {
    fn uaa(&mut self, path: &str, fields: &[(String, String)]) -> (StatusCode, String) {
        if path == "/check_token" {
            return match self.tokens.get(value(fields, "token")) {
                Some(known) => json(known),
                None => (StatusCode::BAD_REQUEST, r#"{"error":"invalid_token"}"#.into()),
            };
        }
        assert_eq!(value(fields, "grant_type"), "client_credentials");
        assert_eq!(value(fields, "client_id"), "network-policy");
        self.granted += 1;
        json(&json!({"access_token": format!("own-{}", self.granted), "expires_in": 3600}))
    }

    fn cloud_controller(
        &mut self,
        segments: &[&str],
        query: &[(String, String)],
    ) -> (StatusCode, String) {
        match segments {
            ["v3", "apps"] => {
                let wanted: Vec<&str> = value(query, "guids").split(',').collect();
                assert!(wanted.len() <= 100);
                assert_eq!(value(query, "per_page"), wanted.len().to_string());
                let app = |guid: &&str| {
                    let space = self.apps.get(*guid)?;
                    let href = format!("https://api.example.org/v3/spaces/{space}");
                    Some(json!({"guid": guid, "links": {"space": {"href": href}}}))
                };
                let resources: Vec<Value> = wanted.iter().filter_map(app).collect();
                json(&json!({"pagination": {"total_pages": 1}, "resources": resources}))
            }
            ["v2", "spaces", guid] => match self.spaces.get(*guid) {
                Some((name, organization)) => {
                    json(&json!({"entity": {"name": name, "organization_guid": organization}}))
                }
                None => (StatusCode::NOT_FOUND, "{}".into()),
            },
            ["v2", "spaces"] => {
                let filter = |name: &str| {
                    let start = format!("{name}:");
                    let found = query.iter().find_map(|(_, value)| value.strip_prefix(&start));
                    found.unwrap().to_owned()
                };
                let (user, space) =
                    (filter("developer_guid"), (filter("name"), filter("organization_guid")));
                let fits = |guid: &&String| {
                    self.spaces[*guid] == space
                        && self.developers.contains(&(user.clone(), (*guid).clone()))
                };
                listed(self.spaces.keys().filter(fits), None)
            }
            ["v2", "users", user, "spaces"] => {
                // A page for each space.
                let page: usize = value(query, "page").parse().unwrap_or(1);
                assert_eq!(value(query, "results-per-page"), "100");
                let own = self.developers.iter().filter(|(developer, _)| developer == user);
                let spaces: Vec<&String> = own.map(|(_, space)| space).collect();
                let next = (page < spaces.len()).then(|| {
                    format!("/v2/users/{user}/spaces?results-per-page=100&page={}", page + 1)
                });
                listed(spaces.into_iter().skip(page - 1).take(1), next.as_deref())
            }
            ["internal", "v4", "asg_latest_update"] => match &self.groups_latest {
                Some(latest) => json(&json!({ "last_update": latest })),
                None => (StatusCode::NOT_FOUND, String::new()),
            },
            ["v3", "security_groups"] => {
                assert_eq!(value(query, "per_page"), "5000");
                let page: usize = value(query, "page").parse().unwrap();
                if self.groups_restless > 0 {
                    self.groups_restless -= 1;
                    self.groups_latest =
                        Some(format!("2030-01-01T00:00:{:02}Z", self.groups_restless));
                }
                let start = (page - 1) * self.groups_on_page;
                let rest = &self.groups[start.min(self.groups.len())..];
                let more = rest.len() > self.groups_on_page;
                let next = if more { json!({"href": "https://elsewhere"}) } else { Value::Null };
                let resources = &rest[..rest.len().min(self.groups_on_page)];
                json(&json!({"pagination": {"next": next}, "resources": resources}))
            }
            _ => (StatusCode::NOT_FOUND, "{}".into()),
        }
    }
}

fn listed<'a>(
    spaces: impl Iterator<Item = &'a String>,
    next: Option<&str>,
) -> (StatusCode, String) {
    let resources: Vec<Value> = spaces.map(|guid| json!({"metadata": {"guid": guid}})).collect();
    json(&json!({"next_url": next, "resources": resources}))
}
