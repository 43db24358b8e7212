package survival

import "time"

// Params are what all runs of a series have in common.
type Params struct {
	// Peace is how long users are served before the attack, Attack how long it
	// lasts.
	Peace, Attack time.Duration
	// Max is nf_conntrack_max and the buckets, where the scenario does not say
	// otherwise.
	Max int
	// Packets, Handshakes and Exchanges bound what the attacker sends a second:
	// packets of floods, completed handshakes, short exchanges.
	Packets, Handshakes, Exchanges int
	// Users is how many new connections users begin a second.
	Users int
	// Active, Idle, Streams and Bulk are connections held through the attack:
	// with a message every second, silent, UDP with four messages a second, and
	// transfers that a slow reader holds back. Beats have a message every eight
	// seconds, as heartbeats are.
	Active, Idle, Streams, Bulk, Beats int
	// Accounting switches nf_conntrack_acct on.
	Accounting bool
	// Plain leaves out nginx and sshd, for guests that have neither.
	Plain bool
	// Binary is ctwarden, for the defences that are ours.
	Binary string
}

// Full is what is published: the rates are upper bounds that a generator may
// not reach on a small machine.
func Full() Params {
	return Params{Peace: 6 * time.Second, Attack: time.Minute, Max: 262_144,
		Packets: 80_000, Handshakes: 10_000, Exchanges: 5_000,
		Users: 100, Active: 50, Idle: 200, Streams: 10, Bulk: 4, Beats: 40}
}

// Scaled fits a small part of the same into a test.
func Scaled() Params {
	p := Full()
	p.Peace, p.Attack = 2*time.Second, 6*time.Second
	p.Max, p.Packets, p.Handshakes, p.Exchanges = 4096, 10_000, 1500, 1000
	p.Users, p.Active, p.Idle, p.Streams, p.Bulk, p.Beats = 50, 20, 60, 4, 2, 20
	return p
}

// patience is how long a user waits for an answer.
const patience = 3 * time.Second

// patientLogin is how long the administrator waits for a login.
const patientLogin = 5 * time.Second
