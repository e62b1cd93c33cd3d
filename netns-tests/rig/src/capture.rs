//! What passes an interface, read by a packet socket, and a reader for tunnel frames that shares
//! nothing with the dataplane's.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout};
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::namespace::Namespace;
use crate::plan::TUNNEL_PORT;

/// Bytes of a frame that are kept.
const SNAP_LENGTH: usize = 256;
/// Frames that are kept; later ones are only counted.
const FRAMES_MAX: usize = 65_536;
/// How often the reader looks whether it should end, in milliseconds.
const TICK_MS: i64 = 20;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const PROTOCOL_UDP: u8 = 17;

/// A frame as it passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its beginning, from the Ethernet header on.
    pub bytes: Vec<u8>,
    /// Its whole length. A frame larger than the MTU is one that the interface has yet to split.
    pub length: usize,
}

/// A running capture; it ends when dropped.
#[derive(Debug)]
pub struct Capture {
    frames: Arc<Mutex<Vec<Frame>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Starts to read everything that passes an interface of the namespace, both ways.
    pub fn start(namespace: &Namespace, interface: &str) -> Result<Self> {
        let (socket, index) = namespace
            .run(|| -> nix::Result<(OwnedFd, u32)> {
                let socket = socket(
                    AddressFamily::Packet,
                    SockType::Raw,
                    SockFlag::SOCK_CLOEXEC,
                    SockProtocol::EthAll,
                )?;
                setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(TICK_MS))?;
                setsockopt(&socket, RcvBufForce, &(16 << 20))?;
                Ok((socket, if_nametoindex(interface)?))
            })?
            .with_context(|| format!("open a packet socket on {interface}"))?;
        let frames = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (frames, stop) = (Arc::clone(&frames), Arc::clone(&stop));
            move || read(&socket, index, &frames, &stop)
        });
        Ok(Self { frames, stop, thread: Some(thread) })
    }

    /// Everything that passed so far.
    pub fn frames(&self) -> Vec<Frame> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many have passed so far.
    pub fn len(&self) -> usize {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those that are tunnel frames.
    pub fn tunnel_frames(&self) -> Vec<TunnelFrame> {
        self.frames().iter().filter_map(|frame| TunnelFrame::parse(&frame.bytes)).collect()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("a capture's thread panicked");
        }
    }
}

fn read(socket: &OwnedFd, interface: u32, frames: &Mutex<Vec<Frame>>, stop: &AtomicBool) {
    let mut buffer = vec![0; 128 << 10];
    while !stop.load(Ordering::Relaxed) {
        let (length, from) = match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
            Ok(received) => received,
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => continue,
            Err(error) => {
                eprintln!("a capture ended early: {error}");
                return;
            }
        };
        if from.is_none_or(|from| from.ifindex() != interface as usize) {
            continue;
        }
        let mut frames = frames.lock().unwrap_or_else(PoisonError::into_inner);
        if frames.len() < FRAMES_MAX {
            let bytes = buffer[..length.min(SNAP_LENGTH)].to_vec();
            frames.push(Frame { bytes, length });
        }
    }
}

/// A VXLAN frame with what it carries (RFC 7348, Group Policy extension).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelFrame {
    /// Sending cell on the underlay.
    pub outer_source: Ipv4Addr,
    /// Receiving cell on the underlay.
    pub outer_destination: Ipv4Addr,
    /// First two bytes of the VXLAN header; 0x8800 with a group, 0x0800 without.
    pub flags: u16,
    /// Group tag, if its flag is set.
    pub group: Option<u16>,
    /// Network identifier.
    pub vni: u32,
    /// IP protocol of the inner packet.
    pub protocol: u8,
    /// Inner sender; port 0 where the protocol has none.
    pub source: SocketAddrV4,
    /// Inner receiver.
    pub destination: SocketAddrV4,
}

impl TunnelFrame {
    /// Reads an Ethernet frame; none if it is not a whole VXLAN header with IPv4 inside.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let outer = Ipv4::parse(ethernet_payload(frame)?)?;
        if outer.protocol != PROTOCOL_UDP || outer.ports.1 != TUNNEL_PORT {
            return None;
        }
        let vxlan = outer.payload.get(8..)?;
        let flags = u16::from_be_bytes(array(vxlan, 0)?);
        let group = u16::from_be_bytes(array(vxlan, 2)?);
        let vni = u32::from_be_bytes(array(vxlan, 4)?) >> 8;
        let inner = Ipv4::parse(ethernet_payload(vxlan.get(8..)?)?)?;
        Some(Self {
            outer_source: outer.source,
            outer_destination: outer.destination,
            flags,
            group: (flags & 0x8000 != 0).then_some(group),
            vni,
            protocol: inner.protocol,
            source: SocketAddrV4::new(inner.source, inner.ports.0),
            destination: SocketAddrV4::new(inner.destination, inner.ports.1),
        })
    }
}

struct Ipv4<'a> {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    ports: (u16, u16),
    payload: &'a [u8],
}

impl<'a> Ipv4<'a> {
    fn parse(packet: &'a [u8]) -> Option<Self> {
        let [version_and_length] = array(packet, 0)?;
        if version_and_length >> 4 != 4 {
            return None;
        }
        let payload = packet.get(usize::from(version_and_length & 0xf) * 4..)?;
        let [protocol] = array(packet, 9)?;
        let ports = match protocol {
            6 | PROTOCOL_UDP => {
                (u16::from_be_bytes(array(payload, 0)?), u16::from_be_bytes(array(payload, 2)?))
            }
            _ => (0, 0),
        };
        Some(Self {
            source: Ipv4Addr::from(array::<4>(packet, 12)?),
            destination: Ipv4Addr::from(array::<4>(packet, 16)?),
            protocol,
            ports,
            payload,
        })
    }
}

fn ethernet_payload(frame: &[u8]) -> Option<&[u8]> {
    (array(frame, 12)? == ETHERTYPE_IPV4).then(|| frame.get(14..)).flatten()
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First packet of an admitted request between two kernel cells: a SYN with tag 1.
    const SYN: &str = "\
        329cf5b80322 eef6fb06c1a4 0800 \
        4500006e 00004000 4011 0000 0a4d000b 0a4d000c \
        cab2 12b5 005a 9e75 \
        8800 0001 000001 00 \
        eeee0aff3e00 eeee0aff3700 0800 \
        4500003c 00004000 3f06 0000 0aff3702 0aff3e03 \
        a86a 1f90 00000000 00000000 a002 fd5c 0000 0000";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<char> = hex.chars().filter(|c| !c.is_whitespace()).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap())
            .collect()
    }

    #[test]
    fn reads_a_kernel_cells_frame() {
        let frame = TunnelFrame::parse(&bytes(SYN)).unwrap();
        assert_eq!(
            frame,
            TunnelFrame {
                outer_source: Ipv4Addr::new(10, 77, 0, 11),
                outer_destination: Ipv4Addr::new(10, 77, 0, 12),
                flags: 0x8800,
                group: Some(1),
                vni: 1,
                protocol: 6,
                source: "10.255.55.2:43114".parse().unwrap(),
                destination: "10.255.62.3:8080".parse().unwrap(),
            }
        );
    }

    #[test]
    fn a_frame_cut_anywhere_is_no_frame() {
        let whole = bytes(SYN);
        let ports_end = 14 + 20 + 8 + 8 + 14 + 20 + 4;
        for length in 0..ports_end {
            assert_eq!(TunnelFrame::parse(&whole[..length]), None, "{length} bytes");
        }
        assert!(TunnelFrame::parse(&whole[..ports_end]).is_some());
    }
}
