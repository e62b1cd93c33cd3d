/* SPDX-License-Identifier: Apache-2.0
 *
 * Which packets that come in at the cell leave the kernel, and go to the dataplane by the host's
 * TUN. At the interface with the underlay address, and at loopback for the cell's own processes:
 *
 *   - TCP and UDP to ports at the underlay address that the dataplane has taken: those of its
 *     source NAT, and mapped host ports;
 *   - ICMP echo replies to that address whose identifier is one of the source NAT's;
 *   - ICMP errors to that address about a packet that left from such a port, or with such an
 *     identifier;
 *   - packets of protocols without ports or identifiers, and ICMP errors about such packets from
 *     the cell, while there is source NAT: they may be answers to a container;
 *   - later fragments of what was diverted.
 *
 * Not at loopback: whatever is for containers, whose addresses others see where nothing is
 * translated.
 *
 * Everything else stays with the kernel, and with other filters of the interface, as if this
 * program were not there. What is diverted although it is nobody's comes back by the TUN, so to
 * divert too much costs time and nothing else.
 *
 * Headers are copied out of the packet rather than read in place: what GRO put together, and what
 * a driver left in pages, has its headers anywhere. The copies are counted from the IPv4 header, so
 * interfaces without Ethernet headers will do.
 */
#include <linux/if_packet.h>
#include <linux/pkt_cls.h>

#include "ports.bpf.h"

static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) =
	(void *)BPF_FUNC_map_update_elem;
static long (*bpf_map_delete_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_delete_elem;
static long (*bpf_skb_load_bytes_relative)(const void *packet, __u32 offset, void *to, __u32 len,
					   __u32 start) = (void *)BPF_FUNC_skb_load_bytes_relative;
static long (*bpf_redirect)(__u32 interface, __u64 flags) = (void *)BPF_FUNC_redirect;
static __u64 (*bpf_ktime_get_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;

/* ICMP (RFC 792); linux/icmp.h would bring in headers of the C library. */
enum {
	ECHO_REPLY = 0,
	DESTINATION_UNREACHABLE = 3,
	SOURCE_QUENCH = 4,
	ECHO = 8,
	TIME_EXCEEDED = 11,
	PARAMETER_PROBLEM = 12,
};

struct icmp {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be16 echo_id;
	__be16 echo_sequence;
};

/* LOOPBACK_IFINDEX of include/net/flow.h: the same in every network namespace. */
#define LOOPBACK 1

/* How long the kernel waits for the rest of a packet (net.ipv4.ipfrag_time), in nanoseconds. */
#define FRAGMENTS_LIVE 30000000000ULL

/* Set before the program is loaded. Addresses are in network byte order, the rest is not. */
const volatile struct {
	__be32 underlay;
	/* The cell's part of the overlay. Its first address is the cell's own. */
	__be32 subnet;
	__be32 subnet_mask;
	/* Index of the host's TUN. */
	__u32 door;
	/* Identifiers of the source NAT's echo requests. None when the first is above the last. */
	__u16 first_id;
	__u16 last_id;
} cell;

/* What all fragments of a packet have in common (RFC 791, section 3.2). */
struct datagram {
	__be32 source;
	__be32 destination;
	__be16 id;
	__u8 protocol;
	__u8 zero;
};

/* Diverted packets of which there is more to come, and when they began. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct datagram);
	__type(value, __u64);
} fragmented SEC(".maps");

/* Copies bytes of the packet, counted from its IPv4 header. False when it is too short. */
static __attribute__((always_inline)) int load(const struct __sk_buff *packet, __u32 offset,
					       void *to, __u32 len)
{
	return !bpf_skb_load_bytes_relative(packet, offset, to, len, BPF_HDR_START_NET);
}

static __attribute__((always_inline)) int is_our_id(__be16 id)
{
	return cell.first_id <= ntohs(id) && ntohs(id) <= cell.last_id;
}

/* Whether a protocol other than TCP, UDP and ICMP may be that of a conversation of ours: any is
 * while there is source NAT, but those that cells use among themselves.
 */
static __attribute__((always_inline)) int is_portless(__u8 protocol)
{
	switch (protocol) {
	case IPPROTO_IGMP:
	case IPPROTO_IPIP:
	case IPPROTO_IPV6:
	case IPPROTO_ESP:
	case IPPROTO_AH:
		return 0;
	default:
		return cell.first_id <= cell.last_id;
	}
}

/* Whether an ICMP error is about a packet of ours, which it quotes from `offset` on. */
static __attribute__((always_inline)) int quotes_ours(const struct __sk_buff *packet, __u32 offset)
{
	struct iphdr ip;
	struct ports ports;
	struct icmp icmp;

	if (!load(packet, offset, &ip, sizeof(ip)))
		return 0;
	if (ip.version != 4 || ip.ihl < 5 || ip.saddr != cell.underlay)
		return 0;
	if (ip.frag_off & htons(FRAGMENT_OFFSET))
		return 0;
	offset += ip.ihl * 4;
	switch (ip.protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
		return load(packet, offset, &ports, sizeof(ports)) &&
		       is_taken(ip.protocol, ntohs(ports.source));
	case IPPROTO_ICMP:
		return load(packet, offset, &icmp, sizeof(icmp)) && icmp.type == ECHO &&
		       is_our_id(icmp.echo_id);
	default:
		return is_portless(ip.protocol);
	}
}

/* Whether a packet to the underlay address is ours; it is whole, or a first fragment. */
static __attribute__((always_inline)) int is_ours(const struct __sk_buff *packet,
						  const struct iphdr *ip)
{
	const __u32 offset = ip->ihl * 4;
	struct ports ports;
	struct icmp icmp;

	switch (ip->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
		return load(packet, offset, &ports, sizeof(ports)) &&
		       is_taken(ip->protocol, ntohs(ports.destination));
	case IPPROTO_ICMP:
		if (!load(packet, offset, &icmp, sizeof(icmp)))
			return 0;
		switch (icmp.type) {
		case ECHO_REPLY:
			return is_our_id(icmp.echo_id);
		case DESTINATION_UNREACHABLE:
		case SOURCE_QUENCH:
		case TIME_EXCEEDED:
		case PARAMETER_PROBLEM:
			return quotes_ours(packet, offset + sizeof(icmp));
		default:
			return 0;
		}
	default:
		return is_portless(ip->protocol);
	}
}

/* The same for any part of one. Later fragments go where their first one went. */
static __attribute__((always_inline)) int follows_ours(const struct __sk_buff *packet,
						       const struct iphdr *ip)
{
	const struct datagram datagram = {
		.source = ip->saddr,
		.destination = ip->daddr,
		.id = ip->id,
		.protocol = ip->protocol,
	};
	const __u64 now = bpf_ktime_get_ns();
	const __u64 *began;

	if (ip->frag_off & htons(FRAGMENT_OFFSET)) {
		began = bpf_map_lookup_elem(&fragmented, &datagram);
		return began && now - *began < FRAGMENTS_LIVE;
	}
	if (is_ours(packet, ip)) {
		bpf_map_update_elem(&fragmented, &datagram, &now, BPF_ANY);
		return 1;
	}
	/* Identifiers come again. */
	bpf_map_delete_elem(&fragmented, &datagram);
	return 0;
}

SEC("tc")
int sarcenet_divert(struct __sk_buff *packet)
{
	struct iphdr ip;
	int ours;

	if (packet->protocol != htons(ETH_P_IP) || packet->vlan_present ||
	    packet->pkt_type != PACKET_HOST)
		return TC_ACT_UNSPEC;
	if (!load(packet, 0, &ip, sizeof(ip)))
		return TC_ACT_UNSPEC;
	if (ip.version != 4 || ip.ihl < 5)
		return TC_ACT_UNSPEC;
	if (ip.daddr != cell.underlay)
		ours = packet->ifindex != LOOPBACK && ip.daddr != cell.subnet &&
		       (ip.daddr & cell.subnet_mask) == cell.subnet;
	else if ((ip.saddr & htonl(0xff000000)) == htonl(0x7f000000))
		/* The kernel takes such a source from no interface but loopback: this would be lost. */
		ours = 0;
	else if (ip.frag_off & htons(MORE_FRAGMENTS | FRAGMENT_OFFSET))
		ours = follows_ours(packet, &ip);
	else
		ours = is_ours(packet, &ip);
	/* TC_ACT_UNSPEC: go on with the next filter. */
	return ours ? bpf_redirect(cell.door, 0) : TC_ACT_UNSPEC;
}

const char divert_license[] SEC("license") = "Apache-2.0";
