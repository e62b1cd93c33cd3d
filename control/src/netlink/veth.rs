//! What a veth pair needs beside addresses and routes.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use futures_util::TryStreamExt;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressScope};
use netlink_packet_route::link::{InfoData, InfoVeth};
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};
use rtnetlink::packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage,
};
use rtnetlink::{AddressMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::{INGRESS, Link, Netlink, NetlinkError};

/// One end of a pair that is to be made.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its MAC address.
    pub mac: [u8; 6],
}

// Of `<linux/pkt_cls.h>`: a classic BPF program as attributes of the filter.
const TCA_BPF_OPS_LEN: u16 = 4;
const TCA_BPF_OPS: u16 = 5;
/// Ends the packet (`TC_ACT_SHOT`).
const SHOT: u32 = 2;
/// Classic BPF: return a constant (`BPF_RET | BPF_K`).
const RETURN: u16 = 6;
/// Every protocol (`ETH_P_ALL`).
const ALL: u16 = 3;

impl Netlink {
    /// Makes a veth pair, down: `here` in this namespace and `there` in `netns`.
    pub fn add_veth(
        &self,
        here: End<'_>,
        there: End<'_>,
        netns: BorrowedFd<'_>,
        mtu: u32,
    ) -> Result<(), NetlinkError> {
        let peer = LinkUnspec::new_with_name(there.name)
            .address(there.mac.to_vec())
            .mtu(mtu)
            .setns_by_fd(netns.as_raw_fd());
        let pair = LinkVeth::new(here.name, there.name)
            .address(here.mac.to_vec())
            .mtu(mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
        let order = self.handle.link().add(pair.build()).execute();
        self.ask(|| format!("make the veth pair {} and {}", here.name, there.name), order)
    }

    /// Gives a device this MAC address and ends that it resolves addresses by ARP.
    pub fn set_mac_without_arp(&self, device: &Link, mac: [u8; 6]) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(device.index).address(mac.to_vec()).arp(false);
        let order = self.handle.link().set(message.build()).execute();
        self.ask(|| format!("set the MAC address of {}", device.name), order)
    }

    /// Gives a device the address `own` with `peer` at its other end, and takes all other
    /// addresses from it.
    pub fn set_point_to_point(
        &self,
        device: &Link,
        own: Ipv4Addr,
        peer: Ipv4Addr,
    ) -> Result<(), NetlinkError> {
        self.remove_addresses_but(device, Some((own, 32)))?;
        let mut message =
            AddressMessageBuilder::<Ipv4Addr>::new().index(device.index).address(own, 32).build();
        message.header.scope = AddressScope::Link;
        for attribute in &mut message.attributes {
            if let AddressAttribute::Address(address) = attribute {
                *address = IpAddr::V4(peer);
            }
        }
        self.add_address(|| format!("give {} the address {own} peer {peer}", device.name), message)
    }

    /// Makes `gateway`, behind the device, the way to everywhere, from `source`.
    pub fn set_default_gateway(
        &self,
        device: &Link,
        gateway: Ipv4Addr,
        source: Ipv4Addr,
    ) -> Result<(), NetlinkError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .output_interface(device.index)
            .gateway(gateway)
            .pref_source(source)
            .build();
        let order = self.handle.route().add(route).replace().execute();
        self.ask(|| format!("make {gateway} on {} the default route", device.name), order)
    }

    /// Makes the MAC address of a neighbour known for good.
    pub fn set_neighbour(
        &self,
        device: &Link,
        address: Ipv4Addr,
        mac: [u8; 6],
    ) -> Result<(), NetlinkError> {
        let order = self.handle.neighbours().add(device.index, IpAddr::V4(address));
        let order = order.link_layer_address(&mac).replace().execute();
        self.ask(|| format!("set the MAC address of {address} on {}", device.name), order)
    }

    /// Throws away whatever a device receives, after packet sockets have seen it and before anything
    /// else of this namespace has. Does nothing when it is so already.
    ///
    /// A filter of classic BPF, because every kernel that has filters at all has this kind.
    pub fn drop_ingress(&self, device: &Link) -> Result<(), NetlinkError> {
        if self.drops_ingress(device)? {
            return Ok(());
        }
        let what = || format!("throw away what {} receives (cls_bpf, sch_ingress)", device.name);
        let index = device.index as i32;
        let added = self.ask(what, self.handle.qdisc().add(index).ingress().execute());
        if let Err(e) = added
            && !e.is_taken()
        {
            return Err(e);
        }
        let mut program = RETURN.to_ne_bytes().to_vec();
        program.extend([0; 2]);
        program.extend(SHOT.to_ne_bytes());
        let other =
            |kind, value| TcOption::Bpf(TcFilterBpfOption::Other(DefaultNla::new(kind, value)));
        let mut message = TcMessage::with_index(index);
        message.header.parent = INGRESS;
        message.header.info = u32::from(TcHandle { major: 1, minor: ALL.to_be() });
        message.attributes = vec![
            TcAttribute::Kind(TcFilterBpf::KIND.to_owned()),
            TcAttribute::Options(vec![
                other(TCA_BPF_OPS_LEN, 1_u16.to_ne_bytes().to_vec()),
                other(TCA_BPF_OPS, program),
                TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
            ]),
        ];
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewTrafficFilter(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        self.order(what, request)
    }

    /// Whether [`Netlink::drop_ingress`] is in force.
    pub fn drops_ingress(&self, device: &Link) -> Result<bool, NetlinkError> {
        let request = self.handle.traffic_filter(device.index as i32).get().ingress().execute();
        let filters: Vec<TcMessage> = self.ask(
            || format!("list the filters of {}", device.name),
            request.try_collect::<Vec<_>>(),
        )?;
        let direct = TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction));
        Ok(filters.iter().any(|filter| {
            filter.attributes.iter().any(|attribute| {
                matches!(attribute, TcAttribute::Options(options) if options.contains(&direct))
            })
        }))
    }
}
