// Package vm boots Debian's own kernels under qemu and runs a package's tests
// in them.
//
// A kernel is fetched once through the machine's configured Debian mirror
// ([Find]) and kept in a cache. [Kernel.Run] compiles the test binary of a
// package, packs it as init of an initramfs together with the modules and the
// programs it needs, boots it without a disk or a network, and turns what the
// guest prints into test results. In the guest, TestMain hands over to [Main].
//
// Under software emulation rates and latencies mean nothing. With
// [Options.VirtualTime] the guest's clock runs as fast as the guest is idle:
// an hour of waiting takes seconds.
package vm
