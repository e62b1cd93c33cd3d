use proptest::prelude::*;

use super::*;

/// The checksum as RFC 1071 section 1 says it, word by word.
fn naive(data: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in data.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Bytes without a pattern that a wrong lane or a swapped word could hide in.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// The example of RFC 1071 section 3.
#[test]
fn the_example_of_the_rfc() {
    let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(sum(&data).fold(), 0xddf2);
    assert_eq!(sum(&data).checksum(), 0x220d);
}

/// The example of RFC 1624 section 4, where equation 2 goes wrong.
#[test]
fn the_example_of_the_update_rfc() {
    assert_eq!(update_u16(0xdd2f, 0x5555, 0x3285), 0x0000);
}

#[test]
fn this_machine_runs_what_it_says_it_has() {
    let all: Vec<_> = Implementation::available().collect();
    assert_eq!(all[0], Implementation::Portable);
    assert_eq!(all.last(), Some(&Implementation::chosen()));
    #[cfg(target_arch = "x86_64")]
    assert_eq!(all.iter().any(|i| i.name() == "avx2"), std::arch::is_x86_feature_detected!("avx2"));
}

#[test]
fn every_implementation_at_every_length() {
    let data = noise(1_600);
    for implementation in Implementation::available() {
        // Every start within a cache line and a half, so every alignment.
        for at in 0..97 {
            for len in 0..300 {
                let piece = &data[at..at + len];
                let name = implementation.name();
                assert_eq!(
                    implementation.sum(piece).fold(),
                    naive(piece),
                    "{name}, {len} bytes from {at}"
                );
            }
        }
        for len in [511, 512, 513, 1447, 1448, 1449, 1500] {
            assert_eq!(implementation.sum(&data[..len]).fold(), naive(&data[..len]));
        }
    }
}

/// Every carry there can be.
#[test]
fn all_ones_do_not_overflow() {
    let data = vec![0xff; 70_001];
    for implementation in Implementation::available() {
        for len in [2, 128, 65_536, 70_001] {
            let name = implementation.name();
            assert_eq!(implementation.sum(&data[..len]).fold(), naive(&data[..len]), "{name}");
        }
        assert_eq!(implementation.sum(&[0; 4_096]).fold(), 0);
    }
}

#[test]
fn udp_never_says_that_it_has_none() {
    assert_eq!(sum(&[0xff, 0xff]).checksum(), 0);
    assert_eq!(sum(&[0xff, 0xff]).udp_checksum(), 0xffff);
    assert_eq!(sum(&[0x12, 0x34]).udp_checksum(), !0x1234);
}

proptest! {
    #[test]
    fn implementations_agree(data in proptest::collection::vec(any::<u8>(), 0..70_000), at in 0usize..64) {
        let piece = &data[at.min(data.len())..];
        for implementation in Implementation::available() {
            prop_assert_eq!(implementation.sum(piece).fold(), naive(piece));
        }
    }

    /// However a packet is scattered, its sum is the same.
    #[test]
    fn pieces_of_any_length(
        data in proptest::collection::vec(any::<u8>(), 0..4_000),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(data.len() + 1)).collect();
        cuts.sort_unstable();
        cuts.push(data.len());
        let mut total = Sum::zero();
        let mut start = 0;
        for end in cuts {
            total = total.add(&data[start..end]);
            start = end;
        }
        prop_assert_eq!(total.fold(), naive(&data));
    }

    #[test]
    fn words_are_bytes(lead in proptest::collection::vec(any::<u8>(), 0..4), a: u16, b: u32) {
        let mut data = lead.clone();
        data.extend(a.to_be_bytes());
        data.extend(b.to_be_bytes());
        prop_assert_eq!(sum(&lead).add_u16(a).add_u32(b).fold(), naive(&data));
    }

    #[test]
    fn pseudo_header_is_its_twelve_bytes(
        source: u32, destination: u32, protocol: u8, length in 0u32..=65_535,
    ) {
        let mut data = Vec::new();
        data.extend(source.to_be_bytes());
        data.extend(destination.to_be_bytes());
        data.extend([0, protocol]);
        data.extend((length as u16).to_be_bytes());
        let sum = pseudo_header(source.into(), destination.into(), protocol, length);
        prop_assert_eq!(sum.fold(), naive(&data));
    }

    /// An update gives the very checksum that computing it anew would give. Data of zeroes only
    /// is left out: there the two zeroes of ones' complement differ, and no header is all zero.
    #[test]
    fn updates_equal_recomputation(
        data in proptest::collection::vec(any::<u8>(), 4..64),
        at in any::<prop::sample::Index>(),
        new16: u16,
        new32: u32,
    ) {
        let mut data = data;
        data[0] |= 0x40; // as the version of an IPv4 header
        let last = data.len() - 4;
        let at = (2 + at.index(last.max(1)) / 2 * 2).min(last / 2 * 2);
        prop_assume!(at >= 2);
        let check = sum(&data).checksum();

        let mut changed = data.clone();
        let old = u16::from_be_bytes([data[at], data[at + 1]]);
        changed[at..at + 2].copy_from_slice(&new16.to_be_bytes());
        prop_assert_eq!(update_u16(check, old, new16), sum(&changed).checksum());

        let mut changed = data.clone();
        let old = u32::from_be_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]);
        changed[at..at + 4].copy_from_slice(&new32.to_be_bytes());
        prop_assert_eq!(update_u32(check, old, new32), sum(&changed).checksum());
    }
}
