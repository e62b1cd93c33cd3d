//! Replacing a file so that a crash, at any point, leaves the old or the new content.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Writes `content` to a temporary file beside `path`, lets `prepare` set its mode or owner,
/// flushes it to the disk and renames it over `path`. When any of this fails (a full disk), the
/// old file is untouched and the temporary one is gone.
pub fn replace(
    path: &Path,
    content: &[u8],
    prepare: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let directory = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let mut new = tempfile::Builder::new().prefix(".new-").tempfile_in(directory)?;
    new.write_all(content)?;
    prepare(new.as_file())?;
    new.as_file().sync_all()?;
    new.persist(path).map_err(|failed| failed.error)?;
    // The rename itself lives in the directory.
    File::open(directory)?.sync_all()
}
