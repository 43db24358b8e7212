// Package guardd is the daemon around the policy of package guard: it reads the
// machine ten times a second, hands the readings to the policy, carries out what
// the policy decides, tells it what came of it, and puts everything back.
//
// Two parts are kept apart. What reads (watch.go, panel.go, around.go) cannot
// write. What writes is a [hands], which exists only while the guard enforces.
//
// Every write is on record before it happens. For the limit one operation of the
// journal stands for all: it names the value found and, by it, every value that
// the guard may write, so that under fire no disk is needed.
package guardd
