// Package guard decides how a machine is defended whose connection-tracking
// table is under attack. It is a policy: readings of the machine in, levels,
// reasons and actions out. It reads no clock and touches nothing; time comes
// with each [Reading], and what became of an [Action] comes back as a [Result].
//
// The same readings and results give the same decisions, so the policy runs
// against the model of the kernel as it runs against a kernel.
//
// What it may do is ordered from the softest means to the hardest, and every
// means has its undo: see [Kind].
package guard
