//! Reading the body of a request, with bounds on its length, its time, and what all bodies take up
//! together.

use std::ops::Deref;
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use axum::extract::rejection::{BytesRejection, FailedToBufferBody};
use axum::extract::{DefaultBodyLimit, FromRequest, Request};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// Longest body, in bytes (contract section 1.3, item 5).
pub const LONGEST: usize = 10 << 20;

/// How long a client may take to send a body, and to wait for room.
const PATIENCE: Duration = Duration::from_mins(1);

/// Longest body that needs no room of its own, in bytes. The number of connections bounds these.
const SHORT: usize = 64 << 10;

/// Room for longer ones in this process, in KiB: 256 MiB.
static ROOM: Semaphore = Semaphore::const_new(256 << 10);

/// Why a body cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is too long.
    #[error("the body is longer than {LONGEST} bytes")]
    TooLong,
    /// It does not come.
    #[error("the body has not come within {} seconds", PATIENCE.as_secs())]
    TooSlow,
    /// Other long ones take up the room.
    #[error("too many long bodies at once")]
    Busy,
    /// It ends too early, or its encoding is wrong.
    #[error("{0}")]
    Broken(String),
}

/// A body. Let it go when it is understood: others may wait for its room.
#[derive(Debug)]
pub struct Payload {
    bytes: Bytes,
    _room: Option<SemaphorePermit<'static>>,
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The body of `request`. Read it after all checks that need the head alone.
pub async fn read(request: Request) -> Result<Payload, BodyError> {
    read_into(&ROOM, request).await
}

async fn read_into(room: &'static Semaphore, mut request: Request) -> Result<Payload, BodyError> {
    let size = request.body().size_hint();
    if size.lower() > LONGEST as u64 {
        return Err(BodyError::TooLong);
    }
    let most = size.upper().map_or(LONGEST, |upper| upper.min(LONGEST as u64) as usize);
    let room = if most > SHORT {
        let permit = timeout(PATIENCE, room.acquire_many(most.div_ceil(1 << 10) as u32)).await;
        // The semaphore is never closed.
        Some(permit.ok().and_then(Result::ok).ok_or(BodyError::Busy)?)
    } else {
        None
    };
    DefaultBodyLimit::max(LONGEST).apply(&mut request);
    match timeout(PATIENCE, Bytes::from_request(request, &())).await {
        Err(_) => Err(BodyError::TooSlow),
        Ok(Ok(bytes)) => Ok(Payload { bytes, _room: room }),
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
        for len in [0, 1, SHORT, SHORT + 1, LONGEST] {
            assert_eq!(read(of(len)).await.unwrap().len(), len);
        }
        assert_eq!(read(of(LONGEST + 1)).await.unwrap_err(), BodyError::TooLong);
    }

    #[tokio::test]
    async fn long_bodies_wait_for_room_and_short_ones_do_not() {
        let room: &Semaphore = Box::leak(Box::new(Semaphore::new(100)));
        let first = read_into(room, of(SHORT + 1)).await.unwrap();
        let second = read_into(room, of(SHORT + 1));
        let mut second = std::pin::pin!(second);
        tokio::select! {
            biased;
            _ = &mut second => panic!("there was room for two"),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(read_into(room, of(SHORT)).await.unwrap().len(), SHORT);
        drop(first);
        assert_eq!(second.await.unwrap().len(), SHORT + 1);
        assert_eq!(room.available_permits(), 100);
    }
}
