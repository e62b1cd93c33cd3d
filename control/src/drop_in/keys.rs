//! The keys of a JSON file, which are taken out as they are read: what is left has no use.
//!
//! Keys are known whatever their case, and `null`, 0 and empty texts are as good as missing, as in
//! Cloud Foundry's programs (contract section 0.2, item 1). All mistakes are told together.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::Ipv4Net;
use sarcenet_server::http::tls::{IdentityFiles, ServerFiles};
use serde_json::{Map, Value};

use super::DropInError;
use crate::config::check_overlay;

/// One JSON object, as far as it has not been read.
#[derive(Debug)]
pub(super) struct Keys {
    /// What it is called in messages: `database.`, or nothing.
    within: &'static str,
    /// By their names in lower case.
    left: BTreeMap<String, Value>,
    mistakes: Vec<String>,
}

impl Keys {
    /// The file at `path`.
    pub(super) fn load(path: &Path) -> Result<Self, DropInError> {
        let failed = |source| DropInError::Read { path: path.to_owned(), source };
        let text = std::fs::read(path).map_err(failed)?;
        Self::parse(&text).map_err(|reason| DropInError::Json { path: path.to_owned(), reason })
    }

    /// A file's text.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let object: Map<String, Value> = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        Ok(Self::of("", object))
    }

    fn of(within: &'static str, object: Map<String, Value>) -> Self {
        let left = object.into_iter().map(|(key, value)| (key.to_lowercase(), value)).collect();
        Self { within, left, mistakes: Vec::new() }
    }

    /// The names of the keys that nobody asked for, or all that is wrong.
    pub(super) fn finish(self, path: &Path) -> Result<Vec<String>, DropInError> {
        if self.mistakes.is_empty() {
            return Ok(self.left.into_keys().collect());
        }
        Err(DropInError::Mistakes { path: path.to_owned(), mistakes: self.mistakes })
    }

    /// Has the keys that are left be of use to somebody else.
    pub(super) fn leave_the_rest(&mut self) {
        self.left.clear();
    }

    /// Remembers that a key has a value of no use.
    pub(super) fn wrong(&mut self, key: &str, what: impl std::fmt::Display) {
        self.mistakes.push(format!("{}{key} {what}", self.within));
    }

    fn missing(&mut self, key: &str) {
        self.wrong(key, "is missing");
    }

    /// A value that is there; `what` it must be, and how it becomes that.
    fn take<T>(
        &mut self,
        key: &str,
        what: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.left.remove(key).filter(|value| !value.is_null())?;
        let taken = read(&value);
        if taken.is_none() {
            self.wrong(key, format_args!("must be {what}, not {value}"));
        }
        taken
    }

    /// A text that may be missing.
    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        let text = self.take(key, "a text", |value| value.as_str().map(str::to_owned));
        text.filter(|text| !text.is_empty())
    }

    /// A text that must be there.
    pub(super) fn required_text(&mut self, key: &str) -> Option<String> {
        let mistakes = self.mistakes.len();
        let text = self.text(key);
        if text.is_none() && self.mistakes.len() == mistakes {
            self.missing(key);
        }
        text
    }

    /// A file that may be missing.
    pub(super) fn path(&mut self, key: &str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    /// A file that must be named.
    pub(super) fn required_path(&mut self, key: &str) -> Option<PathBuf> {
        self.required_text(key).map(PathBuf::from)
    }

    /// A number that may be missing.
    pub(super) fn number(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let what = format!("a number from {} to {}", range.start(), range.end());
        self.take(key, &what, |value| value.as_u64().filter(|number| range.contains(number)))
    }

    /// A number that must be there.
    pub(super) fn required_number(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        if self.left.get(key).is_none_or(Value::is_null) {
            self.missing(key);
        }
        self.number(key, range)
    }

    /// A time in seconds, which has a default.
    pub(super) fn seconds(&mut self, key: &str, default: Duration) -> Duration {
        let seconds = self.number(key, 0..=10 * 365 * 24 * 60 * 60).filter(|seconds| *seconds > 0);
        seconds.map_or(default, Duration::from_secs)
    }

    /// Yes or no.
    pub(super) fn flag(&mut self, key: &str) -> bool {
        self.take(key, "true or false", Value::as_bool).unwrap_or(false)
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, key: &str) -> Vec<String> {
        let read = |value: &Value| {
            let list = value.as_array()?.iter();
            list.map(|text| text.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        };
        self.take(key, "a list of texts", read).unwrap_or_default()
    }

    /// An object within, whose name is `key` and a dot. It must be there.
    pub(super) fn section<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<T> {
        let name = key.trim_end_matches('.');
        if self.left.get(name).is_none_or(Value::is_null) {
            self.missing(name);
        }
        let object = self.take(name, "an object", |value| value.as_object().cloned())?;
        let mut keys = Self::of(key, object);
        let read = read(&mut keys);
        self.mistakes.append(&mut keys.mistakes);
        self.left
            .extend(keys.left.into_iter().map(|(rest, value)| (format!("{key}{rest}"), value)));
        read
    }

    /// The same, which may be missing.
    pub(super) fn optional_section<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<T> {
        let there = self.left.get(key.trim_end_matches('.')).is_some_and(|value| !value.is_null());
        if there { self.section(key, read) } else { None }
    }

    /// An IPv4 address that must be there.
    pub(super) fn required_address(&mut self, key: &str) -> Option<Ipv4Addr> {
        let text = self.required_text(key)?;
        let address = text.parse().ok();
        if address.is_none() {
            self.wrong(key, format_args!("must be an IPv4 address, not `{text}`"));
        }
        address
    }

    /// A private IPv4 network that must be there.
    pub(super) fn private_network(&mut self, key: &str) -> Option<Ipv4Net> {
        let text = self.required_text(key)?;
        let Ok(network) = text.parse::<Ipv4Net>() else {
            self.wrong(key, format_args!("must be an IPv4 network, not `{text}`"));
            return None;
        };
        if let Err(e) = check_overlay(network) {
            self.wrong(key, format_args!("cannot be used: {e}"));
            return None;
        }
        Some(network)
    }

    /// Where a server listens, by the keys of its host and its port.
    pub(super) fn listen(&mut self, host: &str, port: &str) -> Option<SocketAddr> {
        let host = self.required_text(host).and_then(|text| self.host(host, &text));
        let port = self.required_number(port, 0..=65535);
        let (host, port) = host.zip(port)?;
        Some((host, u16::try_from(port).ok()?).into())
    }

    /// A listener on the loopback interface, or on the host of a key of its own, if it has a port.
    pub(super) fn local(&mut self, host: Option<&str>, port: &str) -> Option<SocketAddr> {
        let named = host.and_then(|key| {
            let text = self.text(key)?;
            self.host(key, &text)
        });
        let port = self.number(port, 0..=65535)?;
        let host = named.unwrap_or(Ipv4Addr::LOCALHOST.into());
        Some((host, u16::try_from(port).ok()?).into())
    }

    fn host(&mut self, key: &str, text: &str) -> Option<IpAddr> {
        let host = text.parse().ok();
        if host.is_none() {
            self.wrong(key, format_args!("must be an IP address, not `{text}`"));
        }
        host
    }

    /// The files of a server to which clients come with certificates.
    pub(super) fn mutual_tls(&mut self) -> Option<ServerFiles> {
        let client_ca = self.required_path("ca_cert_file");
        let identity = self.identity();
        Some(ServerFiles { identity: identity?, client_ca: Some(client_ca?) })
    }

    /// The certificate of a server, and its key.
    pub(super) fn identity(&mut self) -> Option<IdentityFiles> {
        let certificate = self.required_path("server_cert_file");
        let key = self.required_path("server_key_file");
        Some(IdentityFiles { certificate: certificate?, key: key? })
    }

    /// From which level on log lines are written.
    pub(super) fn log_level(&mut self) -> &'static str {
        match self.text("log_level").as_deref() {
            None | Some("info") => "info",
            Some("debug") => "debug",
            Some("error" | "fatal") => "error",
            Some(other) => {
                let what = format!("must be debug, info, error or fatal, not `{other}`");
                self.wrong("log_level", what);
                "info"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Keys {
        Keys::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn keys_in_any_case_and_what_is_left() {
        let mut keys = keys(r#"{"Listen_HOST":"::1","listen_port":1,"n":{"B":2,"x":3},"rest":4}"#);
        assert_eq!(keys.listen("listen_host", "listen_port"), Some("[::1]:1".parse().unwrap()));
        assert_eq!(keys.section("n.", |within| within.number("b", 0..=9)), Some(2));
        assert_eq!(keys.finish(Path::new("f")).unwrap(), ["n.x", "rest"]);
    }

    #[test]
    fn all_mistakes_are_told() {
        let mut keys = keys(
            r#"{"a":7,"b":"x","c":[1],"d":"","e":null,"f":"host","g":70000,"n":{},"log_level":"x"}"#,
        );
        keys.required_text("a");
        keys.number("b", 1..=5);
        keys.texts("c");
        keys.required_text("d");
        keys.required_number("e", 0..=1);
        keys.listen("f", "g");
        keys.section("n.", |within| within.required_text("x"));
        keys.section("o.", |within| within.required_text("x"));
        keys.log_level();
        let error = keys.finish(Path::new("/f")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "could not read config file: /f: invalid config: a must be a text, not 7; \
             b must be a number from 1 to 5, not \"x\"; c must be a list of texts, not [1]; \
             d is missing; e is missing; f must be an IP address, not `host`; \
             g must be a number from 0 to 65535, not 70000; n.x is missing; o is missing; \
             log_level must be debug, info, error or fatal, not `x`"
        );
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["", "[]", "7", "{", "{} {}"] {
            assert!(Keys::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
