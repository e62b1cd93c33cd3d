//! The runtime's variables (specification 1.1.0, section 2 "Parameters").

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use sarcenet_agent_api::{AttachmentId, is_name};

use crate::failure::{Code, Failure};

/// Longest name of an interface: `IFNAMSIZ` of the kernel without the final zero.
const IFNAME_MAX: usize = 15;
/// Longest container id that the agent takes.
const CONTAINER_MAX: usize = 128;

/// The variables as they came; validated by the methods, because each command needs others.
#[derive(Debug, Default)]
pub(crate) struct Variables {
    command: Option<OsString>,
    container: Option<OsString>,
    netns: Option<OsString>,
    ifname: Option<OsString>,
    args: Option<OsString>,
    root: Option<OsString>,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
    Status,
    Gc,
    Version,
}

impl Variables {
    pub(crate) fn from_process() -> Self {
        Self {
            command: std::env::var_os("CNI_COMMAND"),
            container: std::env::var_os("CNI_CONTAINERID"),
            netns: std::env::var_os("CNI_NETNS"),
            ifname: std::env::var_os("CNI_IFNAME"),
            args: std::env::var_os("CNI_ARGS"),
            root: std::env::var_os("SARCENET_ROOT"),
        }
    }

    pub(crate) fn command(&self) -> Result<Command, Failure> {
        match text("CNI_COMMAND", self.command.as_ref())? {
            "ADD" => Ok(Command::Add),
            "DEL" => Ok(Command::Del),
            "CHECK" => Ok(Command::Check),
            "STATUS" => Ok(Command::Status),
            "GC" => Ok(Command::Gc),
            "VERSION" => Ok(Command::Version),
            other => Err(invalid(
                "CNI_COMMAND",
                &format!("`{other}` is none of ADD, DEL, CHECK, STATUS, GC, VERSION"),
            )),
        }
    }

    /// Which interface of which container; with it the variables that every command on a
    /// container carries.
    pub(crate) fn attachment(&self) -> Result<AttachmentId, Failure> {
        let container = text("CNI_CONTAINERID", self.container.as_ref())?;
        if container.len() > CONTAINER_MAX {
            return Err(invalid(
                "CNI_CONTAINERID",
                &format!("longer than {CONTAINER_MAX} characters"),
            ));
        }
        if !is_name(container) {
            return Err(invalid(
                "CNI_CONTAINERID",
                &format!(
                    "`{container}` is not made of letters, digits, `_`, `.` and `-`, a letter or digit first"
                ),
            ));
        }
        let ifname = text("CNI_IFNAME", self.ifname.as_ref())?;
        let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if ifname.len() > IFNAME_MAX || matches!(ifname, "." | "..") || ifname.contains(forbidden) {
            return Err(invalid(
                "CNI_IFNAME",
                &format!("`{ifname}` cannot be the name of an interface"),
            ));
        }
        self.arguments()?;
        Ok(AttachmentId { container: container.to_owned(), ifname: ifname.to_owned() })
    }

    /// Path of the container's network namespace.
    pub(crate) fn netns(&self) -> Result<&str, Failure> {
        let path = text("CNI_NETNS", self.netns.as_ref())?;
        if !path.starts_with('/') {
            return Err(invalid("CNI_NETNS", &format!("`{path}` is not an absolute path")));
        }
        Ok(path)
    }

    /// Where the agent's paths begin.
    pub(crate) fn root(&self) -> &Path {
        self.root.as_deref().filter(|root| !root.is_empty()).map_or(Path::new("/"), Path::new)
    }

    /// `CNI_ARGS`. Of what is there twice, the first counts.
    pub(crate) fn arguments(&self) -> Result<BTreeMap<String, String>, Failure> {
        let mut arguments = BTreeMap::new();
        if self.args.as_ref().is_none_or(|args| args.is_empty()) {
            return Ok(arguments);
        }
        for pair in text("CNI_ARGS", self.args.as_ref())?.split(';') {
            match pair.split_once('=') {
                Some((key, value)) if !key.is_empty() => {
                    arguments.entry(key.to_owned()).or_insert_with(|| value.to_owned());
                }
                _ => {
                    let why = format!("`{pair}` is not of the form KEY=VALUE");
                    return Err(invalid("CNI_ARGS", &why));
                }
            }
        }
        Ok(arguments)
    }
}

fn text<'a>(name: &str, value: Option<&'a OsString>) -> Result<&'a str, Failure> {
    let value = value.filter(|value| !value.is_empty());
    let value = value.ok_or_else(|| invalid(name, "it is not set"))?;
    value.to_str().ok_or_else(|| invalid(name, "it is not UTF-8"))
}

fn invalid(name: &str, why: &str) -> Failure {
    Failure::new(Code::Environment, format!("the variable {name} is invalid"), why)
}
