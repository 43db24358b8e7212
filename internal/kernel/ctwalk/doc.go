// Package ctwalk reads the connection tracking table from inside the kernel: a
// BPF program walks the hash table and copies each entry as it lies there, and
// the copies are decoded here, by the running kernel's own description of its
// structures (BTF). ctnetlink composes some twenty attributes for every entry,
// which costs several times as much.
//
// The walk reads memory and nothing else. It takes no lock and no reference, and
// unlike a dump of ctnetlink or /proc it does not remove expired entries: it
// passes over them. What it relies on is what the kernel's own lookup relies on
// (____nf_conntrack_find): entries are SLAB_TYPESAFE_BY_RCU, each chain ends with
// the number of its bucket, and an entry must be looked at twice, because it may
// have been given to another flow meanwhile.
//
// It needs Linux 5.17 (bpf_loop), BTF, CAP_BPF and CAP_PERFMON, and a way to find
// the table: the symbol nf_conntrack_hash, or /proc/net/nf_conntrack. Where one of
// these is missing, [Open] says which, and ctnetlink does the work.
package ctwalk
