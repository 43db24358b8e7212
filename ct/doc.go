// Package ct holds the plain values of Linux connection tracking: tuples,
// flows, states, timeouts, counters, limits and the snapshot of a machine.
//
// Nothing here does input or output, reads a clock or draws a random number.
// Names are those of the kernel (include/uapi/linux/netfilter/
// nf_conntrack_common.h, nf_conntrack_tcp.h and friends), so that a reader of
// either finds the way in the other.
package ct
