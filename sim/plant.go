package sim

import (
	"slices"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/sim/internal/hook"
)

func init() {
	hook.Watch = func(table any, report func(hook.Cell)) { table.(*Table).watch = report }
	hook.Choose = func(table any, f func(ct.Tuple, bool) (uint16, bool)) { table.(*Table).nat.choose = f }
	hook.PlantNames = func() []string {
		var names []string
		for _, p := range plants {
			names = append(names, p.name)
		}
		return names
	}
	hook.Plant = func(era any, name string) any {
		e := era.(Era)
		i := slices.IndexFunc(plants, func(p plant) bool { return p.name == name })
		plants[i].change(&e.rules)
		e.Name += " with " + name
		return e
	}
}

// plant is a wrong rule. A comparison with the kernel that does not notice it
// compares too little.
type plant struct {
	name   string
	change func(*rules)
}

var plants = []plant{
	{"a cell of the TCP table", func(r *rules) { tcpCell(r, reply, kindFin, ct.TCPCloseWait, tw) }},
	{"an ignored SYN that is invalid", func(r *rules) { tcpCell(r, orig, kindSyn, ct.TCPEstablished, iv) }},
	{"SYN retransmissions that refresh", func(r *rules) { r.synRetransmitKeeps = false }},
	{"RST checked in closing states", func(r *rules) { r.rstClosing = false }},
	{"window failures all invalid", func(r *rules) { r.windowIgnore = false }},
	{"a window one byte too wide", func(r *rules) { r.windowSlack = 1 }},
	{"retransmissions counted one too late", func(r *rules) { r.retransSlack = 1 }},
	{"a SYN/ACK that does not start its side afresh", func(r *rules) { r.reinitSyn = false }},
	{"UDP assured at once", func(r *rules) { r.udpAssuredDelay = false }},
	{"the old SCTP table", func(r *rules) { r.sctp = sctpHeartbeatAcked }},
	{"no short timeout after invalid FINs", func(r *rules) { r.cutInvalidClose = false }},
	{"RST answering a challenge ACK unknown", func(r *rules) { r.challengeRST = false }},
}

func tcpCell(r *rules, dir int, kind tcpKind, from ct.State, to uint8) {
	next := *r.tcp
	next[dir][kind][from] = to
	r.tcp = &next
}

// observe reports a cell to the tests.
func (t *Table) observe(p ct.Proto, dir int, row, state uint8) {
	if t.watch != nil {
		t.watch(hook.Cell{Proto: p, Dir: uint8(dir), Row: row, State: ct.State(state)})
	}
}
