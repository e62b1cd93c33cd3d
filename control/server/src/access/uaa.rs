//! Cloud Foundry's UAA: whose a token is, and the server's own token (contract section 1.3).

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use form_urlencoded::Serializer;
use reqwest::Url;
use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;

use super::{AccessError, Caller, Secret};
use crate::expiring::Expiring;
use crate::outbound::{self, Outbound, OutboundError, OutboundSettings};

/// Most verified tokens that are remembered.
const REMEMBERED: usize = 10_000;

/// The server's own token is renewed so long before its end, because requests take time.
const MARGIN: Duration = Duration::from_secs(30);

/// How UAA is asked.
#[derive(Debug, Clone)]
pub struct UaaSettings {
    /// Its address with the port, such as `https://uaa.service.cf.internal:8443`.
    pub url: String,
    /// The client id under which the server asks.
    pub client: String,
    /// Its secret.
    pub secret: Secret,
    /// How long an answer holds. A token that is taken back is good for so long; never longer than
    /// its own end. Zero asks every time.
    pub remember: Duration,
    /// How the server is reached.
    pub outbound: OutboundSettings,
}

/// A client of UAA.
#[derive(Debug)]
pub struct Uaa {
    server: Url,
    client: String,
    secret: Secret,
    remember: Duration,
    outbound: Outbound,
    verified: Expiring<Vec<u8>, Caller>,
    own: tokio::sync::Mutex<Option<OwnToken>>,
}

#[derive(Debug, Clone)]
struct OwnToken {
    text: Secret,
    until: Instant,
}

/// What UAA knows of a token.
#[derive(Debug, Deserialize)]
struct Checked {
    #[serde(default)]
    scope: Option<Vec<String>>,
    #[serde(default)]
    sub: Option<String>,
    #[serde(default)]
    user_name: Option<String>,
    #[serde(default)]
    client_id: Option<String>,
    #[serde(default)]
    exp: Option<u64>,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    #[serde(default)]
    expires_in: u64,
}

impl Uaa {
    /// A client; nothing is asked yet.
    pub fn new(settings: &UaaSettings) -> Result<Self, OutboundError> {
        Ok(Self {
            server: outbound::server(&settings.url)?,
            client: settings.client.clone(),
            secret: settings.secret.clone(),
            remember: settings.remember,
            outbound: Outbound::new(&settings.outbound)?,
            verified: Expiring::new(REMEMBERED),
            own: tokio::sync::Mutex::new(None),
        })
    }

    /// Whose token it is.
    pub(super) async fn caller(&self, token: &str) -> Result<Caller, AccessError> {
        let key = digest(&SHA256, token.as_bytes()).as_ref().to_vec();
        if let Some(caller) = self.verified.get(&key, Instant::now())
            && left(&caller).is_none_or(|left| !left.is_zero())
        {
            return Ok(caller);
        }
        let request = self.form(&["check_token"], &[("token", token)]);
        let checked: Checked =
            outbound::json("check a token with UAA", request).await.map_err(AccessError::Uaa)?;
        let caller = Caller {
            subject: checked.sub.or(checked.client_id).unwrap_or_default(),
            user_name: checked.user_name.unwrap_or_default(),
            scopes: checked.scope.unwrap_or_default(),
            expires: checked.exp.and_then(|s| UNIX_EPOCH.checked_add(Duration::from_secs(s))),
        };
        // A token without an end is asked for every time.
        let left = left(&caller);
        if left.is_some_and(|left| left.is_zero()) {
            return Err(AccessError::Expired);
        }
        let now = Instant::now();
        let hold = left.unwrap_or_default().min(self.remember);
        self.verified.put(key, caller.clone(), now, now + hold);
        Ok(caller)
    }

    /// The server's own token, asked for when there is none or it ends soon.
    pub(crate) async fn own_token(&self) -> Result<Secret, OutboundError> {
        let mut own = self.own.lock().await;
        if let Some(token) = own.as_ref().filter(|token| Instant::now() < token.until) {
            return Ok(token.text.clone());
        }
        let form = [("client_id", self.client.as_str()), ("grant_type", "client_credentials")];
        let asked = Instant::now();
        let granted: Granted =
            outbound::json("get a token from UAA", self.form(&["oauth", "token"], &form)).await?;
        let lifetime = Duration::from_secs(granted.expires_in.min(24 * 60 * 60));
        let until = asked + lifetime.saturating_sub(MARGIN);
        let text = Secret::from(granted.access_token);
        *own = Some(OwnToken { text: text.clone(), until });
        Ok(text)
    }

    /// Forgets the server's own token, which somebody did not accept.
    pub(crate) async fn forget_own_token(&self, text: &Secret) {
        let mut own = self.own.lock().await;
        if own.as_ref().is_some_and(|token| token.text == *text) {
            *own = None;
        }
    }

    fn form(&self, path: &[&str], fields: &[(&str, &str)]) -> reqwest::RequestBuilder {
        let body = Serializer::new(String::new()).extend_pairs(fields).finish();
        self.outbound
            .post(outbound::resource(&self.server, path, &[]))
            .basic_auth(&self.client, Some(self.secret.text()))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body)
    }
}

/// How much of its life a token has left; nothing is known of tokens without an end.
fn left(caller: &Caller) -> Option<Duration> {
    caller.expires.map(|end| end.duration_since(SystemTime::now()).unwrap_or_default())
}
