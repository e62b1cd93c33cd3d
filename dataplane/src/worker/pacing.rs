//! Links that rest, because what they are read for has sent more than it may: what waits there
//! stays in the device until the debt is paid.
#![forbid(unsafe_code)]

use std::time::Duration;

use mio::Token;

use super::ready::Ready;

/// The links that rest, each until a time in nanoseconds since start. There are few at a time.
#[derive(Debug, Default)]
pub(super) struct Pacing(Vec<(u64, Token)>);

impl Pacing {
    /// Lets a link rest until then, or longer if it does already.
    pub(super) fn rest(&mut self, token: Token, until_ns: u64) {
        match self.0.iter_mut().find(|(_, resting)| *resting == token) {
            Some((until, _)) => *until = until_ns.max(*until),
            None => self.0.push((until_ns, token)),
        }
    }

    /// Whether nothing rests.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a link rests.
    pub(super) fn is_resting(&self, token: Token) -> bool {
        self.0.iter().any(|(_, resting)| *resting == token)
    }

    /// Makes the links ready whose time has come. They may have nothing to read.
    pub(super) fn wake(&mut self, now_ns: u64, ready: &mut Ready) {
        self.0.retain(|&(until, token)| {
            if until <= now_ns {
                ready.add(token);
            }
            until > now_ns
        });
    }

    /// How long it is until the next one is to be woken.
    pub(super) fn next(&self, now_ns: u64) -> Option<Duration> {
        let first = self.0.iter().map(|&(until, _)| until).min()?;
        Some(Duration::from_nanos(first.saturating_sub(now_ns)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_rest_as_long_as_the_longest_wish() {
        let (mut pacing, mut ready) = (Pacing::default(), Ready::default());
        pacing.rest(Token(1), 500);
        pacing.rest(Token(2), 300);
        pacing.rest(Token(1), 400);
        assert_eq!(pacing.next(100), Some(Duration::from_nanos(200)));
        pacing.wake(400, &mut ready);
        assert_eq!(ready.take(), Some(Token(2)));
        assert!(pacing.is_resting(Token(1)) && !pacing.is_resting(Token(2)));
        assert_eq!(pacing.next(600), Some(Duration::ZERO));
        pacing.wake(500, &mut ready);
        assert_eq!((ready.take(), ready.take()), (Some(Token(1)), None));
        assert_eq!((pacing.next(600), pacing.is_empty()), (None, true));
    }
}
