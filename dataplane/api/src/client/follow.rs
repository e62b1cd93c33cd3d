//! What comes for as long as the connection lasts: traced packets, events.

use std::{
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd},
};

use super::{ClientError, PATIENCE, unexpected};
use crate::{
    Event, Reply, Walk,
    transport::{Connection, TransportError},
};

/// Something that the dataplane tells page by page.
pub trait Followed: Sized {
    /// What was asked for, in messages to people.
    const ASKED: &'static str;

    /// The page in `reply` with how many were lost before it, or the reply if it is none.
    fn page(reply: Reply) -> Result<(Vec<Self>, u64), Reply>;
}

impl Followed for Walk {
    const ASKED: &'static str = "trace";

    fn page(reply: Reply) -> Result<(Vec<Self>, u64), Reply> {
        match reply {
            Reply::Walks { walks, lost } => Ok((walks, lost)),
            other => Err(other),
        }
    }
}

impl Followed for Event {
    const ASKED: &'static str = "events";

    fn page(reply: Reply) -> Result<(Vec<Self>, u64), Reply> {
        match reply {
            Reply::Events { events, lost } => Ok((events, lost)),
            other => Err(other),
        }
    }
}

/// Pages as they come. Ends when the dataplane closes the connection.
#[derive(Debug)]
pub struct Following<T> {
    connection: Connection,
    pages: PhantomData<fn() -> T>,
}

/// Traced packets as they come.
pub type Trace = Following<Walk>;

/// Events as they come.
pub type Events = Following<Event>;

impl<T: Followed> Following<T> {
    pub(super) fn over(connection: Connection) -> Result<Self, ClientError> {
        connection.set_timeouts(None, Some(PATIENCE))?;
        Ok(Self { connection, pages: PhantomData })
    }

    /// A second handle on the connection: shutting it down ends the iteration.
    pub fn handle(&self) -> Result<Connection, TransportError> {
        self.connection.try_clone()
    }
}

impl<T: Followed> Iterator for Following<T> {
    /// A page, and how many had to be thrown away before it because nobody took them.
    type Item = Result<(Vec<T>, u64), ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.connection.recv() {
            Ok(Some((Reply::Error { message }, _))) => Some(Err(ClientError::Refused(message))),
            Ok(Some((reply, _))) => {
                Some(T::page(reply).map_err(|other| unexpected(T::ASKED, &other)))
            }
            Ok(None) => None,
            Err(e) => Some(Err(e.into())),
        }
    }
}

impl<T> AsFd for Following<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}
