package sim

import (
	"errors"
	"fmt"

	"github.com/ctwarden/ctwarden/ct"
)

// Config describes the machine. Start from [DefaultConfig].
type Config struct {
	Era Era
	// Max is nf_conntrack_max; 0 means no limit.
	Max int
	// Buckets is nf_conntrack_buckets. The kernel rounds what is written to it
	// up to a multiple of 512; the model takes any number from 1 on.
	Buckets  int
	Timeouts ct.Timeouts
	Knobs    Knobs
	// NAT rules in order; the first that matches a new flow decides, for each
	// of source and destination. A non-nil empty list means that NAT is
	// configured but nothing matches.
	NAT []NATRule
	// Scale is the part of a real table that this one stands for, above 0 and at
	// most 1; 0 is all of it. Whoever thins the traffic divides Max and Buckets
	// too, so that fill and chains stay what they are; the table then thins what
	// the kernel budgets by the pass: how much garbage collection does at a time.
	Scale float64
	// Seed drives all that the kernel draws at random.
	Seed uint64

	// Events, if not nil, is called for every entry made and destroyed, during
	// the call that causes it. It must not call the table.
	Events func(Event)
	// Log, if not nil, gets the kernel's log lines after rate limiting.
	Log func(Time, string)
	// Memory, if not nil, is told of every large piece of memory before the table
	// uses it, so that the caller may ask the system to back it with huge pages:
	// a table of millions of entries waits less then. It must leave the bytes
	// alone. Tables without Max take memory as they grow, and tell of none.
	Memory func([]byte)
}

// Knobs are the settings besides sizes and timeouts.
type Knobs struct {
	TCPLoose            bool  // pick up running connections
	TCPBeLiberal        bool  // accept what fails the window check
	TCPIgnoreInvalidRST bool  // 5.14 and later
	TCPMaxRetrans       uint8 // identical acknowledgements before the timeout is capped
	Checksum            bool  // verify the checksums of received packets
	Acct                bool  // count packets and bytes of new entries
	DCCPLoose           bool

	HZ int // the kernel's clock: 100, 250, 300 or 1000

	// PrintkBurst lines in PrintkInterval are logged: net.core.message_burst
	// and message_cost.
	PrintkBurst           int
	PrintkIntervalSeconds int
	// Netns is the inode of the namespace that the log names from 6.15 on; 0
	// for the initial namespace.
	Netns uint32
}

// DefaultKnobs returns what every kernel starts with.
func DefaultKnobs() Knobs {
	return Knobs{TCPLoose: true, TCPMaxRetrans: 3, Checksum: true, DCCPLoose: true,
		HZ: 250, PrintkBurst: 10, PrintkIntervalSeconds: 5}
}

// DefaultConfig returns the settings of a host of the era with more than 4 GiB.
func DefaultConfig(e Era) Config {
	return Config{Era: e, Max: e.DefaultMax(), Buckets: e.DefaultBuckets(),
		Timeouts: e.Timeouts(), Knobs: DefaultKnobs()}
}

// maxEntries bounds entry numbers: a chain link holds a number and a direction.
const maxEntries = 1<<30 - 2

func (c *Config) validate() error {
	switch {
	case c.Era.Name == "":
		return errors.New("no kernel era given")
	case c.Max < 0 || c.Max > maxEntries:
		return fmt.Errorf("max %d is not between 0 and %d", c.Max, maxEntries)
	case c.Buckets < 1 || c.Buckets > 1<<30:
		return fmt.Errorf("buckets %d is not between 1 and %d", c.Buckets, 1<<30)
	case c.Knobs.HZ < 1 || c.Knobs.HZ > 10000:
		return fmt.Errorf("HZ %d is not between 1 and 10000", c.Knobs.HZ)
	}
	if !(c.Scale >= 0 && c.Scale <= 1) {
		return fmt.Errorf("scale %g is not between 0 and 1", c.Scale)
	}
	for i := range c.NAT {
		if err := c.NAT[i].validate(); err != nil {
			return fmt.Errorf("NAT rule %d: %w", i+1, err)
		}
	}
	return nil
}
