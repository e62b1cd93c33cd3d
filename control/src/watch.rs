//! Noticing that a file has changed.
//!
//! The directory is watched, not the file: editors and configuration managers replace a file by
//! renaming. Where no event comes (a bind mount over the file, some network file systems) a look
//! at the file once a second finds the change.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tracing::warn;

/// Events that come together belong to one change; a writer that writes in pieces is done by then.
const SETTLE: Duration = Duration::from_millis(3);

/// How often the file is looked at without an event.
const RECHECK: Duration = Duration::from_secs(1);

enum Signal {
    Changed,
    Stop,
}

/// A running watch; ends when dropped.
#[derive(Debug)]
pub struct Watch {
    // Held for its events.
    _watcher: Option<RecommendedWatcher>,
    signals: Sender<Signal>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Calls `changed` whenever the file at `path` may have changed since this was called, on a
    /// thread of its own.
    pub fn start(path: PathBuf, changed: impl FnMut() + Send + 'static) -> std::io::Result<Self> {
        // One pending signal says it all.
        let (signals, received) = bounded(1);
        let watcher = watch_directories(&path, signals.clone())
            .inspect_err(|e| {
                warn!("cannot watch {}, looking at it every second instead: {e}", path.display());
            })
            .ok();
        let seen = fingerprint(&path);
        let thread = std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || run(&path, seen, &received, changed))?;
        Ok(Self { _watcher: watcher, signals, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.signals.send(Signal::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn watch_directories(path: &Path, signals: Sender<Signal>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Being read is no change; this program reads the file itself.
        if !matches!(&event, Ok(event) if event.kind.is_access()) {
            let _ = signals.try_send(Signal::Changed);
        }
    })?;
    let mut directories = vec![directory(path)];
    if let Ok(real) = path.canonicalize() {
        directories.push(directory(&real));
    }
    directories.dedup();
    for directory in directories {
        watcher.watch(&directory, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn run(
    path: &Path,
    mut seen: Option<Fingerprint>,
    signals: &Receiver<Signal>,
    mut changed: impl FnMut(),
) {
    loop {
        match signals.recv_timeout(RECHECK) {
            Ok(Signal::Changed) => {
                std::thread::sleep(SETTLE);
                if let Ok(Signal::Stop) = signals.try_recv() {
                    return;
                }
                seen = fingerprint(path);
                changed();
            }
            Err(RecvTimeoutError::Timeout) => {
                let now = fingerprint(path);
                if now != seen {
                    seen = now;
                    changed();
                }
            }
            Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// What differs between two states of a file.
pub(crate) type Fingerprint = (u64, u64, u64, i64, i64);

/// That of a file now; none if it is not there.
pub(crate) fn fingerprint(path: &Path) -> Option<Fingerprint> {
    let metadata: Metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}
