//! Differences between a Sarcenet cell and a kernel cell that are meant: the reasons are in
//! `docs/differences.md`.

use crate::probe::Probe;

/// The heading in that document under which a difference is explained, if one does.
pub(crate) fn reason(_probe: &Probe, _fates: &[String; 2]) -> Option<&'static str> {
    None
}
