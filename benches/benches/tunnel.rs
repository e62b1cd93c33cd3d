//! Tunnel headers: putting them on (encap) and reading them (decap).

use std::hint::black_box;
use std::net::Ipv4Addr;

use criterion::{Criterion, criterion_group, criterion_main};
use sarcenet_dataplane::wire::tunnel::{TUNNEL_HEADER_LEN, TunnelTemplate, vtep_mac};
use sarcenet_dataplane::wire::vxlan;
use smoltcp::wire::{EthernetFrame, EthernetProtocol};

fn tunnel(criterion: &mut Criterion) {
    let here = vtep_mac(Ipv4Addr::new(10, 255, 55, 0));
    let there = vtep_mac(Ipv4Addr::new(10, 255, 62, 0));
    let template = TunnelTemplate::new(1, here, there);
    let mut headers = [0; TUNNEL_HEADER_LEN];
    template.write(1, &mut headers);

    let mut group = criterion.benchmark_group("tunnel");
    let mut out = [0; 128];
    group.bench_function("encap", |bencher| {
        bencher.iter(|| {
            black_box(&template).write(black_box(1), &mut out);
            black_box(&mut out);
        });
    });
    group.bench_function("decap", |bencher| {
        bencher.iter(|| {
            let packet = vxlan::Packet::new_checked(black_box(&headers[..])).ok()?;
            let repr = vxlan::Repr::parse(&packet).ok()?;
            let ethernet = EthernetFrame::new_checked(packet.payload()).ok()?;
            let ours = ethernet.dst_addr().0 == there;
            (ours && ethernet.ethertype() == EthernetProtocol::Ipv4 && repr.vni == 1)
                .then_some(repr.group)
        });
    });
    group.finish();
}

criterion_group!(benches, tunnel);
criterion_main!(benches);
