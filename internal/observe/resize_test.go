package observe

import (
	"testing"
	"time"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// TestResizedTable resizes the hash table while it is read, and between the
// two readings of the panel. Neither may pass for a true picture.
func TestResizedTable(t *testing.T) {
	lab.Require(t)
	limits := lab.ExclusiveLimits(t)
	h := lab.NewHost(t, "resize")
	h.Fill(lab.Class{Count: 200_000, State: ct.TCPEstablished, Status: ct.StatusSeenReply | ct.StatusAssured})
	original := limits.Buckets()
	resizeAt := func(when string) func(string, float64) {
		done := false
		return func(doing string, _ float64) {
			if doing == when && !done {
				done = true
				limits.SetBuckets(limits.Buckets() / 2)
			}
		}
	}
	s := machine(t, Options{Netns: h.Path(), Full: true, Progress: resizeAt("reading the table")})
	if s.Census == nil || !s.Census.Short {
		t.Errorf("resized while it was read: %+v", s.Census)
	}
	limits.SetBuckets(original)
	s = machine(t, Options{Netns: h.Path(), Panel: 5000, Observe: 200 * time.Millisecond, Progress: resizeAt("observing")})
	if s.Rates == nil || s.Rates.Panel {
		t.Errorf("resized between the readings: %+v", s.Rates)
	}
	told(t, s, "births and deaths")
	limits.SetBuckets(original)
	if s = machine(t, Options{Netns: h.Path(), Full: true}); s.Census.Short || s.Census.Entries != 200_000 {
		t.Errorf("left alone: %+v", s.Census)
	}
}
