//! Cuts an update into pieces that each fit a frame.

use crate::{Cell, EgressSet, Settings, Update};

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
const PORT_RANGE: usize = 3 + 3;
const SERVICE: usize = 4 + 1 + 3;
const OUTSIDE: usize = 1 + PORT_RANGE + 5 + 3 * 9;
const LOGGING: usize = 1 + 1 + 5 + 5;
const CELL: usize = 4 + 2 * NET + 5 + 3 + 3 + 1 + 1 + 1 + 1 + OUTSIDE + LOGGING;
const PORT: usize = 3;
const ATTACH: usize = 1 + 6 + 6;
const CONTAINER: usize = PORT + 4 + 3 + 9 + ATTACH;
const SET_ID: usize = 5;
const EGRESS_SET: usize = SET_ID + 5 + 9;
const EGRESS_RULE: usize = 5 + 4 + 4 + (1 + PORT_RANGE) + 1;
const MAPPING: usize = 1 + PORT_RANGE + 3;
const RATE: usize = 1 + 9 + 9;
const SETTINGS: usize = PORT + 2 * (1 + SET_ID) + 9 + 2 * RATE + (1 + 5 + 5 + 1 + 1);

/// Most rules of a set that go together; a larger set is split.
const RULES_TOGETHER: usize = 512;

fn cell_bound(cell: &Cell) -> usize {
    let lists = cell.outside.as_ref().map_or(0, |outside| {
        NET * outside.not_masqueraded.len()
            + 4 * outside.local.len()
            + SERVICE * outside.services.len()
    });
    CELL + lists
}

fn settings_bound(settings: &Settings) -> usize {
    SETTINGS + MAPPING * settings.mappings.len()
}

/// How many descriptors go with `update`.
pub(super) fn descriptors(update: &Update) -> usize {
    usize::from(update.cell.as_ref().is_some_and(|cell| cell.host)) + update.containers.len()
}

/// `update` in as few pieces as fit, at least one, in an order in which each makes sense after
/// those before it: removals, then the cell, peers, rules and sets of egress rules, then
/// containers, because a container's rules should be in force before its first packet, and their
/// settings, which name containers and sets; sets that are gone at last, when no settings name
/// them any more. Descriptors keep their order.
///
/// One item fits a frame always: the lists of a cell and of settings are bounded
/// ([`crate::MAX_LISTED`], [`crate::MAX_MAPPINGS`]), names of containers by the dataplane.
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
        let (bytes, fds) = (cell_bound(&cell), usize::from(cell.host));
        pieces.with_room(bytes, fds).cell = Some(cell);
    }
    for peer in update.peers {
        pieces.with_room(PEER, 0).peers.push(peer);
    }
    for rule in update.rules {
        pieces.with_room(RULE, 0).rules.push(rule);
    }
    for set in update.egress {
        pieces.egress(set);
    }
    for container in update.containers {
        let bytes = CONTAINER + container.name.len();
        pieces.with_room(bytes, 1).containers.push(container);
    }
    for settings in update.settings {
        let bytes = settings_bound(&settings);
        pieces.with_room(bytes, 0).settings.push(settings);
    }
    for set in update.egress_gone {
        pieces.with_room(SET_ID, 0).egress_gone.push(set);
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

    /// Adds a set of egress rules, in as many parts as it takes.
    fn egress(&mut self, set: EgressSet) {
        let EgressSet { id, mut from, rules } = set;
        if rules.is_empty() {
            self.with_room(EGRESS_SET, 0).egress.push(EgressSet { id, from, rules });
            return;
        }
        for rules in rules.chunks(RULES_TOGETHER) {
            let part = EgressSet { id, from, rules: rules.to_vec() };
            self.with_room(EGRESS_SET + EGRESS_RULE * rules.len(), 0).egress.push(part);
            from += rules.len() as u32;
        }
    }
}
