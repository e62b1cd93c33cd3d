//! The configuration of the network: which plugins, in which order.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// Versions of the specification, oldest first.
const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A version of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(usize);

impl Version {
    /// The version of this name; a name that is empty means the oldest one.
    pub fn read(name: &str) -> Option<Self> {
        let name = if name.is_empty() { VERSIONS[0] } else { name };
        VERSIONS.iter().position(|known| *known == name).map(Self)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        VERSIONS[self.0]
    }

    /// Whether DEL gets the result of ADD: since 0.4.0.
    pub fn del_has_result(self) -> bool {
        Some(self) >= Self::read("0.4.0")
    }

    /// Whether a result has one IPv4 address beside interfaces that it does not name: before 0.3.0.
    pub fn has_ip4(self) -> bool {
        Some(self) < Self::read("0.3.0")
    }
}

/// A network.
#[derive(Debug, PartialEq, Eq)]
pub struct List {
    /// Its name: letters, digits, `_`, `.` and `-`.
    pub name: String,
    /// Which every plugin is asked for.
    pub version: Version,
    /// Whether no plugin is ever asked to CHECK (`disableCheck`).
    pub check_is_off: bool,
    /// Never empty.
    pub plugins: Vec<Plugin>,
}

/// A plugin and its part of the configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct Plugin {
    /// Name of the program.
    pub kind: String,
    /// Its part of the list.
    pub netconf: Map<String, Value>,
}

impl fmt::Display for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "type={:?}", self.kind)?;
        match self.netconf.get("name").and_then(Value::as_str) {
            None | Some("") => Ok(()),
            Some(name) => write!(f, " name={name:?}"),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A directory cannot be read.
    #[error("error walking config directory: {}: {source}", path.display())]
    Walk {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be read, or is no configuration.
    #[error("unable to load config from {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: FileError,
    },
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// It is not JSON, or no object.
    #[error("error parsing configuration: {0}")]
    Json(#[from] serde_json::Error),
    /// It makes no sense.
    #[error("error parsing configuration: {0}")]
    Content(String),
}

/// Reads the network's configuration: the first `.conflist` below `directory`, in order of names,
/// or the first `.conf`; none if there is neither. What was left aside is noted in `notes`.
pub fn load(directory: &Path, notes: &mut dyn Write) -> Result<Option<List>, LoadError> {
    let mut files = Vec::new();
    walk(directory, &mut files)?;
    let ends = |end: &'static str| {
        move |path: &&PathBuf| path.extension().is_some_and(|extension| extension == end)
    };
    let lists = files.iter().filter(ends("conflist"));
    let candidates: Vec<_> = lists.chain(files.iter().filter(ends("conf"))).collect();
    let Some((path, others)) = candidates.split_first() else { return Ok(None) };
    if !others.is_empty() {
        // A note that nobody reads is no reason to fail.
        let _ = writeln!(
            notes,
            "{} CNI configurations in {}: only {} is used",
            candidates.len(),
            directory.display(),
            path.display()
        );
    }
    let read = fs::read(path).map_err(FileError::from).and_then(|text| read(&text));
    read.map(Some).map_err(|source| LoadError::File { path: PathBuf::clone(path), source })
}

/// All files below, in order of names. Links to directories are not followed, so that it ends.
fn walk(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), LoadError> {
    let wrong = |source| LoadError::Walk { path: path.to_owned(), source };
    let entries = fs::read_dir(path).map_err(wrong)?;
    let mut entries = entries.collect::<io::Result<Vec<_>>>().map_err(wrong)?;
    entries.sort_unstable_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_type().map_err(wrong)?.is_dir() {
            walk(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// Reads a list, or a single plugin's configuration, which is a list of one.
pub fn read(text: &[u8]) -> Result<List, FileError> {
    let mut object: Map<String, Value> = serde_json::from_slice(text)?;
    let wrong = |message: String| Err(FileError::Content(message));
    let name = match object.get("name") {
        Some(Value::String(name)) => name.clone(),
        None => return wrong("no name".into()),
        Some(other) => return wrong(format!("invalid name {other}")),
    };
    if !sarcenet_agent_api::is_name(&name) {
        return wrong(format!("invalid characters found in network name {name:?}"));
    }
    let version = version(&object)?;
    // It has been a string in the specification, too.
    let check_is_off = object
        .get("disableCheck")
        .is_some_and(|off| off.as_bool() == Some(true) || off.as_str() == Some("true"));
    let plugins = match object.remove("plugins") {
        Some(Value::Array(plugins)) if !plugins.is_empty() => plugins,
        Some(Value::Array(_)) => return wrong("no plugins in list".into()),
        Some(other) => return wrong(format!("invalid plugins {other}")),
        None => vec![Value::Object(object)],
    };
    let plugins = plugins.into_iter().map(plugin).collect::<Result<_, _>>()?;
    Ok(List { name, version, check_is_off, plugins })
}

/// The newest of those that `cniVersion` and `cniVersions` name.
fn version(object: &Map<String, Value>) -> Result<Version, FileError> {
    let several = object.get("cniVersions").and_then(Value::as_array);
    let several = several.into_iter().flatten().filter_map(Value::as_str);
    let newest = several.filter_map(Version::read).max();
    let single = match object.get("cniVersion") {
        None | Some(Value::Null) => "",
        Some(Value::String(single)) => single,
        Some(other) => {
            return Err(FileError::Content(format!("invalid cniVersion {other}")));
        }
    };
    newest.max(Version::read(single)).ok_or_else(|| {
        FileError::Content(format!("cniVersion {single:?} is none of {}", VERSIONS.join(", ")))
    })
}

fn plugin(netconf: Value) -> Result<Plugin, FileError> {
    let Value::Object(netconf) = netconf else {
        return Err(FileError::Content(format!("plugin {netconf} is not an object")));
    };
    match netconf.get("type").and_then(Value::as_str) {
        None | Some("") => Err(FileError::Content("missing 'type'".into())),
        Some(kind) if kind.contains('/') => {
            Err(FileError::Content(format!("invalid plugin name: {kind}")))
        }
        Some(kind) => Ok(Plugin { kind: kind.to_owned(), netconf }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Content, then name, version and plugins of what was read, or why it was not.
    #[test]
    fn lists_and_single_plugins_are_read() {
        for (text, expected) in [
            (
                r#"{"name":"n","cniVersion":"1.0.0",
                    "plugins":[{"type":"a"},{"type":"b","name":"x"}]}"#,
                Ok("n 1.0.0 [type=\"a\"] [type=\"b\" name=\"x\"]"),
            ),
            (r#"{"name":"n","type":"a"}"#, Ok("n 0.1.0 [type=\"a\" name=\"n\"]")),
            (
                r#"{"name":"n","type":"a","cniVersion":"0.4.0",
                    "cniVersions":["0.3.1","1.1.0","9.0.0"]}"#,
                Ok("n 1.1.0 [type=\"a\" name=\"n\"]"),
            ),
            ("{", Err("EOF while parsing an object at line 1 column 1")),
            (r#"{"type":"a"}"#, Err("no name")),
            (r#"{"name":1,"type":"a"}"#, Err("invalid name 1")),
            (
                r#"{"name":"a/b","type":"a"}"#,
                Err("invalid characters found in network name \"a/b\""),
            ),
            (r#"{"name":"n"}"#, Err("missing 'type'")),
            (r#"{"name":"n","type":"../a"}"#, Err("invalid plugin name: ../a")),
            (r#"{"name":"n","plugins":[]}"#, Err("no plugins in list")),
            (r#"{"name":"n","plugins":{}}"#, Err("invalid plugins {}")),
            (r#"{"name":"n","plugins":[1]}"#, Err("plugin 1 is not an object")),
            (r#"{"name":"n","plugins":[{}]}"#, Err("missing 'type'")),
            (r#"{"name":"n","cniVersion":1,"type":"a"}"#, Err("invalid cniVersion 1")),
            (
                r#"{"name":"n","cniVersion":"2.0.0","type":"a"}"#,
                Err("cniVersion \"2.0.0\" is none of 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, \
                     1.1.0"),
            ),
        ] {
            let told = read(text.as_bytes()).map(|list| {
                let plugins: Vec<_> = list.plugins.iter().map(|p| format!("[{p}]")).collect();
                format!("{} {} {}", list.name, list.version.name(), plugins.join(" "))
            });
            let expected = expected
                .map(ToOwned::to_owned)
                .map_err(|error| format!("error parsing configuration: {error}"));
            assert_eq!(told.map_err(|error| error.to_string()), expected, "{text}");
        }
    }

    #[test]
    fn the_first_list_is_used_else_the_first_plugin() {
        let table: &[(&[&str], Option<&str>, bool)] = &[
            (&[], None, false),
            (&["a.txt", "b.json"], None, false),
            (&["a.conf"], Some("a.conf"), false),
            (&["b.conf", "a.conf"], Some("a.conf"), true),
            (&["a.conf", "b.conflist"], Some("b.conflist"), true),
            (&["c.conflist", "b/z.conflist"], Some("b/z.conflist"), true),
            (&["b/z.conf", "c.txt"], Some("b/z.conf"), false),
        ];
        for (files, expected, noted) in table {
            let directory = tempfile::tempdir().unwrap();
            for file in *files {
                let path = directory.path().join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                let name = file.replace('/', "-");
                fs::write(path, format!(r#"{{"name":"{name}","type":"a"}}"#)).unwrap();
            }
            let mut notes = Vec::new();
            let list = load(directory.path(), &mut notes).unwrap();
            let expected = expected.map(|file| file.replace('/', "-"));
            assert_eq!(list.map(|list| list.name), expected, "{files:?}");
            assert_eq!(!notes.is_empty(), *noted, "{files:?}");
        }
    }
}
