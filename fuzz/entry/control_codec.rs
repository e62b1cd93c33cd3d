//! Any bytes as a frame of the control socket, to either side.

use std::fmt::Debug;

use sarcenet_dataplane_api::codec::{decode, encode};
use sarcenet_dataplane_api::{Reply, Request};
use serde::{Serialize, de::DeserializeOwned};

/// # Panics
/// When something is not as it should be.
pub(crate) fn run(data: &[u8]) {
    survives::<Request>(data);
    survives::<Reply>(data);
}

/// What is accepted means the same after it was encoded.
fn survives<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) {
    let Ok(message) = decode::<T>(data) else { return };
    // Numbers have longer forms than they need, so a frame may shrink, but never grow.
    let frame = encode(&message).expect("it came in a frame");
    assert!(frame.len() <= data.len());
    assert_eq!(decode::<T>(&frame).expect("our own frame"), message);
}
