//! Sizes of packets.

use anyhow::{Result, ensure};
use sarcenet_rig::{Capture, CellKind, Frame, Plan, World, tcp, udp};

use crate::case::{Case, PATIENCE, is_answered, port};

/// Bytes of a large transfer.
const LARGE: usize = 8 << 20;
/// IPv4 and UDP headers.
const UDP_HEADERS: usize = 28;

/// `eth0` leaves room for the tunnel; large transfers arrive whole, and no IP fragment is seen on
/// the underlay, nor a packet that does not fit it.
pub(crate) fn large_transfers_cross_unfragmented(case: &Case<'_>) -> Result<()> {
    let Case { world, from, to } = case;
    ensure!(from.mtu() == 1450 && to.mtu() == 1450, "MTU {} and {}", from.mtu(), to.mtu());
    let _allowed = (
        case.allow(tcp(case.sender(), case.receiver(), 8080..=8080))?,
        case.allow(udp(case.sender(), case.receiver(), 8080..=8080))?,
    );
    let _servers = (to.serve_http(8080)?, to.serve_udp(8080)?);
    let capture = Capture::start(world.cells()[to.cell()].namespace(), "eth0")?;
    from.http(port(to, 8080), PATIENCE)?.download(LARGE)?;
    is_answered(from, port(to, 8080))?;
    // The answer, longer by the address in front, still fits one packet.
    let almost_full = usize::from(from.mtu()) - UDP_HEADERS - "255.255.255.255 ".len();
    let answer = from.ask_udp(port(to, 8080), &vec![7; almost_full], PATIENCE)?;
    ensure!(answer.is_answered(), "a datagram of {almost_full} bytes: {answer:?}");
    let fragments = capture.frames().iter().filter(|frame| is_fragment(frame)).count();
    ensure!(fragments == 0, "{fragments} IP fragments on the underlay");
    Ok(())
}

fn is_fragment(Frame { bytes, .. }: &Frame) -> bool {
    let ipv4 = bytes.get(12..14) == Some(&[8, 0]);
    let flags_and_offset = bytes.get(20..22).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
    ipv4 && flags_and_offset & 0x3fff != 0
}

/// A smaller underlay makes a smaller `eth0`.
#[test]
fn b26_mtu_follows_the_underlay() {
    let mut plan = Plan::new("m", &[CellKind::Sarcenet, CellKind::KERNEL]);
    plan.underlay_mtu = 1400;
    let world = World::new(plan).unwrap_or_else(|error| panic!("{error:#}"));
    let check = || -> Result<()> {
        let from = world.attach(0, Some("app-1"))?;
        let to = world.attach(1, Some("app-2"))?;
        ensure!(from.mtu() == 1350 && to.mtu() == 1350, "MTU {} and {}", from.mtu(), to.mtu());
        world.allow(&[tcp("app-1", "app-2", 8080..=8080), tcp("app-2", "app-1", 8080..=8080)])?;
        let _servers = (from.serve_http(8080)?, to.serve_http(8080)?);
        from.http(port(&to, 8080), PATIENCE)?.download(LARGE)?;
        to.http(port(&from, 8080), PATIENCE)?.download(LARGE)
    };
    check().unwrap_or_else(|error| panic!("{error:#}\n{}", world.logs()));
}
