//! The file of security groups, followed while it changes.
//!
//! `sarcenet_security_group_file_mistakes` is how many mistakes its newest content has; 0 when that is
//! what cells are told.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use sarcenet_server::http::metrics::Metrics;
use sarcenet_server::syncer::Given;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::config::{ConfigError, group_file};
use crate::watch::{Watch, fingerprint};

/// A file that has not changed for so long has been written to its end. Half of it may be a good file,
/// too: one that takes groups away.
const QUIET: Duration = Duration::from_millis(50);

/// How often that is looked for; who writes longer is read under way.
const LOOKS: u32 = 100;

/// Reads the file, and says what it has.
#[derive(Debug)]
struct GroupFile {
    path: PathBuf,
    given: watch::Sender<Given>,
    mistakes: Gauge,
    /// What was wrong when it was read last. One at a time reads it.
    problem: Mutex<Option<String>>,
}

/// Reads the file at `path` soon, and again whenever it changes, for as long as the watch is there.
/// While it has mistakes, or is gone, what it had before is given.
pub(super) fn follow(
    path: PathBuf,
    metrics: &Metrics,
) -> std::io::Result<(Watch, watch::Receiver<Given>)> {
    let (given, groups) = watch::channel(None);
    let mistakes = Gauge::default();
    metrics.register(|registry| {
        let help = "Mistakes of the newest content of the file of security groups";
        registry.register("sarcenet_security_group_file_mistakes", help, mistakes.clone());
    });
    let file =
        Arc::new(GroupFile { path: path.clone(), given, mistakes, problem: Mutex::default() });
    let first = Arc::clone(&file);
    let watch = Watch::start(path, move || file.read())?;
    tokio::task::spawn_blocking(move || first.read());
    Ok((watch, groups))
}

impl GroupFile {
    fn read(&self) {
        let mut problem = self.problem.lock();
        settle(&self.path);
        match group_file::load(&self.path) {
            Ok(groups) => {
                self.mistakes.set(0);
                if problem.take().is_some() {
                    info!("the file of security groups is used again");
                }
                self.given.send_if_modified(|given| {
                    let news = given.as_deref() != Some(&groups);
                    if news {
                        info!(path = %self.path.display(), groups = groups.len(), "security groups of the file");
                        *given = Some(Arc::new(groups));
                    }
                    news
                });
            }
            Err(e) => self.refuse(&e, &mut problem),
        }
    }

    /// Says what is wrong, once.
    fn refuse(&self, error: &ConfigError, problem: &mut Option<String>) {
        let lines = error.lines();
        self.mistakes.set(lines.len() as i64);
        let text = lines.join("\n");
        if problem.as_ref() == Some(&text) {
            return;
        }
        for line in lines {
            error!("the file of security groups is not used: {line}");
        }
        if self.given.borrow().is_none() {
            warn!("security groups stay as the database has them until the file is right");
        }
        *problem = Some(text);
    }
}

/// Waits until nobody writes the file.
fn settle(path: &Path) {
    let mut seen = fingerprint(path);
    for _ in 0..LOOKS {
        sleep(QUIET);
        let now = fingerprint(path);
        if now == seen {
            return;
        }
        seen = now;
    }
}
