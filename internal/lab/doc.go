// Package lab is the laboratory for tests against the running kernel: network
// namespaces joined by veth pairs, connection-tracking tables filled to any
// mix of entries, traffic of every kind that fills a table in real life, and
// the global limits changed under a lock.
//
// It holds to three rules. Traffic is made only by a [Host], which only this
// package can make and which lives in a namespace that the laboratory created;
// there is no way to aim a generator at anything else. Everything made is
// removed when the test ends, and what a killed run left behind is removed by
// the next run (see [Require]). The global limits are changed only under a
// machine-wide lock, noted in a journal beforehand, and restored at the end of
// the test or by the next run.
//
// A failure of the laboratory itself ends the test with Fatal.
package lab
