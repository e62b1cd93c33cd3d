//! Tokens from a file, for use without Cloud Foundry.
//!
//! ```yaml
//! tokens:
//!   - token: sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad
//!     subject: ada
//!     scopes: [network.admin]
//! ```
//!
//! A token is given as it is or, better, as `sha256:` and the hexadecimal digest of it. The file is
//! read again when it changes; a file that cannot be used leaves the tokens as they were.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use parking_lot::Mutex;
use serde::Deserialize;
use tracing::{info, warn};

use super::{AccessError, Caller};

/// Largest file that is read.
const LARGEST: u64 = 1 << 20;

/// Why a tokens file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokensFileError {
    /// It cannot be read.
    #[error("cannot read the tokens file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is far larger than any such file.
    #[error("the tokens file {path} is larger than {LARGEST} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is not what it should be.
    #[error("the tokens file {path} cannot be used: {reason}")]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// The tokens of a file.
#[derive(Debug)]
pub struct TokensFile {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    stamp: Option<Stamp>,
    tokens: Arc<Vec<Token>>,
}

/// What changes when a file is written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

#[derive(Debug)]
struct Token {
    digest: [u8; 32],
    caller: Caller,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    tokens: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    token: String,
    subject: String,
    #[serde(default)]
    scopes: Vec<String>,
}

impl TokensFile {
    /// Reads the file, which must be there and right.
    pub fn open(path: &Path) -> Result<Self, TokensFileError> {
        let stamp = stamp(path);
        let tokens = Arc::new(read(path)?);
        Ok(Self { path: path.to_owned(), known: Mutex::new(Known { stamp, tokens }) })
    }

    /// Whose token it is.
    pub(super) fn caller(&self, token: &str) -> Result<Caller, AccessError> {
        let wanted = digest(&SHA256, token.as_bytes());
        let tokens = self.current();
        // All are compared, whichever it is.
        let mut found = None;
        for token in tokens.iter() {
            if verify_slices_are_equal(&token.digest, wanted.as_ref()).is_ok() {
                found = Some(&token.caller);
            }
        }
        found.cloned().ok_or(AccessError::Unknown)
    }

    /// The tokens as the file has them now. A change is looked for with every request: one `stat`.
    fn current(&self) -> Arc<Vec<Token>> {
        let mut known = self.known.lock();
        let stamp = stamp(&self.path);
        if stamp != known.stamp {
            known.stamp = stamp;
            match read(&self.path) {
                Ok(tokens) => {
                    info!(path = %self.path.display(), tokens = tokens.len(), "tokens read again");
                    known.tokens = Arc::new(tokens);
                }
                Err(e) => warn!("{e}; the tokens stay as they were"),
            }
        }
        Arc::clone(&known.tokens)
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
    Some(Stamp { modified: metadata.modified().ok(), length: metadata.len(), inode })
}

fn read(path: &Path) -> Result<Vec<Token>, TokensFileError> {
    let unread = |source| TokensFileError::Read { path: path.to_owned(), source };
    let content = |reason: String| TokensFileError::Content { path: path.to_owned(), reason };
    if std::fs::metadata(path).map_err(unread)?.len() > LARGEST {
        return Err(TokensFileError::TooLarge { path: path.to_owned() });
    }
    let text = std::fs::read_to_string(path).map_err(unread)?;
    let file: File = serde_saphyr::from_str(&text).map_err(|e| content(e.to_string()))?;
    let mut tokens: Vec<Token> = Vec::with_capacity(file.tokens.len());
    for (index, entry) in file.tokens.into_iter().enumerate() {
        let wrong = |reason: &str| content(format!("token {} of the list {reason}", index + 1));
        if entry.subject.is_empty() {
            return Err(wrong("has an empty subject"));
        }
        let digest = entry.digest().map_err(wrong)?;
        if tokens.iter().any(|token| token.digest == digest) {
            return Err(wrong("is there twice"));
        }
        let caller = Caller {
            user_name: entry.subject.clone(),
            subject: entry.subject,
            scopes: entry.scopes,
            expires: None,
        };
        tokens.push(Token { digest, caller });
    }
    Ok(tokens)
}

impl Entry {
    fn digest(&self) -> Result<[u8; 32], &'static str> {
        let Some(hex) = self.token.strip_prefix("sha256:") else {
            if self.token.is_empty() {
                return Err("is empty");
            }
            let mut digest = [0; 32];
            digest.copy_from_slice(
                aws_lc_rs::digest::digest(&SHA256, self.token.as_bytes()).as_ref(),
            );
            return Ok(digest);
        };
        let mut digest = [0; 32];
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err("needs 64 hexadecimal digits after `sha256:`");
        }
        for (byte, pair) in digest.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            *byte = pair.iter().fold(0, |value, digit| {
                value << 4 | (*digit as char).to_digit(16).unwrap_or_default() as u8
            });
        }
        Ok(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{ADMIN, WRITE};

    /// The digest of `abc`, FIPS 180-2 appendix B.1.
    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015AD";

    fn in_file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.yml");
        std::fs::write(&path, text).unwrap();
        (directory, path)
    }

    #[test]
    fn tokens_map_to_subjects_and_scopes() {
        let text = format!(
            "tokens:\n- {{token: '{ABC}', subject: ada, scopes: [{ADMIN}]}}\n\
             - {{token: plain, subject: bob, scopes: [{WRITE}]}}\n- {{token: bare, subject: eve}}\n"
        );
        let (_directory, path) = in_file(&text);
        let file = TokensFile::open(&path).unwrap();
        let scopes = |token: &str| file.caller(token).map(|c| (c.subject, c.scopes)).ok();
        assert_eq!(scopes("abc"), Some(("ada".into(), vec![ADMIN.into()])));
        assert_eq!(scopes("plain"), Some(("bob".into(), vec![WRITE.into()])));
        assert_eq!(scopes("bare"), Some(("eve".into(), vec![])));
        for unknown in ["", "abcd", "Plain", ABC, &ABC[7..]] {
            assert!(matches!(file.caller(unknown), Err(AccessError::Unknown)), "{unknown}");
        }
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_broken_one_changes_nothing() {
        let (directory, path) = in_file("tokens: [{token: one, subject: ada}]");
        let file = TokensFile::open(&path).unwrap();
        let replace = |text: &str| {
            let new = directory.path().join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(&new, &path).unwrap();
        };
        replace("tokens: [{token: two, subject: ada}]");
        assert!(file.caller("one").is_err());
        assert!(file.caller("two").is_ok());
        replace("tokens: [{token: three, subject");
        assert!(file.caller("two").is_ok(), "as before");
        std::fs::remove_file(&path).unwrap();
        assert!(file.caller("two").is_ok(), "as before");
        replace("tokens: []");
        assert!(file.caller("two").is_err());
    }

    #[test]
    fn mistakes_are_told() {
        let table = [
            ("tokens: [{token: '', subject: ada}]", "token 1 of the list is empty"),
            ("tokens: [{token: a, subject: ''}]", "token 1 of the list has an empty subject"),
            ("tokens: [{token: 'sha256:12', subject: a}]", "64 hexadecimal digits"),
            (
                "tokens: [{token: a, subject: a}, {token: a, subject: b}]",
                "token 2 of the list is there twice",
            ),
            ("tokens: [{token: a, subject: a, scope: x}]", "scope"),
            ("{}", "tokens"),
        ];
        for (text, expected) in table {
            let (_directory, path) = in_file(text);
            let error = TokensFile::open(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let error = TokensFile::open(Path::new("/nonexistent/tokens.yml")).unwrap_err();
        assert!(error.to_string().starts_with("cannot read the tokens file /nonexistent"));
    }
}
