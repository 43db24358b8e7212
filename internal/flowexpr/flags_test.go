package flowexpr

import (
	"strings"
	"testing"
)

func TestFlagsSelect(t *testing.T) {
	for _, tc := range []struct {
		flags Flags
		want  string
	}{
		{Flags{}, "tcp nat ping off"},
		{Flags{Family: "ipv6"}, "ping"},
		{Flags{Proto: "tcp"}, "tcp off"},
		{Flags{Proto: "17,icmpv6"}, "nat ping"},
		{Flags{Src: "10.0.0.0/8", DPort: "443"}, "tcp"},
		{Flags{Src: "10.1.2.3/8"}, "tcp off"},
		{Flags{SPort: "5000-50000"}, "tcp nat"},
		{Flags{SPort: "5000:6000,1"}, "nat off"},
		{Flags{State: "established,syn_sent"}, "tcp"},
		{Flags{Mark: "16/240"}, "tcp"},
		{Flags{Mark: "0"}, "nat ping off"},
		{Flags{Zone: "5"}, "nat"},
		{Flags{Status: "ASSURED"}, "tcp off"},
		{Flags{Status: "ASSURED,!OFFLOAD"}, "tcp"},
		{Flags{Status: "unreplied"}, "nat"},
		{Flags{Label: "3"}, "ping"},
		{Flags{SrcNAT: AnyAddress}, "nat"},
		{Flags{SrcNAT: "203.0.113.0/24"}, "nat"},
		{Flags{SrcNAT: "203.0.114.0/24"}, ""},
		{Flags{DstNAT: AnyAddress}, ""},
		{Flags{AnyNAT: AnyAddress}, "nat"},
		{Flags{AnyNAT: "203.0.113.1"}, "nat"},
		{Flags{ReplyDst: "203.0.113.1", ReplyDPort: "61000", ReplySPort: "53"}, "nat"},
		{Flags{Proto: "tcp", Where: "offloaded"}, "off"},
	} {
		s, err := tc.flags.Compile()
		if err != nil {
			t.Errorf("%+v: %v", tc.flags, err)
			continue
		}
		if got := selected(s); got != tc.want {
			t.Errorf("%+v, %s: selects %q, want %q", tc.flags, s, got, tc.want)
		}
	}
	if s, _ := (&Flags{}).Compile(); !s.Empty() {
		t.Error("no flags make no empty selection")
	}
}

func TestFlagErrorsNameTheFlag(t *testing.T) {
	for flag, o := range map[string]Flags{
		"--family": {Family: "ipx"}, "--proto": {Proto: "tpc"}, "--src": {Src: "10.0.0"},
		"--dst": {Dst: "10.0.0.0/40"}, "--sport": {SPort: "70000"}, "--dport": {DPort: "9-1"},
		"--state": {State: "OPENED"}, "--mark": {Mark: "1/0"}, "--zone": {Zone: "x"},
		"--status": {Status: "SURE"}, "--label": {Label: "128"}, "--src-nat": {SrcNAT: "1.2.3"},
		"--where": {Where: "idle > 1h"},
	} {
		_, err := o.Compile()
		if err == nil || !strings.HasPrefix(err.Error(), flag+": ") {
			t.Errorf("%s: %v", flag, err)
		}
	}
}
