/* SPDX-License-Identifier: Apache-2.0
 *
 * What the programs share: definitions that libbpf's headers would give, written out so that the
 * kernel's own headers are all that is needed to compile them, and the ports that the dataplane
 * has taken.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int (*name)[value]
#define __type(name, type) __typeof__(type) *name

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define htons(value) __builtin_bswap16(value)
#define ntohs(value) __builtin_bswap16(value)
#define htonl(value) __builtin_bswap32(value)
#else
#define htons(value) (value)
#define ntohs(value) (value)
#define htonl(value) (value)
#endif

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;

/* The IPv4 header's fragment field: "more fragments", and the offset. */
#define MORE_FRAGMENTS 0x2000
#define FRAGMENT_OFFSET 0x1fff

#define PORTS_PER_WORD 64
#define WORDS_PER_PROTOCOL (65536 / PORTS_PER_WORD)

/* A bit for each port that the dataplane has taken: 1024 words for TCP, then 1024 for UDP. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * WORDS_PER_PROTOCOL);
	__type(key, __u32);
	__type(value, __u64);
} taken_ports SEC(".maps");

/* The ports of a TCP or UDP header. */
struct ports {
	__be16 source;
	__be16 destination;
};

static __attribute__((always_inline)) int is_taken(__u8 protocol, __u16 port)
{
	__u32 word = port / PORTS_PER_WORD + (protocol == IPPROTO_UDP ? WORDS_PER_PROTOCOL : 0);
	const __u64 *bits = bpf_map_lookup_elem(&taken_ports, &word);

	return bits && *bits >> port % PORTS_PER_WORD & 1;
}
