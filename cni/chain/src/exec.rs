//! Running one plugin (specification 1.1.0, section 2).

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::Deserialize;

/// Longest result of a plugin, and longest text on its standard error that is kept, in bytes.
const OUTPUT_MAX: u64 = 4 << 20;
/// How often a program is tried that is just being written, and how long between two tries.
const ATTEMPTS: usize = 5;
const PAUSE: Duration = Duration::from_secs(1);

/// Why a plugin did not do its work. The texts are libcni's.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// There is no such program.
    #[error("failed to find plugin {kind:?} in path [{}]", directory.display())]
    NotFound {
        /// Its name.
        kind: String,
        /// Where it should be.
        directory: PathBuf,
    },
    /// It cannot be started, or spoken to.
    #[error("cannot run {}: {source}", path.display())]
    Run {
        /// The program.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its result has no end.
    #[error("its result is longer than {OUTPUT_MAX} bytes")]
    TooLong,
    /// It says why, as the specification has it.
    #[error("{0}")]
    Answered(PluginAnswer),
    /// It says why on standard error.
    #[error("netplugin failed: {0:?}")]
    Wrote(String),
    /// What it says is not of the specification's form.
    #[error("netplugin failed but error parsing its diagnostic message {text:?}: {source}")]
    Unreadable {
        /// What it says.
        text: String,
        /// What is wrong with that.
        source: serde_json::Error,
    },
    /// It says nothing.
    #[error("netplugin failed with no error message: {0}")]
    Silent(ExitStatus),
}

/// A plugin's own error.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PluginAnswer {
    /// The specification's or the plugin's own code.
    pub code: u64,
    /// What the plugin could not do.
    pub msg: String,
    /// Why; may be empty.
    pub details: String,
}

impl std::fmt::Display for PluginAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.msg)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, "; {}", self.details) }
    }
}

/// The program of a plugin.
pub(crate) fn find(directory: &Path, kind: &str) -> Result<PathBuf, PluginError> {
    let path = directory.join(kind);
    let usable = path
        .metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0);
    if usable {
        return Ok(path);
    }
    Err(PluginError::NotFound { kind: kind.to_owned(), directory: directory.to_owned() })
}

/// Runs a program with these variables beside our own; returns what it printed. What it wrote to
/// standard error besides goes to ours.
pub(crate) fn run(
    path: &Path,
    variables: &[(&str, &OsStr)],
    input: &[u8],
) -> Result<Vec<u8>, PluginError> {
    let wrong = |source| PluginError::Run { path: path.to_owned(), source };
    // Files in memory, not pipes: nobody waits for anybody, in whatever order a plugin reads and
    // writes, and whether or not it does.
    let (stdin, stderr) = (in_memory(input).map_err(wrong)?, in_memory(&[]).map_err(wrong)?);
    let mut child = start(path, variables, &stdin, &stderr).map_err(wrong)?;
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(OUTPUT_MAX + 1).read_to_end(&mut output).map_err(wrong)?;
    }
    let status = child.wait().map_err(wrong)?;
    let mut diagnostics = Vec::new();
    (&stderr).rewind().map_err(wrong)?;
    stderr.take(OUTPUT_MAX).read_to_end(&mut diagnostics).map_err(wrong)?;
    if output.len() as u64 > OUTPUT_MAX {
        return Err(PluginError::TooLong);
    }
    if !status.success() {
        return Err(failure(status, &output, &diagnostics));
    }
    let _ = io::stderr().write_all(&diagnostics);
    Ok(output)
}

fn in_memory(content: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"cni-plugin", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

fn start(
    path: &Path,
    variables: &[(&str, &OsStr)],
    stdin: &File,
    stderr: &File,
) -> io::Result<Child> {
    let mut attempt = 1;
    loop {
        let started = Command::new(path)
            .envs(variables.iter().copied())
            .stdin(stdin.try_clone()?)
            .stdout(Stdio::piped())
            .stderr(stderr.try_clone()?)
            .spawn();
        match started {
            Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy && attempt < ATTEMPTS => {
                attempt += 1;
                sleep(PAUSE);
            }
            done => return done,
        }
    }
}

/// What a plugin says about its failure, on whichever way.
fn failure(status: ExitStatus, output: &[u8], diagnostics: &[u8]) -> PluginError {
    if !output.is_empty() {
        return match serde_json::from_slice(output) {
            Ok(answer) => PluginError::Answered(answer),
            Err(source) => {
                let text = String::from_utf8_lossy(output).into_owned();
                PluginError::Unreadable { text, source }
            }
        };
    }
    if diagnostics.is_empty() {
        PluginError::Silent(status)
    } else {
        PluginError::Wrote(String::from_utf8_lossy(diagnostics).into_owned())
    }
}
