//! Just enough of the pcap file format: classic header, microseconds, Ethernet.

/// First word of a file, in the byte order of everything that follows.
const MAGIC: u32 = 0xa1b2_c3d4;
/// LINKTYPE_ETHERNET.
const ETHERNET: u32 = 1;

/// The frames of a file.
pub(crate) fn read(file: &[u8]) -> Vec<&[u8]> {
    let word = |at: usize| {
        let bytes = file[at..at + 4].try_into().expect("four bytes");
        if file.starts_with(&MAGIC.to_be_bytes()) {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        }
    };
    assert_eq!(word(0), MAGIC, "not a pcap file");
    assert_eq!(word(20), ETHERNET, "not Ethernet");
    let mut frames = Vec::new();
    let mut at = 24;
    while at < file.len() {
        let (captured, on_the_wire) = (word(at + 8) as usize, word(at + 12) as usize);
        assert_eq!(captured, on_the_wire, "frame {} was cut", frames.len() + 1);
        frames.push(&file[at + 16..][..captured]);
        at += 16 + captured;
    }
    frames
}

/// A file with these frames, a microsecond apart.
pub(crate) fn write(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    let version = 2 | 4 << 16;
    for word in [MAGIC, version, 0, 0, 65_535, ETHERNET] {
        file.extend(word.to_le_bytes());
    }
    for (at, frame) in (0..).zip(frames) {
        let len = frame.len() as u32;
        for word in [0, at, len, len] {
            file.extend(u32::to_le_bytes(word));
        }
        file.extend(frame);
    }
    file
}

#[test]
fn reads_what_it_writes() {
    let frames = [vec![1; 60], vec![2; 61], Vec::new()];
    assert_eq!(read(&write(&frames)), frames);
}
