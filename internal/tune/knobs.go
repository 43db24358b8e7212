package tune

import (
	"fmt"
	"strconv"

	"github.com/ctwarden/ctwarden/ct"
)

// knobs decides the settings that are neither sizes nor timeouts.
func (b *builder) knobs() {
	k := &b.s.Knobs
	b.maxRetrans(k.TCPMaxRetrans)
	if v := k.TCPLoose; v.Known {
		why := "a connection whose entry is lost (flush, failover, reboot) is picked up again in mid-stream"
		if v.N == 0 {
			why = "SYNPROXY needs it, and it keeps stray packets out; but after a flush, failover or reboot every running connection is invalid"
		}
		b.keep(keyLoose, num(v), why)
	}
	if v := k.TCPBeLiberal; v.Known {
		why := "window checks keep forged resets and data out"
		if v.N != 0 {
			why = "somebody switched the window checks off; that weakens the firewall and saves no entry, but connections may depend on it"
		}
		b.keep(keyLiberal, num(v), why)
	}
	if v := b.s.Limits.ExpectMax; v.Known {
		b.keep(keyExpectMax, num(v), "expectations of helpers (FTP, SIP), not entries")
	}
	b.optional(k)
}

// maxRetrans repairs the one value of tcp_max_retrans that does harm: 0 caps
// every established connection at tcp_timeout_max_retrans.
func (b *builder) maxRetrans(v ct.Value) {
	if !v.Known {
		return
	}
	if v.N > 0 {
		b.keep(keyMaxRetrans, num(v), "counts repeated packets; saves no entry")
		return
	}
	b.add(Item{Key: keyMaxRetrans, From: num(v), To: "3", ActsOn: "all TCP",
		Why:  "0 gives every established connection the timeout of one that repeats itself, 300 s: idle ones are cut",
		Risk: "none known: 3 is the kernel's default"})
}

func (b *builder) optional(k *ct.Knobs) {
	if k.Acct.Known && k.Acct.N == 0 {
		cost := b.s.Limits.Max.N * extensionBytes
		if b.hasExtension() {
			cost = 0 // the block that is there already has room
		}
		b.p.Optional = append(b.p.Optional, Item{Key: keyAcct, From: "0", To: "1", ActsOn: "new entries only", Live: true,
			Why:         "packets and bytes of each flow would tell who is busy and who is idle",
			Risk:        "a little work on each packet; entries that exist already never count",
			MemoryBytes: cost, Claims: b.claims(keyAcct)})
	}
	if k.LogInvalid.Known && k.LogInvalid.N != 0 {
		b.p.Optional = append(b.p.Optional, Item{Key: keyLogInvalid, From: num(k.LogInvalid), To: "0", ActsOn: "the kernel log", Live: true,
			Why:  "one line for every invalid packet, without any limit: an attacker can fill the log",
			Risk: fmt.Sprintf("no more lines for invalid packets of protocol %d", k.LogInvalid.N), Claims: b.claims(keyLogInvalid)})
	}
}

func num(v ct.Value) string {
	if !v.Known {
		return ""
	}
	return strconv.FormatInt(v.N, 10)
}
