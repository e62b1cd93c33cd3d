//! What the policy server has said, on the disk: an agent that starts while every server is down
//! enforces it.
//!
//! The file has two lines: what it is, with a checksum, and what was said, in the form in which
//! servers say it. A file that cannot be read as such is moved aside and counts as empty: nothing is
//! allowed that only damage would allow.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::groups::{GroupList, GroupText, Groups};
use super::outside_terms::OutsideTerms;
use super::policies::{List, Policies};
use super::routers::OverlayTerms;
use crate::durable;
use crate::paths::Root;
use crate::rule_names::fnv1a;

/// Shape of the file.
const FORMAT: u32 = 1;

/// What was said last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved {
    /// The policies; none if no server has said anything.
    pub policies: Option<Arc<Policies>>,
    /// Their generation; 0 if it is not known.
    pub generation: i64,
    /// The security groups; none if no server has said anything.
    pub groups: Option<Arc<Groups>>,
    /// What else holds of the outside; none if nobody beside the agent has said anything.
    pub outside: Option<Arc<OutsideTerms>>,
    /// What holds in the overlay beside policies; none if nobody beside the agent has said anything.
    pub overlay: Option<OverlayTerms>,
    /// The tag of routers, never 0; none if no server has said it.
    pub router_tag: Option<u16>,
}

/// Why it could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// Not readable, for a reason other than its content.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not written; the old content is still there.
    #[error("cannot write {path}, so that a restart would bring older policies back: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
    checksum: u32,
}

#[derive(Serialize)]
struct Written<'a> {
    generation: i64,
    policies: Option<&'a Policies>,
    security_groups: Option<&'a [GroupText]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outside: Option<&'a OutsideTerms>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overlay: Option<OverlayTerms>,
    #[serde(skip_serializing_if = "Option::is_none")]
    router_tag: Option<u16>,
}

#[derive(Deserialize)]
struct Read {
    generation: i64,
    policies: Option<List>,
    security_groups: Option<GroupList>,
    outside: Option<OutsideTerms>,
    overlay: Option<OverlayTerms>,
    router_tag: Option<u16>,
}

/// The file.
#[derive(Debug, Clone)]
pub struct SavedFile(PathBuf);

impl SavedFile {
    /// That of the cell at `root`.
    pub fn new(root: &Root) -> Self {
        Self(root.followed_file())
    }

    /// What it says. Nothing when there is none, or it is damaged; the second value then says so.
    pub fn load(&self) -> Result<(Saved, Option<String>), SavedError> {
        let path = &self.0;
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((Saved::default(), None)),
            Err(source) => return Err(SavedError::Read { path: path.clone(), source }),
        };
        let damage = match parse(&bytes) {
            Ok(saved) => return Ok((saved, None)),
            Err(damage) => damage,
        };
        let aside = path.with_extension("json.damaged");
        std::fs::rename(path, &aside)
            .map_err(|source| SavedError::Write { path: aside.clone(), source })?;
        let problem = format!(
            "{} was damaged ({damage}); moved it to {}: nothing is allowed until the policy server \
             has been heard",
            path.display(),
            aside.display()
        );
        Ok((Saved::default(), Some(problem)))
    }

    /// Replaces what it says.
    pub fn save(&self, saved: &Saved) -> Result<(), SavedError> {
        let failed = |source| SavedError::Write { path: self.0.clone(), source };
        if let Some(directory) = self.0.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        let text = saved.text().map_err(|e| failed(io::Error::other(e)))?;
        durable::replace(&self.0, &text, |_| Ok(())).map_err(failed)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Saved {
    /// The text of a file that says this.
    pub fn text(&self) -> serde_json::Result<Vec<u8>> {
        let document = serde_json::to_vec(&Written {
            generation: self.generation,
            policies: self.policies.as_deref(),
            security_groups: self.groups.as_ref().map(|groups| &*groups.texts),
            outside: self.outside.as_deref(),
            overlay: self.overlay,
            router_tag: self.router_tag,
        })?;
        let head = Head { format: FORMAT, checksum: fnv1a(document.iter().copied()) };
        Ok([&serde_json::to_vec(&head)?, &b"\n"[..], &document, b"\n"].concat())
    }

    /// What such a text says, or why it says nothing.
    pub fn read(text: &[u8]) -> Result<Self, String> {
        parse(text)
    }
}

fn parse(bytes: &[u8]) -> Result<Saved, String> {
    let mut lines = bytes.splitn(2, |byte| *byte == b'\n');
    let (head, document) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let Head { format, checksum } = serde_json::from_slice(head).map_err(|e| e.to_string())?;
    if format != FORMAT {
        return Err(format!("format {format}, this program knows {FORMAT}"));
    }
    let document = document.strip_suffix(b"\n").ok_or("it ends too early")?;
    if fnv1a(document.iter().copied()) != checksum {
        return Err("its content does not go with its checksum".into());
    }
    let Read { generation, policies, security_groups, outside, overlay, router_tag } =
        serde_json::from_slice(document).map_err(|e| e.to_string())?;
    if router_tag == Some(0) {
        return Err("routers have the tag 0, which is nobody's".into());
    }
    let policies = policies.map(Policies::new).transpose().map_err(|e| e.to_string())?;
    let groups = security_groups.map(|GroupList(texts)| Arc::new(Groups::new(texts)));
    let outside = match outside {
        Some(outside) => {
            outside.check()?;
            Some(Arc::new(outside))
        }
        None => None,
    };
    let policies = policies.map(Arc::new);
    Ok(Saved { policies, generation, groups, outside, overlay, router_tag })
}

#[cfg(test)]
mod tests;
