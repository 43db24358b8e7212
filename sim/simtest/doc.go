// Package simtest holds what tests of package sim share: packets as bytes on a
// wire, sequences of packets between two hosts, their random generation, and
// scenario files with the expected table.
//
// Nothing here touches the machine; the comparison with a running kernel is in
// internal/lab/simdiff.
package simtest
