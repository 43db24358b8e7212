// Package ctnl speaks ctnetlink, the kernel's interface to the connection
// tracking table (net/netfilter/nf_conntrack_netlink.c), at the speed at which
// the kernel answers.
//
// A [Conn] is one raw netlink socket in one network namespace. Reading streams
// every entry into one [ct.Flow] that is used again for the next, without
// allocating; writing packs hundreds of messages into one system call and
// says which entries the kernel refused, and why. All of it needs
// CAP_NET_ADMIN in the user namespace that owns the network namespace, reading
// included.
//
// Nothing here makes the kernel load a module: [Dial] refuses where ctnetlink
// is not already there. Nothing here can empty the table: a deletion is built
// from a [Key] only, and a Key always holds a tuple and an id.
package ctnl
