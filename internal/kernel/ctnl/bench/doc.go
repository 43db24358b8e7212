// Package bench compares the table engine with its peers, on one table in one
// run: make bench-table. It holds no code of its own besides its tests.
package bench
