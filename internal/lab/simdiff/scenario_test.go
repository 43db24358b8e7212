package simdiff

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/ctwarden/ctwarden/internal/lab"
	"github.com/ctwarden/ctwarden/sim/simtest"
)

var update = flag.Bool("update", false, "rewrite the outcomes in sim/testdata from the running kernel")

// TestScenarios plays the scenario files of package sim on the running kernel.
// The model has its turn in package sim, without root.
func TestScenarios(t *testing.T) {
	lab.Require(t, "conntrack")
	lab.SharedLimits(t)
	files, err := filepath.Glob("../../../sim/testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	top, rigs := t, map[bool]*Rig{}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			s := readScenario(t, file)
			if rigs[s.NAT] == nil {
				rigs[s.NAT] = NewRig(top, s.NAT)
			}
			kernel, model := rigs[s.NAT].Play(s, runningEra(t))
			if *update {
				if err := os.WriteFile(file, []byte(s.With(kernel)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			for i := range s.Cases {
				c := &s.Cases[i]
				for step := range c.Sequence.Steps {
					if k := kernel[i][step]; !*update && !simtest.Agree(k, c.Want[step]) {
						t.Errorf("%s: %s\n  kernel %s\n  file   %s", c.Name, c.Sequence.Steps[step].String(), joined(k), joined(c.Want[step]))
					}
				}
			}
			compareCases(t, s, kernel, model)
		})
	}
}

func compareCases(t *testing.T, s *simtest.Scenario, kernel, model [][][]string) {
	t.Helper()
	for i := range s.Cases {
		c := &s.Cases[i]
		for step := range c.Sequence.Steps {
			if k, m := kernel[i][step], model[i][step]; !simtest.Agree(k, m) {
				t.Errorf("%s: %s\n  kernel %s\n  model  %s", c.Name, c.Sequence.Steps[step].String(), joined(k), joined(m))
			}
		}
	}
}

func readScenario(t *testing.T, file string) *simtest.Scenario {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, err := simtest.ParseScenario(f)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return s
}
