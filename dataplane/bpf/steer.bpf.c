/* SPDX-License-Identifier: Apache-2.0
 *
 * Which packets of the uplink leave the kernel, and go to the dataplane by AF_XDP:
 *
 *   - UDP to the tunnel port at the cell's underlay address (VXLAN, RFC 7348);
 *   - TCP and UDP to ports at that address that the dataplane has taken: those of its source NAT,
 *     and mapped host ports. None at first.
 *
 * Of these the kernel keeps what was made on this machine and holds several UDP datagrams at once
 * (a super-packet, which never was on a wire): only the kernel knows how long each of them is, and
 * tells whoever receives from its sockets or devices. For TCP the MTU says as much.
 *
 * Everything else stays with the kernel as if this program were not there: ARP, ICMP, IPv6, VLAN,
 * other ports, other addresses, fragments (only the kernel can put them together), packets with
 * IPv4 options, and whatever is too short to say what it is. So does all traffic of a receive
 * queue that nobody reads.
 */
#include "ports.bpf.h"

static long (*bpf_redirect_map)(void *map, __u64 key, __u64 flags) = (void *)BPF_FUNC_redirect_map;

/* Both are in network byte order, and set before the program is loaded. */
const volatile struct {
	__be32 address;
	__be16 tunnel_port;
} cell;

/* The sockets, by receive queue. Its size is set before it is made. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

/* Largest inner packet of the tunnel, in bytes. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} largest SEC(".maps");

/* Outer IPv4, UDP and VXLAN headers and the inner Ethernet header (RFC 7348 section 5). */
#define TUNNEL_OVERHEAD 50

/* Whether a packet of UDP in IPv4 is longer than any that comes from a wire. */
static __attribute__((always_inline)) int is_super(const struct iphdr *ip, __u32 overhead)
{
	__u32 key = 0;
	const __u32 *mtu = bpf_map_lookup_elem(&largest, &key);

	return ip->protocol == IPPROTO_UDP && mtu && ntohs(ip->tot_len) > *mtu + overhead;
}

#define VXLAN_HEADER 8

SEC("xdp.frags")
int steer(struct xdp_md *context)
{
	const void *data = (void *)(unsigned long)context->data;
	const void *end = (void *)(unsigned long)context->data_end;
	const struct ethhdr *ethernet = data;
	const struct iphdr *ip = (const void *)(ethernet + 1);
	const struct ports *ports = (const void *)(ip + 1);

	/* At least a UDP header. */
	if ((const void *)(ports + 2) > end)
		return XDP_PASS;
	if (ethernet->h_proto != htons(ETH_P_IP))
		return XDP_PASS;
	if (ip->version != 4 || ip->ihl != 5 || ip->daddr != cell.address)
		return XDP_PASS;
	if (ip->frag_off & htons(MORE_FRAGMENTS | FRAGMENT_OFFSET))
		return XDP_PASS;
	if (ip->protocol != IPPROTO_UDP && ip->protocol != IPPROTO_TCP)
		return XDP_PASS;
	if (ip->protocol == IPPROTO_UDP && ports->destination == cell.tunnel_port) {
		const struct ethhdr *inner_ethernet = (const void *)(ports + 2) + VXLAN_HEADER;
		const struct iphdr *inner_ip = (const void *)(inner_ethernet + 1);

		if ((const void *)(inner_ip + 1) <= end &&
		    inner_ethernet->h_proto == htons(ETH_P_IP) && is_super(inner_ip, 0))
			return XDP_PASS;
	} else if (!is_taken(ip->protocol, ntohs(ports->destination)) ||
		   is_super(ip, TUNNEL_OVERHEAD)) {
		return XDP_PASS;
	}
	/* The last argument is what to do where that queue has no socket. */
	return bpf_redirect_map(&sockets, context->rx_queue_index, XDP_PASS);
}

const char steer_license[] SEC("license") = "Apache-2.0";
