package advice

import (
	"encoding/json"
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/internal/lab/vm"
)

func TestMain(m *testing.M) { vm.Main(m) }

// resultMark begins a line of the guest's console that holds an outcome.
const resultMark = "OUTCOME "

var (
	guestScene = flag.String("advice.scene", "", "scene to run in the guest")
	guestShort = flag.Bool("advice.short", false, "times of every run")
	only       = flag.String("advice.column", "", "one column only")
)

// TestGuestTrial runs every column of one scene.
func TestGuestTrial(t *testing.T) {
	times := Whole
	if *guestShort {
		times = Short
	}
	for _, s := range Scenes() {
		if strings.ReplaceAll(s.Name, " ", "_") != *guestScene {
			continue
		}
		for _, c := range s.columns() {
			if *only != "" && c.Name != *only {
				continue
			}
			t.Run(c.Name, func(t *testing.T) {
				lab.Require(t, "ip", "nft", "conntrack")
				out, err := try(t, &s, &c, times)
				if err != nil {
					t.Fatal(err)
				}
				line, err := json.Marshal(out)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Printf("\n%s%s\n", resultMark, line)
			})
		}
	}
}
