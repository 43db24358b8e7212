package ct

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"time"
)

// MarshalText writes "6.18.44", or nothing for an unknown version.
func (v KernelVersion) MarshalText() ([]byte, error) {
	if v.IsZero() {
		return nil, nil
	}
	return []byte(v.String()), nil
}

// UnmarshalText reads what MarshalText wrote, and any release of uname.
func (v *KernelVersion) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*v = KernelVersion{}
		return nil
	}
	var err error
	*v, err = ParseKernelVersion(string(b))
	return err
}

// classKeyJSON is a ClassKey with its state by name: the number means nothing
// without the protocol.
type classKeyJSON struct {
	Proto   Proto  `json:"proto"`
	State   string `json:"state,omitempty"`
	Assured bool   `json:"assured"`
	Replied bool   `json:"replied"`
	NAT     bool   `json:"nat"`
}

func (k ClassKey) toJSON() classKeyJSON {
	return classKeyJSON{k.Proto, StateName(k.Proto, k.State), k.Assured, k.Replied, k.NAT}
}

func (j classKeyJSON) key() (ClassKey, error) {
	k := ClassKey{Proto: j.Proto, Assured: j.Assured, Replied: j.Replied, NAT: j.NAT}
	if j.State == "" {
		return k, nil
	}
	s, ok := ParseState(j.Proto, j.State)
	if !ok {
		return k, fmt.Errorf("unknown state %q of protocol %s", j.State, j.Proto)
	}
	k.State = s
	return k, nil
}

type classJSON struct {
	classKeyJSON
	Entries      uint64 `json:"entries"`
	IdleKnown    uint64 `json:"idle_known"`
	IdleOver60   uint64 `json:"idle_over_60_seconds"`
	IdleOver600  uint64 `json:"idle_over_600_seconds"`
	IdleOver3600 uint64 `json:"idle_over_3600_seconds"`
	IdleOverDay  uint64 `json:"idle_over_86400_seconds"`
}

// MarshalJSON writes the class with its state and idle bounds by name.
func (c Class) MarshalJSON() ([]byte, error) {
	return json.Marshal(classJSON{c.toJSON(), c.Entries, c.IdleKnown,
		c.IdleOver[0], c.IdleOver[1], c.IdleOver[2], c.IdleOver[3]})
}

// UnmarshalJSON reads what MarshalJSON wrote; an unknown state is an error.
func (c *Class) UnmarshalJSON(b []byte) error {
	var j classJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	k, err := j.key()
	*c = Class{ClassKey: k, Entries: j.Entries, IdleKnown: j.IdleKnown,
		IdleOver: [4]uint64{j.IdleOver60, j.IdleOver600, j.IdleOver3600, j.IdleOverDay}}
	return err
}

type classRateJSON struct {
	classKeyJSON
	PerSecond float64 `json:"per_second"`
}

// MarshalJSON writes the class by name and its rate.
func (c ClassRate) MarshalJSON() ([]byte, error) {
	return json.Marshal(classRateJSON{c.toJSON(), c.PerSecond})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (c *ClassRate) UnmarshalJSON(b []byte) error {
	var j classRateJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	k, err := j.key()
	*c = ClassRate{k, j.PerSecond}
	return err
}

type heavyJSON struct {
	Prefix        netip.Prefix `json:"prefix,omitzero"`
	Proto         Proto        `json:"proto,omitzero"`
	Port          uint16       `json:"port,omitempty"`
	Entries       uint64       `json:"entries"`
	Error         uint64       `json:"error"`
	Replied       uint64       `json:"replied"`
	Assured       uint64       `json:"assured"`
	HalfOpen      uint64       `json:"half_open"`
	Unreplied     uint64       `json:"unreplied"`
	MainProto     Proto        `json:"main_proto,omitzero"`
	MainPort      uint16       `json:"main_port,omitempty"`
	MainPortShare float64      `json:"main_port_share,omitempty"`
	DistinctPeers uint64       `json:"distinct_peers,omitempty"`
	DistinctPorts uint64       `json:"distinct_ports,omitempty"`
}

// MarshalJSON writes the heavy hitter; what does not apply is left out.
func (h Heavy) MarshalJSON() ([]byte, error) { return json.Marshal(heavyJSON(h)) }

// UnmarshalJSON reads what MarshalJSON wrote.
func (h *Heavy) UnmarshalJSON(b []byte) error { return json.Unmarshal(b, (*heavyJSON)(h)) }

type ratesJSON struct {
	IntervalSeconds     float64     `json:"interval_seconds"`
	Counters            Counters    `json:"counters"`
	CountStart          Value       `json:"count_start,omitzero"`
	CountEnd            Value       `json:"count_end,omitzero"`
	BirthsPerSecond     float64     `json:"births_per_second"`
	DeathsPerSecond     float64     `json:"deaths_per_second"`
	MeanLifetimeSeconds float64     `json:"mean_lifetime_seconds,omitempty"`
	Rearmed             float64     `json:"rearmed_share"`
	BirthsByClass       []ClassRate `json:"births_by_class,omitempty"`
	Panel               bool        `json:"panel"`
}

// MarshalJSON writes the rates with durations in seconds.
func (r Rates) MarshalJSON() ([]byte, error) {
	return json.Marshal(ratesJSON{r.Interval.Seconds(), r.Counters, r.CountStart, r.CountEnd,
		r.BirthsPerSecond, r.DeathsPerSecond, r.MeanLifetime.Seconds(), r.Rearmed,
		r.BirthsByClass, r.Panel})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (r *Rates) UnmarshalJSON(b []byte) error {
	var j ratesJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*r = Rates{seconds(j.IntervalSeconds), j.Counters, j.CountStart, j.CountEnd,
		j.BirthsPerSecond, j.DeathsPerSecond, seconds(j.MeanLifetimeSeconds), j.Rearmed,
		j.BirthsByClass, j.Panel}
	return nil
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
