//! Conversations: keys, entries, tracking, expiry.
