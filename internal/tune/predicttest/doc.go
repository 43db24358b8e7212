// Package predicttest holds the predictions of plans against kernels: each
// workload runs in a guest of its own kernel, in virtual time, where nobody
// else's entries set the pace of the garbage collector.
package predicttest
