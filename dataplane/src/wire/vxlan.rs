//! VXLAN (RFC 7348) with the Group Policy extension (draft-smith-vxlan-group-policy).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |G|R|R|R|I|R|R|R|R|D|R|R|A|R|R|R|        Group Policy ID        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                VXLAN Network Identifier       |   Reserved    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! Cells send `08 00` without a tag and `88 00` with one. A Linux device in GBP mode
//! (`vxlan_build_gbp_hdr` in `drivers/net/vxlan/vxlan_core.c`) also sets D and A when the packet's
//! mark has the bits `VXLAN_GBP_DONT_LEARN` and `VXLAN_GBP_POLICY_APPLIED`
//! (`include/net/vxlan.h`).
//!
//! [`Repr::parse`] is as strict as that device about the I flag, the other bits of the first byte
//! and the last byte. It is stricter in two places that the device skips over by
//! `VXLAN_GBP_USED_BITS`: the reserved bits of the second byte must be zero, and so must the group
//! when the G flag is not set.
#![forbid(unsafe_code)]

pub use super::Error;

/// Length of the header in bytes.
pub const HEADER_LEN: usize = field::RESERVED + 1;

/// UDP port of VXLAN (RFC 7348 section 5).
pub const PORT: u16 = 4789;

/// Largest network identifier.
pub const MAX_VNI: u32 = 0x00ff_ffff;

mod field {
    use std::ops::{Range, RangeFrom};

    pub(super) const FLAGS: usize = 0;
    pub(super) const POLICY_FLAGS: usize = 1;
    pub(super) const GROUP: Range<usize> = 2..4;
    pub(super) const VNI: Range<usize> = 4..7;
    pub(super) const RESERVED: usize = 7;
    pub(super) const PAYLOAD: RangeFrom<usize> = 8..;
}

/// Flags of the first byte: the group policy ID is carried.
const G: u8 = 0x80;
/// Flags of the first byte: the network identifier is valid.
const I: u8 = 0x08;
/// Flags of the second byte: do not learn from this packet.
const D: u8 = 0x40;
/// Flags of the second byte: policy has been applied already.
const A: u8 = 0x08;

/// A lens over a VXLAN packet: the header and what it carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet<T: AsRef<[u8]>> {
    buffer: T,
}

impl<T: AsRef<[u8]>> Packet<T> {
    /// Looks at bytes without any check.
    pub const fn new_unchecked(buffer: T) -> Self {
        Self { buffer }
    }

    /// Looks at bytes after [`Self::check_len`].
    pub fn new_checked(buffer: T) -> Result<Self, Error> {
        let packet = Self::new_unchecked(buffer);
        packet.check_len()?;
        Ok(packet)
    }

    /// Whether no accessor can panic. An error when the buffer is shorter than a header.
    pub fn check_len(&self) -> Result<(), Error> {
        if self.buffer.as_ref().len() < HEADER_LEN { Err(Error) } else { Ok(()) }
    }

    /// The bytes themselves.
    pub fn into_inner(self) -> T {
        self.buffer
    }

    /// Both bytes of flags, the G and I byte first.
    pub fn flags(&self) -> u16 {
        let data = self.buffer.as_ref();
        u16::from_be_bytes([data[field::FLAGS], data[field::POLICY_FLAGS]])
    }

    /// Whether the network identifier is valid (I).
    pub fn has_vni(&self) -> bool {
        self.buffer.as_ref()[field::FLAGS] & I != 0
    }

    /// Whether the group policy ID is carried (G).
    pub fn has_group(&self) -> bool {
        self.buffer.as_ref()[field::FLAGS] & G != 0
    }

    /// Whether the receiver should not learn from this packet (D).
    pub fn dont_learn(&self) -> bool {
        self.buffer.as_ref()[field::POLICY_FLAGS] & D != 0
    }

    /// Whether policy has been applied already (A).
    pub fn policy_applied(&self) -> bool {
        self.buffer.as_ref()[field::POLICY_FLAGS] & A != 0
    }

    /// The 16 bits of the group policy ID, also when [`Self::has_group`] says that they mean
    /// nothing.
    pub fn group_policy(&self) -> u16 {
        let data = &self.buffer.as_ref()[field::GROUP];
        u16::from_be_bytes([data[0], data[1]])
    }

    /// The network identifier (24 bits).
    pub fn vni(&self) -> u32 {
        let data = &self.buffer.as_ref()[field::VNI];
        u32::from_be_bytes([0, data[0], data[1], data[2]])
    }

    /// The last byte of the header.
    pub fn reserved(&self) -> u8 {
        self.buffer.as_ref()[field::RESERVED]
    }
}

impl<'a, T: AsRef<[u8]> + ?Sized> Packet<&'a T> {
    /// The frame inside.
    pub fn payload(&self) -> &'a [u8] {
        &self.buffer.as_ref()[field::PAYLOAD]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Packet<T> {
    /// Sets both bytes of flags.
    pub fn set_flags(&mut self, flags: u16) {
        self.buffer.as_mut()[field::FLAGS..=field::POLICY_FLAGS]
            .copy_from_slice(&flags.to_be_bytes());
    }

    /// Sets the group policy ID, and not the G flag.
    pub fn set_group_policy(&mut self, group: u16) {
        self.buffer.as_mut()[field::GROUP].copy_from_slice(&group.to_be_bytes());
    }

    /// Sets the network identifier; its upper 8 bits are ignored.
    pub fn set_vni(&mut self, vni: u32) {
        self.buffer.as_mut()[field::VNI].copy_from_slice(&vni.to_be_bytes()[1..]);
    }

    /// Sets the last byte of the header.
    pub fn set_reserved(&mut self, value: u8) {
        self.buffer.as_mut()[field::RESERVED] = value;
    }

    /// The frame inside, to be written.
    pub fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.buffer.as_mut()[field::PAYLOAD]
    }
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Packet<T> {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_ref()
    }
}

/// A VXLAN header as a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repr {
    /// Network identifier, at most [`MAX_VNI`].
    pub vni: u32,
    /// Group policy ID, present exactly when the G flag is set.
    pub group: Option<u16>,
    /// The D flag.
    pub dont_learn: bool,
    /// The A flag.
    pub policy_applied: bool,
}

impl Repr {
    /// Reads a header. An error when the I flag is missing or a reserved bit is set.
    pub fn parse<T: AsRef<[u8]> + ?Sized>(packet: &Packet<&T>) -> Result<Self, Error> {
        packet.check_len()?;
        let [flags, policy_flags] = packet.flags().to_be_bytes();
        let group = packet.has_group().then(|| packet.group_policy());
        let stray_group = group.is_none() && packet.group_policy() != 0;
        if flags & !G != I || policy_flags & !(D | A) != 0 || packet.reserved() != 0 || stray_group
        {
            return Err(Error);
        }
        Ok(Self {
            vni: packet.vni(),
            group,
            dont_learn: packet.dont_learn(),
            policy_applied: packet.policy_applied(),
        })
    }

    /// Length of the header in bytes.
    pub const fn buffer_len(&self) -> usize {
        HEADER_LEN
    }

    /// Writes a header.
    ///
    /// # Panics
    /// When the buffer is shorter than [`Self::buffer_len`].
    pub fn emit<T: AsRef<[u8]> + AsMut<[u8]> + ?Sized>(&self, packet: &mut Packet<&mut T>) {
        let flags = I | if self.group.is_some() { G } else { 0 };
        let policy_flags =
            if self.dont_learn { D } else { 0 } | if self.policy_applied { A } else { 0 };
        packet.set_flags(u16::from_be_bytes([flags, policy_flags]));
        packet.set_group_policy(self.group.unwrap_or(0));
        packet.set_vni(self.vni);
        packet.set_reserved(0);
    }
}
