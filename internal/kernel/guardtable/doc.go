// Package guardtable keeps the table "inet ctwarden" of nftables, through which
// a guard changes what becomes of new flows: their timeouts, and whether those
// of named sources are let in.
//
// From Linux 5.12 the table belongs to the socket that made it (flag owner):
// nobody else can change or flush it, and the kernel removes it when the socket
// closes, whatever ended the process. On older kernels it is an ordinary table
// that stays until [Table.Close] or [Remove].
//
// Every change is one transaction: all of it holds, or nothing has changed. It
// is spoken over netlink alone; no process is started.
//
// On a kernel with modules, [Open] has the kernel load nf_tables and what the
// rules need (nft_ct, nft_connlimit, nf_conntrack). Opening is a write: only a
// guard that acts may do it.
//
// The table holds, as far as they are in use:
//
//	chain timeouts_in   prerouting -150  ct timeout objects for new flows
//	chain timeouts_out  output -150      the same for our own
//	chain syn           prerouting -310  bare SYNs, before tracking
//	chain new           prerouting -160  UDP, echo requests and counted SYNs
//	chain untrack_in    prerouting -300  flows that pass before tracking
//	chain untrack_out   output -300      the same, of their answers
//	chain refuse        the sources, one set a family and prefix length
//
// What is refused is dropped without an answer: at that point a source may be
// forged, and an answer would go to whom it names.
//
// Only bare SYNs are ever refused before tracking, and after it only packets
// that begin a flow: "ct state new" is false for established and related flows,
// for neighbour discovery and router messages (untracked), and for messages
// about a path's MTU (related or invalid). Loopback and DHCP are let through
// whatever their source.
package guardtable
