// Package simdiff compares package sim with the running kernel: the same
// packets, at the same spacing, through a namespace that tracks connections
// and through the model.
//
// Many sequences run side by side in one namespace, each between addresses of
// its own. The packets come from packet sockets, are forwarded by the tracking
// namespace, and are caught behind it, marked by rules with what connection
// tracking made of them; a packet that does not arrive was dropped. After every
// step the kernel's table is read and compared with the model's, entry by
// entry.
//
// Timeouts pass in real time here, so they are set to a few seconds where a
// sequence is to outlive them. A sequence whose comparison fails runs again
// among few others, and only what fails again counts: a machine under load can
// delay a packet beyond the edge of a timeout.
//
// Real programs are compared by their captures: tcpdump listens where packets
// enter the tracking host, the capture is played into the model, and what is in
// the two tables at the end is compared.
package simdiff
