package pulse

import (
	"strings"
	"testing"
)

func TestParseResets(t *testing.T) {
	const snmp = `Ip: Forwarding DefaultTTL
Ip: 1 64
Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors
Tcp: 1 200 120000 -1 10 20 3 4 5 600 700 8 0 9 0
`
	if n, err := ParseResets(strings.NewReader(snmp)); n != 13 || err != nil {
		t.Errorf("%d, %v; want 13", n, err)
	}
	if _, err := ParseResets(strings.NewReader("Udp: a\nUdp: 1\n")); err == nil {
		t.Error("no error without TCP lines")
	}
}

func FuzzParseResets(f *testing.F) {
	f.Add("Tcp: OutRsts\nTcp: 1\n")
	f.Fuzz(func(t *testing.T, s string) {
		ParseResets(strings.NewReader(s))
	})
}
