package guardtable

import (
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/ctwarden/ctwarden/internal/kernel/netns"
)

const (
	chainTrial, setTrial      = "trial", "trial_count"
	counterOver, counterUnder = "trial_over", "trial_under"

	// trialLimit is far above what a kernel that counts right ever holds: 64
	// flows between two clearings, and what another CPU has just added.
	trialLimit, trialPackets, trials = 200, 600, 3
)

// trialAddress is an address of this host, as all of 127.0.0.0/8 are, that
// nobody else uses.
var trialAddress = [4]byte{127, 83, 67, 84}

// tryCount tells whether the kernel's ct count forgets flows as fast as they
// end. From 5.19 until a repair of December 2025 (commit 21d033e47273, in some
// stable kernels too) it forgot at most nine in a clock tick, so that a source
// that begins and ends more is refused whatever it has.
//
// It finds out with datagrams to an unused address of the loopback, which a
// rule of our own counts and drops. A dropped flow has ended before the next
// begins, so that more than most at a time, if that is more than a few, are a
// wrong count.
func (t *Table) tryCount(most uint32) answer {
	p := parts{&batch{}, Name}
	p.newCounter(counterOver)
	p.newCounter(counterUnder)
	p.newSet(setTrial, setKey{bits: 32}, 1, 0)
	p.newChain(chainTrial, &hook{hookOutput, priorityNew})
	ours := rule(nil).proto(unix.IPPROTO_UDP).meta(unix.NFT_META_NFPROTO).cmp(unix.NFT_CMP_EQ, unix.NFPROTO_IPV4).
		payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 16, 4).cmp(unix.NFT_CMP_EQ, trialAddress[:]...)
	p.newRule(chainTrial, ours.countOver(setTrial, most).object(objCounter, counterOver).drop(), "too many")
	p.newRule(chainTrial, ours.object(objCounter, counterUnder).drop(), "the rest")
	if t.sock.commit(p.batch, false) != nil {
		return no
	}
	defer t.endTrial()
	// A thread that moves to another CPU spoils a trial, so that only one in
	// three must succeed.
	for range trials {
		if got := t.trial(); got != no {
			return got
		}
	}
	return no
}

// tryElsewhere makes the trial in a namespace of its own: how the kernel counts
// is the same everywhere, and there the table is empty.
func tryElsewhere() (got answer) {
	got = untold
	_ = netns.Scratch(func() (err error) { // untold is what became of it then
		t := &Table{}
		if t.sock, err = dial(); err != nil {
			return err
		}
		defer t.sock.close()
		if t.port, err = t.sock.portID(); err != nil {
			return err
		}
		if err = t.found(0); refusesOwner(err) {
			t.persistent = true // it goes with the namespace
			err = t.found(0)
		}
		if err == nil {
			got = t.tryCount(trialLimit)
		}
		return err
	})
	return got
}

func (t *Table) endTrial() {
	p := parts{&batch{}, Name}
	p.emptyChain(chainTrial)
	p.deleteChain(chainTrial)
	p.deleteSet(setTrial)
	p.deleteCounter(counterOver)
	p.deleteCounter(counterUnder)
	// Left in place it would drop nothing but our own datagrams.
	_ = t.sock.commit(p.batch, false)
}

// trial sends the datagrams. It is untold where they did not come as far as our
// rules.
func (t *Table) trial() answer {
	overBefore, _ := t.counter(counterOver)
	before := t.tried()
	if err := netns.Do(t.ref, t.sendTrial); err != nil {
		return untold
	}
	over, err := t.counter(counterOver)
	switch {
	case err != nil || t.tried() < before+trialPackets/2:
		return untold
	case over > overBefore:
		return no
	}
	return yes
}

// tried is how many datagrams our rules have seen.
func (t *Table) tried() uint64 {
	over, err1 := t.counter(counterOver)
	under, err2 := t.counter(counterUnder)
	if err1 != nil || err2 != nil {
		return 0
	}
	return over + under
}

func (t *Table) sendTrial() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := t.tried()
	for i := range trialPackets {
		// Being dropped comes back as EPERM; the counters tell what happened.
		_ = unix.Sendto(fd, []byte{0}, 0, &unix.SockaddrInet4{Port: 1024 + i, Addr: trialAddress})
		// Where the table is full or the loopback down, one is enough.
		if i == 0 && t.tried() == before {
			return nil
		}
	}
	return nil
}
