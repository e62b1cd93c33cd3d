//! Conversations through the diversion.

use super::*;

/// Bytes of a transfer.
const LEN: u64 = 16 << 20;

/// What is diverted and nobody's goes back to the kernel, which has a listener.
#[test]
fn what_is_given_back_reaches_the_cells_own_listeners() {
    let mut site = Site::new();
    let _divert = site.divert();
    let host = site.host();
    let counters = Arc::clone(host.counters());
    let _wire = Wire::new(vec![host], |_| 0);
    for client in [&site.other, &site.cell] {
        let [packets, bytes] = during(&counters, || {
            flows::tcp(client, &site.cell, CELLS[0], MAPPED, LEN);
        });
        assert!(bytes > LEN && bytes / packets > 10_000, "{packets} packets, {bytes} bytes");
        // As many datagrams go there, and are answered to ports that are not diverted.
        let [packets, _] = during(&counters, || {
            flows::udp_echo(client, &site.cell, CELLS[0], MAPPED, 5);
        });
        // And perhaps the end of the connection before.
        assert!((5 * 32..5 * 32 + 4).contains(&packets), "{packets} packets");
        let [packets, _] = during(&counters, || {
            flows::udp_segments(client, &site.cell, CELLS[0], MAPPED);
        });
        assert_eq!(packets, 1, "a UDP super-packet was cut");
    }
}

/// TCP that leaves with the cell's address leaves whole, and what comes for it comes whole. The
/// namespace beyond the dataplane has that address itself, so that nothing needs to be translated.
#[test]
fn super_packets_leave_and_come_whole() {
    let mut site = Site::new();
    let container = Namespace::new();
    let fd = attach(&container, CELLS[0], 1450);
    container.run(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "20000 20999").unwrap();
    });
    let _divert = site.divert();
    let links = vec![site.host(), TunLink::new(fd, 1450, Via::Container(PortId(0))).unwrap()];
    let counters = Arc::clone(links[0].counters());
    let _wire = Wire::new(links, |from| 1 - from);
    let arrived = || arrived(&site.other);

    let before = arrived();
    flows::tcp(&container, &site.other, CELLS[1], 9000, LEN);
    let [packets, bytes] = [0, 1].map(|i| arrived()[i] - before[i]);
    assert!(bytes > LEN && bytes / packets > 10_000, "{packets} packets, {bytes} bytes");

    let [packets, bytes] = during(&counters, || {
        flows::tcp(&site.other, &container, CELLS[0], MAPPED, LEN);
    });
    assert!(bytes > LEN && bytes / packets > 10_000, "{packets} packets, {bytes} bytes");
}
