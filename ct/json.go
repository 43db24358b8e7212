package ct

import (
	"encoding/json"
	"fmt"
)

// MarshalJSON writes the number, or null if it is unknown.
func (v Value) MarshalJSON() ([]byte, error) {
	if !v.Known {
		return []byte("null"), nil
	}
	return json.Marshal(v.N)
}

// UnmarshalJSON reads a number or null.
func (v *Value) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*v = Value{}
		return nil
	}
	if err := json.Unmarshal(b, &v.N); err != nil {
		return err
	}
	v.Known = true
	return nil
}

// MarshalJSON writes true, false or null.
func (t Tri) MarshalJSON() ([]byte, error) {
	switch t {
	case Yes:
		return []byte("true"), nil
	case No:
		return []byte("false"), nil
	}
	return []byte("null"), nil
}

// UnmarshalJSON reads true, false or null.
func (t *Tri) UnmarshalJSON(b []byte) error {
	switch string(b) {
	case "true":
		*t = Yes
	case "false":
		*t = No
	case "null":
		*t = Unknown
	default:
		return fmt.Errorf("%s is neither true, false nor null", b)
	}
	return nil
}

// MarshalText writes the protocol's name.
func (p Proto) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads a protocol's name or number.
func (p *Proto) UnmarshalText(b []byte) error {
	q, ok := ParseProto(string(b))
	if !ok {
		return fmt.Errorf("unknown protocol %q", b)
	}
	*p = q
	return nil
}

// MarshalJSON writes the known timeouts in seconds, by name.
func (t Timeouts) MarshalJSON() ([]byte, error) {
	m := make(map[string]int32)
	for k := range NumTimeouts {
		if s, ok := t.Get(k); ok {
			m[k.String()] = s
		}
	}
	return json.Marshal(m)
}

// UnmarshalJSON reads what MarshalJSON wrote; unknown names are an error.
func (t *Timeouts) UnmarshalJSON(b []byte) error {
	var m map[string]int32
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	*t = Timeouts{}
	for name, s := range m {
		k, ok := ParseTimeoutKey(name)
		if !ok {
			return fmt.Errorf("unknown timeout %q", name)
		}
		t.Set(k, s)
	}
	return nil
}

// MarshalJSON writes the counters that the kernel offered, by name.
func (c Counters) MarshalJSON() ([]byte, error) {
	m := make(map[string]uint32)
	for name, v := range c.All {
		m[name] = v
	}
	return json.Marshal(m)
}

// UnmarshalJSON reads what MarshalJSON wrote; unknown names are passed over.
func (c *Counters) UnmarshalJSON(b []byte) error {
	var m map[string]uint32
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	*c = Counters{}
	for name, v := range m {
		c.SetByName(name, v)
	}
	return nil
}
