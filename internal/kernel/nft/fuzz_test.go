package nft

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// attr makes an attribute of payloads.
func attr(typ uint16, payload ...[]byte) []byte {
	var p []byte
	for _, x := range payload {
		p = append(p, x...)
	}
	b := host.AppendUint16(nil, uint16(4+len(p)))
	b = host.AppendUint16(b, typ)
	b = append(b, p...)
	return append(b, make([]byte, (len(b)+3)&^3-len(b))...)
}

func u32(typ uint16, v uint32) []byte { return appendU32(nil, typ, v) }

func text(typ uint16, s string) []byte { return appendText(nil, typ, s) }

func expression(name string, data ...[]byte) []byte {
	return attr(1, text(exprName, name), attr(exprData, data...))
}

// readExpr reads one expression, wrapped as in a list.
func readExpr(list []byte) Rules {
	c := newCollector()
	r := rule{c: c, where: "here"}
	for _, e := range attrs(list).all {
		r.expr(e)
	}
	return c.finish()
}

func TestExpressionsOfKernelsToCome(t *testing.T) {
	r := readExpr(expression("ct", u32(ctDreg, 1), u32(ctKey, 999)))
	if fmt.Sprint(r.Users) != "[here: ct key 999]" || !r.MatchesState {
		t.Errorf("%+v", r)
	}
	if r := readExpr(expression("quantum", u32(1, 1))); len(r.Users) > 0 {
		t.Errorf("%+v", r)
	}
}

func TestCTTarget(t *testing.T) {
	data := make([]byte, 72)
	copy(data[xtCTTimeoutAt:], "long")
	r := readExpr(expression("target", text(compatName, "CT"), attr(compatInfo, data)))
	if fmt.Sprint(r.Users) != "[here: -j CT --timeout long]" || !r.TimeoutPolicies {
		t.Errorf("%+v", r)
	}
	host.PutUint16(data, xtCTNotrack)
	if r := readExpr(expression("target", text(compatName, "CT"), attr(compatInfo, data))); len(r.Users) > 0 || r.TimeoutPolicies {
		t.Errorf("--notrack: %+v", r)
	}
}

func TestTallyIsBounded(t *testing.T) {
	ty := make(tally)
	for i := range 3 * maxKept {
		ty.add("here", fmt.Sprint(i))
	}
	if w := ty.words(); len(ty) > maxKept || len(w) != maxTold+1 || !strings.HasPrefix(w[maxTold], "and ") {
		t.Errorf("%d kept, %d told", len(ty), len(w))
	}
}

// entry makes an entry of a legacy table.
func entry(l *layout, match, target string, verdict int32) []byte {
	var m []byte
	if match != "" {
		m = make([]byte, l.matchHead+8)
		host.PutUint16(m, uint16(len(m)))
		copy(m[2:], match)
	}
	tg := make([]byte, l.matchHead+8)
	host.PutUint16(tg, uint16(len(tg)))
	copy(tg[2:], target)
	host.PutUint32(tg[l.matchHead:], uint32(verdict))
	e := make([]byte, l.elems)
	host.PutUint16(e[l.offsets:], uint16(l.elems+len(m)))
	host.PutUint16(e[l.offsets+2:], uint16(l.elems+len(m)+len(tg)))
	return append(append(e, m...), tg...)
}

func TestLegacyTablesThatAreBroken(t *testing.T) {
	good := entry(&layout4, "conntrack", "", -1)
	for cut := 1; cut < len(good); cut++ {
		b := blob{entries: good[:cut]}
		if err := b.walk(family4, "filter", newCollector()); !errors.Is(err, ErrMalformed) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
	}
	b := blob{entries: good}
	c := newCollector()
	if err := b.walk(family4, "filter", c); err != nil || !c.rules.Drops {
		t.Errorf("whole: %v %+v", err, c.rules)
	}
}

func FuzzLegacyTable(f *testing.F) {
	f.Add(entry(&layout4, "conntrack", "", -1), uint8(family4), uint32(0))
	f.Add(entry(&layout6, "state", "MASQUERADE", 0), uint8(family6), uint32(0))
	f.Add([]byte{}, uint8(0), uint32(7))
	f.Fuzz(func(t *testing.T, entries []byte, family uint8, at uint32) {
		b := blob{entries: entries, validHooks: 31, hookEntry: [hooks]uint32{at}, underflow: [hooks]uint32{at}}
		c := newCollector()
		if err := b.walk(family, "filter", c); err != nil && !errors.Is(err, ErrMalformed) {
			t.Error(err)
		}
		c.finish()
	})
}

func FuzzMessages(f *testing.F) {
	body := append([]byte{familyInet, 0, 0, 0}, attr(ruleExprs,
		expression("nat", u32(natType, 1), u32(natAddrMin, 1)),
		expression("immediate", u32(immediateDreg, 1), attr(immediateData, attr(dataValue, []byte{192, 0, 2, 1}))),
		expression("lookup", text(lookupSet, "m"), u32(lookupDreg, 0)),
		expression("dynset", attr(dynsetExprs, expression("connlimit"))),
		expression("match", text(compatName, "state")))...)
	msg := request(uint16(subsysTables)<<8|getRule, familyInet, 1, nil)[:headerLen]
	msg = append(msg, body...)
	host.PutUint32(msg, uint32(len(msg)))
	f.Add(msg)
	f.Add(msg[:20])
	f.Add(append(make([]byte, headerLen+nfgenLen), attr(ruleExprs, from10, tcp23, drop)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		t1 := tables{parent: newCollector()}
		for _, each := range []func(uint8, attrs){t1.chain, t1.set, t1.object, t1.flowTable, t1.rule, t1.elements} {
			t1.begin()
			_, _, err := messages(b, 1, each)
			if err != nil && !errors.Is(err, ErrMalformed) && !strings.Contains(err.Error(), "netlink") {
				t.Error(err)
			}
			t1.keep()
		}
		t1.parent.finish()
		for _, family := range []uint8{familyInet, family4, family6} {
			termsOf(family, attrs(b[min(len(b), headerLen+nfgenLen):]).get(ruleExprs)).rule()
		}
	})
}
