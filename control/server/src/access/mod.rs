//! Who asks: from an `Authorization` header to a [`Caller`] (contract section 1.3).

mod secret;
mod tokens_file;
mod uaa;

use std::sync::Arc;
use std::time::SystemTime;

use crate::outbound::OutboundError;
pub use secret::Secret;
pub use tokens_file::{TokensFile, TokensFileError};
pub use uaa::{Uaa, UaaSettings};

/// The scope that may do everything.
pub const ADMIN: &str = "network.admin";

/// The scope that may change policies between apps of its own spaces.
pub const WRITE: &str = "network.write";

/// Somebody whose token is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The token's subject: the GUID of a user, or the name of a client.
    pub subject: String,
    /// The user's name; empty for clients.
    pub user_name: String,
    /// What the token is for.
    pub scopes: Vec<String>,
    /// When the token is over.
    pub expires: Option<SystemTime>,
}

impl Caller {
    /// Whether the caller may do everything.
    pub fn is_admin(&self) -> bool {
        self.has(ADMIN)
    }

    /// Whether the token is for this.
    pub fn has(&self, scope: &str) -> bool {
        self.scopes.iter().any(|own| own == scope)
    }

    /// The name for people: that of the user, or else the subject.
    pub fn name(&self) -> &str {
        if self.user_name.is_empty() { &self.subject } else { &self.user_name }
    }
}

/// Why nobody is known to ask.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// No `Authorization` header.
    #[error("missing authorization header")]
    Missing,
    /// UAA knows no such token, or does not answer.
    #[error("failed to verify token with uaa")]
    Uaa(#[source] OutboundError),
    /// UAA answers for a token that is over.
    #[error("failed to verify token with uaa")]
    Expired,
    /// The tokens file has no such token.
    #[error("unknown token")]
    Unknown,
}

/// Who knows the tokens.
#[derive(Debug)]
pub enum Authority {
    /// Cloud Foundry's UAA.
    Uaa(Arc<Uaa>),
    /// A file, where there is no Cloud Foundry.
    TokensFile(TokensFile),
}

impl Authority {
    /// Whose token it is, from the text of the `Authorization` header.
    pub async fn caller(&self, header: Option<&str>) -> Result<Caller, AccessError> {
        let token = bearer(header.ok_or(AccessError::Missing)?);
        match self {
            Self::Uaa(uaa) => uaa.caller(token).await,
            Self::TokensFile(file) => file.caller(token),
        }
    }
}

/// The token of a header: these two spellings of the scheme go, one after the other.
fn bearer(header: &str) -> &str {
    let header = header.strip_prefix("Bearer ").unwrap_or(header);
    header.strip_prefix("bearer ").unwrap_or(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_spellings_of_bearer_are_known() {
        let table = [
            ("Bearer abc", "abc"),
            ("bearer abc", "abc"),
            ("Bearer bearer abc", "abc"),
            ("bearer Bearer abc", "Bearer abc"),
            ("BEARER abc", "BEARER abc"),
            ("abc", "abc"),
            ("Bearer ", ""),
            ("", ""),
        ];
        for (header, token) in table {
            assert_eq!(bearer(header), token, "{header:?}");
        }
    }

    #[test]
    fn a_client_has_no_user_name() {
        let client = Caller {
            subject: "cleaner".into(),
            user_name: String::new(),
            scopes: vec![WRITE.into()],
            expires: None,
        };
        assert_eq!((client.name(), client.is_admin(), client.has(WRITE)), ("cleaner", false, true));
        let user = Caller { user_name: "ada".into(), ..client };
        assert_eq!(user.name(), "ada");
    }
}
