//! Reading the body of a request, with a bound on its length and its time.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody};
use axum::extract::{DefaultBodyLimit, FromRequest, Request};

/// Longest body, in bytes (contract section 1.3, item 5).
pub const LONGEST: usize = 10 << 20;

/// How long a client may take to send a body.
const PATIENCE: Duration = Duration::from_mins(1);

/// Why a body cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is too long.
    #[error("the body is longer than {LONGEST} bytes")]
    TooLong,
    /// It does not come.
    #[error("the body has not come within {} seconds", PATIENCE.as_secs())]
    TooSlow,
    /// It ends too early, or its encoding is wrong.
    #[error("{0}")]
    Broken(String),
}

/// The body of `request`. Read it after all checks that need the head alone.
pub async fn read(mut request: Request) -> Result<Bytes, BodyError> {
    DefaultBodyLimit::max(LONGEST).apply(&mut request);
    match tokio::time::timeout(PATIENCE, Bytes::from_request(request, &())).await {
        Err(_) => Err(BodyError::TooSlow),
        Ok(Ok(body)) => Ok(body),
        Ok(Err(BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)))) => {
            Err(BodyError::TooLong)
        }
        Ok(Err(e)) => Err(BodyError::Broken(e.body_text())),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn of(len: usize) -> Request {
        Request::new(Body::from(vec![b'x'; len]))
    }

    #[tokio::test]
    async fn the_longest_body_is_read_and_a_longer_one_is_not() {
        assert_eq!(read(of(0)).await, Ok(Bytes::new()));
        assert_eq!(read(of(LONGEST)).await.map(|body| body.len()), Ok(LONGEST));
        assert_eq!(read(of(LONGEST + 1)).await, Err(BodyError::TooLong));
    }
}
