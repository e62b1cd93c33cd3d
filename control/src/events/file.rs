//! A file of lines that is exchanged for a new one before it grows too large.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How much may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Largest file, in bytes. Only a single line that is longer makes a larger one.
    pub bytes: u64,
    /// Files kept besides the one that is being written: `.1` is the newest.
    pub kept: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { bytes: 64 << 20, kept: 4 }
    }
}

/// Lines were not written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to {path}: {source}{hint}", hint = hint(.source))]
pub struct AppendError {
    /// The file.
    path: PathBuf,
    /// What the system said.
    source: io::Error,
    /// How many lines; those before them are in the file.
    pub lines: u64,
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; make room on that file system, or name another file in the network file"
        }
        _ => "",
    }
}

/// A file that lines are appended to. It holds whole lines only, whatever happens while they are
/// written; it may be moved away by others, as log rotation programs do.
#[derive(Debug)]
pub struct LineFile {
    path: PathBuf,
    bounds: Bounds,
    file: Option<File>,
}

impl LineFile {
    /// The file at `path`, which is made when the first line is written, with its directory.
    pub fn new(path: PathBuf, bounds: Bounds) -> Self {
        Self { path, bounds, file: None }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends `lines`, each of which ends with a newline.
    pub fn append(&mut self, mut lines: &[u8]) -> Result<(), AppendError> {
        while !lines.is_empty() {
            match self.append_some(lines) {
                Ok(appended) => lines = &lines[appended..],
                Err((appended, source)) => {
                    let rest = &lines[appended..];
                    let lines = rest.split_inclusive(|&byte| byte == b'\n').count() as u64;
                    return Err(AppendError { path: self.path.clone(), source, lines });
                }
            }
        }
        Ok(())
    }

    /// Appends as many lines as fit the file, or makes room for them in a new one. Returns how
    /// many bytes were appended, also with an error: always whole lines.
    fn append_some(&mut self, lines: &[u8]) -> Result<usize, (usize, io::Error)> {
        let first = line_end(lines);
        let bounds = self.bounds;
        let (mut file, len) = self.current().map_err(|e| (0, e))?;
        let room = usize::try_from(bounds.bytes.saturating_sub(len)).unwrap_or(usize::MAX);
        if first > room && len > 0 {
            self.rotate().map_err(|e| (0, e))?;
            return Ok(0);
        }
        let fitting = last_line_end(&lines[..room.clamp(first, lines.len())]);
        let mut written = 0;
        while written < fitting {
            match file.write(&lines[written..fitting]) {
                Ok(0) => return Err(self.take_back(len, &lines[..written], full())),
                Ok(n) => written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.take_back(len, &lines[..written], e)),
            }
        }
        Ok(written)
    }

    /// Takes the beginning of a line back out of the file, to which `written` was appended when
    /// it had `len` bytes.
    fn take_back(&mut self, len: u64, written: &[u8], error: io::Error) -> (usize, io::Error) {
        let whole = last_line_end(written);
        if let Some(file) = &self.file
            && file.set_len(len + whole as u64).is_err()
        {
            // The next one to open it ends the line.
            self.file = None;
        }
        (whole, error)
    }

    /// The open file and its length.
    fn current(&mut self) -> io::Result<(&File, u64)> {
        let there = |file: &File| -> io::Result<bool> {
            let (open, named) = (file.metadata()?, fs::metadata(&self.path)?);
            Ok((open.dev(), open.ino()) == (named.dev(), named.ino()))
        };
        let held = self.file.take().filter(|file| there(file).unwrap_or(false));
        let file = match held {
            Some(file) => file,
            None => self.open()?,
        };
        let file = self.file.insert(file);
        let len = file.metadata()?.len();
        Ok((file, len))
    }

    fn open(&self) -> io::Result<File> {
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut options = OpenOptions::new();
        let mut file = options.read(true).append(true).create(true).mode(0o640).open(&self.path)?;
        let mut last = [b'\n'];
        if let Some(at) = file.metadata()?.len().checked_sub(1) {
            file.read_exact_at(&mut last, at)?;
        }
        if last != [b'\n'] {
            // Its writer was killed in the middle of a line.
            file.write_all(b"\n")?;
        }
        Ok(file)
    }

    /// Moves the file away, and the oldest one out of existence.
    fn rotate(&mut self) -> io::Result<()> {
        if self.bounds.kept == 0 {
            fs::remove_file(&self.path)?;
        } else {
            for n in (1..self.bounds.kept).rev() {
                match fs::rename(self.kept(n), self.kept(n + 1)) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
            fs::rename(&self.path, self.kept(1))?;
        }
        self.file = None;
        Ok(())
    }

    /// Where the `n`th newest of the files is that were moved away.
    fn kept(&self, n: u32) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{n}"));
        path.into()
    }
}

fn full() -> io::Error {
    io::ErrorKind::StorageFull.into()
}

/// Length of the first line.
fn line_end(lines: &[u8]) -> usize {
    lines.iter().position(|&byte| byte == b'\n').map_or(lines.len(), |at| at + 1)
}

/// Length of all whole lines.
fn last_line_end(lines: &[u8]) -> usize {
    lines.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn files_are_exchanged_before_they_are_too_large_and_only_some_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log/sarcenet/events.jsonl");
        let mut file = LineFile::new(path.clone(), Bounds { bytes: 6, kept: 2 });
        file.append(b"1\n2\n3\n4\n").unwrap();
        assert_eq!((text(&path), text(&file.kept(1))), ("4\n".into(), "1\n2\n3\n".into()));
        file.append(b"5\n").unwrap();
        file.append(b"too long for a file\n6\n").unwrap();
        assert_eq!(text(&path), "6\n");
        assert_eq!(text(&file.kept(1)), "too long for a file\n");
        assert_eq!(text(&file.kept(2)), "4\n5\n");
        assert!(!file.kept(3).exists());

        let mut none = LineFile::new(path.with_extension("none"), Bounds { bytes: 2, kept: 0 });
        none.append(b"1\n2\n").unwrap();
        assert_eq!(text(none.path()), "2\n");
        assert!(!none.kept(1).exists());
    }

    #[test]
    fn a_file_that_is_moved_away_or_emptied_is_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        let mut file = LineFile::new(path.clone(), Bounds { bytes: 4, kept: 1 });
        file.append(b"1\n").unwrap();
        fs::rename(&path, directory.path().join("elsewhere")).unwrap();
        file.append(b"2\n").unwrap();
        assert_eq!(text(&path), "2\n");
        fs::remove_file(&path).unwrap();
        file.append(b"3\n").unwrap();
        fs::write(&path, "").unwrap();
        file.append(b"4\n5\n").unwrap();
        assert_eq!(text(&path), "4\n5\n");
        assert!(!file.kept(1).exists());
    }

    #[test]
    fn a_line_that_was_cut_off_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        fs::write(&path, "whole\nha").unwrap();
        let mut file = LineFile::new(path.clone(), Bounds::default());
        file.append(b"next\n").unwrap();
        assert_eq!(text(&path), "whole\nha\nnext\n");
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_said() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("taken");
        fs::create_dir(&path).unwrap();
        let mut file = LineFile::new(path.clone(), Bounds::default());
        let error = file.append(b"1\n2\n").unwrap_err();
        assert_eq!(error.lines, 2);
        assert!(error.to_string().contains(&format!("cannot write to {}", path.display())));
        let mut full = LineFile::new("/dev/full".into(), Bounds::default());
        let error = full.append(b"1\n2\n3\n").unwrap_err();
        assert_eq!(error.lines, 3);
        assert!(error.to_string().contains("make room"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn no_line_is_lost_or_torn_and_no_file_too_large(
            pages in proptest::collection::vec(
                proptest::collection::vec("[a-z]{0,30}", 0..10), 1..6),
            bytes in 20..200_u64,
        ) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("events");
            let mut file = LineFile::new(path.clone(), Bounds { bytes, kept: 100 });
            let mut expected = String::new();
            for page in &pages {
                let page = page.join("\n") + "\n";
                file.append(page.as_bytes()).unwrap();
                expected += &page;
            }
            let mut found = String::new();
            let kept = (1..).map(|n| file.kept(n)).take_while(|path| path.exists());
            let mut files: Vec<_> = kept.collect();
            files.reverse();
            for file in files.iter().chain([&path]) {
                let text = text(file);
                prop_assert!(text.len() as u64 <= bytes || text.matches('\n').count() == 1);
                found += &text;
            }
            prop_assert_eq!(found, expected);
        }
    }
}
