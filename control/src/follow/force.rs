//! Asking the servers now instead of when it is time.

use tokio::sync::oneshot;

/// Told what came of it: which round of what was learned has it, or why there is no answer.
pub type Force = oneshot::Sender<Result<u64, String>>;
