use proptest::prelude::*;

use super::*;
use crate::{Reply, Request};

#[path = "strategies.rs"]
mod strategies;

fn assert_round_trip<T>(message: &T) -> Result<(), TestCaseError>
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let frame = encode(message).unwrap();
    prop_assert_eq!(&decode::<T>(&frame).unwrap(), message);
    for len in 0..frame.len() {
        prop_assert!(decode::<T>(&frame[..len]).is_err(), "{len} of {} bytes", frame.len());
    }
    let mut longer = frame;
    longer.push(0);
    let surplus = matches!(decode::<T>(&longer), Err(CodecError::Surplus { surplus: 1 }));
    prop_assert!(surplus);
    Ok(())
}

proptest! {
    #[test]
    fn requests_survive_whole_and_never_in_part(request in strategies::request()) {
        assert_round_trip(&request)?;
    }

    #[test]
    fn replies_survive_whole_and_never_in_part(reply in strategies::reply()) {
        assert_round_trip(&reply)?;
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..512),
        variant in 0..12_u8,
    ) {
        let _ = (decode::<Request>(&bytes), decode::<Reply>(&bytes));
        if let Some(first) = bytes.first_mut() {
            *first = variant;
        }
        let _ = (decode::<Request>(&bytes), decode::<Reply>(&bytes));
    }

    #[test]
    fn damaged_frames_are_a_message_or_an_error(
        request in strategies::request(),
        reply in strategies::reply(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        for mut frame in [encode(&request).unwrap(), encode(&reply).unwrap()] {
            let at = at.index(frame.len());
            frame[at] = byte;
            let _ = (decode::<Request>(&frame), decode::<Reply>(&frame));
        }
    }
}

#[test]
fn a_length_that_lies_claims_no_memory() {
    // An Update whose list of peers says that it holds 2^64 - 1 of them.
    let mut frame = encode(&Request::Update(Box::default())).unwrap();
    let peers = 3;
    frame.truncate(peers);
    frame.push(253);
    frame.extend([0xff; 8]);
    assert!(matches!(decode::<Request>(&frame), Err(CodecError::Malformed(_))));
}

#[test]
fn frames_have_a_largest_size() {
    let long = vec![1_u8; MAX_FRAME];
    assert!(matches!(encode(&long), Err(CodecError::TooLong { .. })));
    assert!(matches!(decode::<Vec<u8>>(&vec![0; MAX_FRAME + 1]), Err(CodecError::TooLong { .. })));
    // The worst case for the decoder's own limit: every byte is an integer of eight.
    let fits = vec![1_u64; MAX_FRAME - 5];
    assert_eq!(decode::<Vec<u64>>(&encode(&fits).unwrap()).unwrap(), fits);
}

#[test]
fn the_version_is_readable_by_every_version() {
    // Hello must keep its place and shape for ever, or peers of two versions cannot tell.
    let hello = Request::Hello { version: 1, role: crate::Role::Observer };
    assert_eq!(encode(&hello).unwrap(), [0, 1, 1]);
    assert_eq!(encode(&Reply::Error { message: "no".into() }).unwrap(), [2, 2, b'n', b'o']);
    assert_eq!(
        encode(&Request::Update(Box::default())).unwrap(),
        [3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
}
