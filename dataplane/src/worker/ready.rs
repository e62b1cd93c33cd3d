//! Which links to read next.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use mio::Token;

/// Links that may have something to read, each once, the one that waited longest first.
#[derive(Default)]
pub(super) struct Ready {
    queue: VecDeque<Token>,
    queued: Vec<bool>,
}

impl Ready {
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn add(&mut self, token: Token) {
        if self.queued.len() <= token.0 {
            self.queued.resize(token.0 + 1, false);
        }
        if !std::mem::replace(&mut self.queued[token.0], true) {
            self.queue.push_back(token);
        }
    }

    pub(super) fn take(&mut self) -> Option<Token> {
        let token = self.queue.pop_front()?;
        self.queued[token.0] = false;
        Some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_waits_once() {
        let mut ready = Ready::default();
        for token in [Token(9), Token(4), Token(9), Token(7)] {
            ready.add(token);
        }
        assert_eq!(ready.take(), Some(Token(9)));
        ready.add(Token(9));
        let rest: Vec<_> = std::iter::from_fn(|| ready.take()).collect();
        assert_eq!(rest, [Token(4), Token(7), Token(9)]);
    }
}
