package ct

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"testing"
	"time"
)

func TestSnapshotJSONRoundTrip(t *testing.T) {
	s := Snapshot{
		Time: time.Unix(1790000000, 0).UTC(), Host: "gw1", Release: "6.18.44", Version: KernelVersion{6, 18, 44},
		Netns:    Netns{Inode: 4026531840, Initial: Yes},
		Limits:   Limits{Count: Known(5000), Max: Known(5000), MaxWritable: No},
		Tracking: Tracking{ModuleLoaded: Yes, Active: Unknown, NAT: No, Users: []string{"nft inet filter input: ct state"}},
		Census: &Census{
			Entries: 10, Complete: true, V4: 10,
			Classes: []Class{
				{ClassKey: ClassKey{Proto: TCP, State: TCPSynSent}, Entries: 7, IdleKnown: 5, IdleOver: [4]uint64{4, 3, 2, 1}},
				{ClassKey: ClassKey{Proto: UDP, Replied: true, NAT: true}, Entries: 3},
			},
			Sources: []Heavy{{Prefix: netip.MustParsePrefix("10.0.3.7/32"), Entries: 7, Error: 1, HalfOpen: 7,
				MainProto: TCP, MainPort: 80, MainPortShare: 0.5, DistinctPeers: 6}},
			Ports: []Heavy{{Proto: TCP, Port: 80, Entries: 7}},
		},
		Rates: &Rates{Interval: 2 * time.Second, CountStart: Known(1), CountEnd: Known(2), Panel: true,
			MeanLifetime: 1500 * time.Millisecond, BirthsByClass: []ClassRate{{ClassKey{Proto: TCP, State: TCPSynSent}, 2.5}}},
		SelfAddresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")},
	}
	s.Timeouts.Set(TimeoutUDP, 30)
	s.Counters.SetByName("drop", 12)
	s.Rates.Counters.SetByName("drop", 3)
	b, err := json.Marshal(&s)
	if err != nil {
		t.Fatal(err)
	}
	var got Snapshot
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	if !reflect.DeepEqual(got, s) {
		t.Errorf("round trip changed the snapshot:\n got %+v\nwant %+v\n%s", got, s, b)
	}
}

func TestClassJSONRefusesUnknownState(t *testing.T) {
	var c Class
	if err := json.Unmarshal([]byte(`{"proto":"tcp","state":"HALF_SHUT","entries":1}`), &c); err == nil {
		t.Error("a state that no kernel knows was accepted")
	}
}
