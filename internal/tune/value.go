package tune

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ctwarden/ctwarden/internal/notrack"
)

// ValueError is a value that must not be written.
type ValueError struct {
	Key, Value, Why string
}

func (e *ValueError) Error() string {
	return fmt.Sprintf("%s = %q: %s", e.Key, e.Value, e.Why)
}

// checkValue refuses what no plan writes: a plan may come from a file, and a
// key of its choice must not become a way to write any setting.
func checkValue(key, value string) error {
	if key == notrack.Key {
		if _, err := notrack.ParseValue(value); err != nil {
			return &ValueError{key, value, err.Error()}
		}
		return nil
	}
	name, ours := strings.CutPrefix(key, Prefix)
	if key == KeyHashsize {
		name, ours = "buckets", true
	}
	if !ours {
		return &ValueError{key, value, "not a setting of connection tracking"}
	}
	n, err := strconv.ParseInt(value, 10, 32)
	if err != nil {
		return &ValueError{key, value, "not a whole number within the kernel's range"}
	}
	var lowest int64
	switch {
	case name == "max":
		lowest = 100 // below it the kernel's gc does not help, and 0 is no limit
	case name == "buckets":
		lowest = 1
	case strings.Contains(name, "timeout"):
		lowest = 1
		if n > int64(MaxTimeout/time.Second) {
			return &ValueError{key, value, "more seconds than a kernel of 1000 Hz takes"}
		}
	case name == "tcp_max_retrans":
		lowest = 1
	case name == "count":
		return &ValueError{key, value, "read-only: it counts the entries"}
	case !plainKnobs[name]:
		return &ValueError{key, value, "not a setting that a plan may write"}
	}
	if n < lowest {
		return &ValueError{key, value, fmt.Sprintf("below %d it does harm", lowest)}
	}
	return nil
}

// plainKnobs may be written with any value from 0.
var plainKnobs = map[string]bool{"tcp_loose": true, "tcp_be_liberal": true, "acct": true,
	"timestamp": true, "log_invalid": true, "checksum": true, "events": true}
