//! Cuts an update into pieces that each fit a frame.

use crate::Update;

/// Most descriptors with one piece; half of what a message may carry.
const FDS: usize = crate::transport::MAX_FDS / 2;

/// Most bytes of one piece as encoded, by the upper bounds below; half a frame.
const BYTES: usize = crate::codec::MAX_FRAME / 2;

// Upper bounds of what one item takes in a frame: a variable-length integer takes one byte more
// than its type when large, a length up to 9.
const RULE_KEY: usize = 3 + 4 + 1 + 3 + 3;
const RULE: usize = 5 + RULE_KEY;
const NET: usize = 4 + 1;
const PEER: usize = NET + 4 + 6;
const CELL: usize = 4 + 2 * NET + 5 + 3 + 3 + 1 + 1;
const PORT: usize = 3;
const CONTAINER: usize = PORT + 4 + 3 + 9;

/// How many descriptors go with `update`.
pub(super) fn descriptors(update: &Update) -> usize {
    usize::from(update.cell.as_ref().is_some_and(|cell| cell.host)) + update.containers.len()
}

/// `update` in as few pieces as fit, at least one, in an order in which each makes sense after
/// those before it: removals, then the cell, peers and rules, and containers at last, because a
/// container's rules should be in force before its first packet. Descriptors keep their order.
pub(super) fn cut(update: Update) -> Vec<Update> {
    let mut pieces = Pieces { full: Vec::new(), current: Update::default(), bytes: 0, fds: 0 };
    for key in update.rules_gone {
        pieces.with_room(RULE_KEY, 0).rules_gone.push(key);
    }
    for port in update.containers_gone {
        pieces.with_room(PORT, 0).containers_gone.push(port);
    }
    for subnet in update.peers_gone {
        pieces.with_room(NET, 0).peers_gone.push(subnet);
    }
    if let Some(cell) = update.cell {
        let fds = usize::from(cell.host);
        pieces.with_room(CELL, fds).cell = Some(cell);
    }
    for peer in update.peers {
        pieces.with_room(PEER, 0).peers.push(peer);
    }
    for rule in update.rules {
        pieces.with_room(RULE, 0).rules.push(rule);
    }
    for container in update.containers {
        pieces.with_room(CONTAINER + container.name.len(), 1).containers.push(container);
    }
    pieces.full.push(pieces.current);
    pieces.full
}

struct Pieces {
    full: Vec<Update>,
    current: Update,
    bytes: usize,
    fds: usize,
}

impl Pieces {
    /// The piece that takes an item of so many bytes and descriptors.
    fn with_room(&mut self, bytes: usize, fds: usize) -> &mut Update {
        if self.bytes + bytes > BYTES || self.fds + fds > FDS {
            self.full.push(std::mem::take(&mut self.current));
            (self.bytes, self.fds) = (0, 0);
        }
        self.bytes += bytes;
        self.fds += fds;
        &mut self.current
    }
}
