//! Changing the `policies:` section of a network file and nothing else: every other byte stays,
//! comments and order included.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sarcenet_agent_api::Policy;

use super::tree::{self, Node, Place};
use super::{ConfigError, Mistake, Network};
use crate::durable;

/// Why a policy could not be written into the file.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The file has mistakes already, or would have with the change.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The section is written in a way that cannot be changed without touching the rest.
    #[error(
        "the policies of {0} cannot be changed without rewriting other parts of the file; \
         edit it by hand"
    )]
    Shape(String),
    /// The file cannot be locked, written or replaced.
    #[error("cannot {what} {path}: {source}; nothing was changed")]
    Write {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

/// What a network file says after an attempt to change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What it says.
    pub network: Network,
    /// Its text.
    pub text: String,
    /// Whether it had to be changed.
    pub changed: bool,
}

/// A network file that is locked against other writers (`<file>.lock`), so that several agents
/// may share one file.
#[derive(Debug)]
pub struct PolicyFile {
    path: PathBuf,
    _lock: File,
}

impl PolicyFile {
    /// Waits for the lock of the file at `path`.
    pub fn lock(path: &Path) -> Result<Self, EditError> {
        let failed = |what| {
            move |source| EditError::Write { what, path: path.display().to_string(), source }
        };
        // The file may be a symbolic link; it stays one.
        let path = path.canonicalize().map_err(failed("find"))?;
        let mut lock_path = path.clone().into_os_string();
        lock_path.push(".lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(failed("open the lock beside"))?;
        lock.lock().map_err(failed("lock"))?;
        Ok(Self { path, _lock: lock })
    }

    /// Adds or removes `policy`.
    pub fn change(&self, policy: &Policy, allow: bool) -> Result<Outcome, EditError> {
        let name = || self.path.display().to_string();
        let text = std::fs::read_to_string(&self.path)
            .map_err(|e| EditError::Config(ConfigError::read(&self.path, &e)))?;
        let wrong = |mistakes| ConfigError::Mistakes { path: name(), mistakes };
        let before = Network::parse(&text).map_err(wrong)?;
        if before.policies.contains(policy) == allow {
            return Ok(Outcome { network: before, text, changed: false });
        }
        let changed =
            if allow { with_policy(&text, policy) } else { without_policy(&text, policy) };
        let changed = changed.map_err(|mistake| wrong(vec![mistake]))?;
        let after = Network::parse(&changed).map_err(|mistakes| {
            if allow { EditError::Config(wrong(mistakes)) } else { EditError::Shape(name()) }
        })?;
        let mut expected = before;
        if allow {
            expected.policies.push(policy.clone());
        } else {
            expected.policies.retain(|other| other != policy);
        }
        if after != expected {
            return Err(EditError::Shape(name()));
        }
        self.replace(&changed)?;
        Ok(Outcome { network: after, text: changed, changed: true })
    }

    /// Replaces the file; its mode and owner stay.
    fn replace(&self, text: &str) -> Result<(), EditError> {
        let keep = std::fs::metadata(&self.path).and_then(|old| {
            durable::replace(&self.path, text.as_bytes(), |new| {
                new.set_permissions(std::fs::Permissions::from_mode(old.mode()))?;
                std::os::unix::fs::fchown(new, Some(old.uid()), Some(old.gid()))
            })
        });
        keep.map_err(|source| EditError::Write {
            what: "replace",
            path: self.path.display().to_string(),
            source,
        })
    }
}

/// Where the section is, in lines counted from 0.
struct Section {
    /// Line of the key; none when there is no section.
    key: Option<usize>,
    /// First lines of the items, in order.
    items: Vec<Place>,
    /// First line behind the section.
    end: usize,
    /// Whether each item begins a line of its own, after `- `.
    block: bool,
}

/// The text with `policy` as last item of its `policies:`.
pub fn with_policy(text: &str, policy: &Policy) -> Result<String, Mistake> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let section = find(text, &lines)?;
    let Some(key) = section.key else {
        let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        return Ok(format!("{text}{gap}policies:\n  - {}\n", item(policy)));
    };
    if section.block
        && let Some(last) = section.items.last()
    {
        let first_line = lines[last.line as usize - 1];
        let indent = &first_line[..first_line.len() - first_line.trim_start().len()];
        let new = format!("{indent}- {}", item(policy));
        // Behind the section's last line; a file without a final newline stays without one.
        let (head, tail) = lines.split_at(section.end);
        let head = head.concat();
        return Ok(match head.strip_suffix('\n') {
            Some(_) => format!("{head}{new}\n{}", tail.concat()),
            None => format!("{head}\n{new}"),
        });
    }
    let mut policies = listed(text)?;
    policies.push(policy.clone());
    Ok(rewritten(&lines, &section, key, &policies))
}

/// The text without the item that says `policy`.
pub fn without_policy(text: &str, policy: &Policy) -> Result<String, Mistake> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let section = find(text, &lines)?;
    let mut policies = listed(text)?;
    let (Some(key), Some(index)) = (section.key, policies.iter().position(|other| other == policy))
    else {
        return Ok(text.to_owned());
    };
    policies.remove(index);
    if !section.block || policies.is_empty() {
        return Ok(rewritten(&lines, &section, key, &policies));
    }
    let first = section.items[index].line as usize - 1;
    let next = section.items.get(index + 1).map_or(section.end, |place| place.line as usize - 1);
    // Comments and blank lines before the next item belong to that one.
    let behind = first + 1 + lines[first + 1..next].iter().take_while(|line| !is_gap(line)).count();
    let head = lines[..first].concat();
    let tail = lines[behind..].concat();
    let keeps_newline = text.ends_with('\n') || !tail.is_empty();
    let head = if keeps_newline { &head } else { head.strip_suffix('\n').unwrap_or(&head) };
    Ok(format!("{head}{tail}"))
}

/// The whole section written anew as a block, or as `[]`; a comment behind the key stays.
fn rewritten(lines: &[&str], section: &Section, key: usize, policies: &[Policy]) -> String {
    let key_line = lines[key].trim_end_matches(['\n', '\r']);
    let comment = key_line.find(" #").map_or("", |at| &key_line[key_line[..at].trim_end().len()..]);
    let body = if policies.is_empty() {
        format!("policies: []{comment}")
    } else {
        let items: Vec<_> = policies.iter().map(|policy| format!("  - {}", item(policy))).collect();
        format!("policies:{comment}\n{}", items.join("\n"))
    };
    let old = lines[key..section.end].concat();
    let newline = if old.ends_with('\n') { "\n" } else { "" };
    format!("{}{body}{newline}{}", lines[..key].concat(), lines[section.end..].concat())
}

fn item(policy: &Policy) -> String {
    let (from, to) = (scalar(&policy.from), scalar(&policy.to));
    format!("{{from: {from}, to: {to}, protocol: {}, ports: {}}}", policy.protocol, policy.ports)
}

/// A name as a YAML scalar: plain where nothing in it could be read otherwise.
fn scalar(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && !matches!(
            name.to_ascii_lowercase().as_str(),
            "null" | "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n"
        );
    if plain { name.to_owned() } else { format!("'{}'", name.replace('\'', "''")) }
}

fn listed(text: &str) -> Result<Vec<Policy>, Mistake> {
    match Network::parse(text) {
        Ok(network) => Ok(network.policies),
        Err(mistakes) => Err(mistakes.into_iter().next().unwrap_or_else(|| {
            Mistake::at(Place { line: 1, column: 1 }, "the file cannot be read")
        })),
    }
}

/// A blank line or one that is only a comment.
fn is_gap(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

fn find(text: &str, lines: &[&str]) -> Result<Section, Mistake> {
    let root = tree::read(text)?;
    let mut section = Section { key: None, items: Vec::new(), end: lines.len(), block: false };
    let Node::Map(entries) = root.value else { return Ok(section) };
    let Some(at) = entries.iter().position(|(key, _)| key.value == "policies") else {
        return Ok(section);
    };
    let (key, value) = &entries[at];
    let key_line = key.place.line as usize - 1;
    section.key = Some(key_line);
    if let Some((next, _)) = entries.get(at + 1) {
        section.end = next.place.line as usize - 1;
    } else if let Some(mark) =
        lines[key_line..].iter().position(|line| line.starts_with("...") || line.starts_with("---"))
    {
        section.end = key_line + mark;
    }
    if let Node::List(items) = &value.value {
        section.items = items.iter().map(|item| item.place).collect();
        section.block = !items.is_empty()
            && items.iter().all(|item| {
                lines[item.place.line as usize - 1].trim_start().starts_with("- ")
                    && item.place.line as usize - 1 > key_line
            });
    }
    // Blank lines and comments before the next key belong to it, as do those at the file's end.
    let last = section.items.last().map_or(key_line, |place| place.line as usize - 1);
    while section.end > last + 1 && is_gap(lines[section.end - 1]) {
        section.end -= 1;
    }
    Ok(section)
}

#[cfg(test)]
mod tests;
