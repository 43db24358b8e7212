// Package sim is a model of Linux connection tracking, nf_conntrack: packets
// in, verdicts and events out.
//
// The model does no input or output, reads no clock and draws no global
// randomness. Time and seed are arguments, so the same configuration and the
// same packets give the same result, bit for bit. Where the kernel is random
// (the bucket of a flow, the chain limit, the phase of garbage collection) the
// model draws from the seed with the same distribution: it predicts states,
// timeouts and verdicts exactly, and which entry is evicted only in
// distribution.
//
// What differs between kernels is data: see [Era]. An era that no laboratory
// kernel has confirmed says so in [Era.Confirmed].
//
// Not modelled: expectations and helpers (FTP, SIP, PPTP call maps), sequence
// number adjustment, SYNPROXY, flow tables, conntrack templates other than
// zones, and fragments (the kernel reassembles before it tracks; so must the
// caller).
package sim
