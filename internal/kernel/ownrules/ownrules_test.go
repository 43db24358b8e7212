package ownrules_test

import (
	"testing"

	"github.com/ctwarden/ctwarden/internal/kernel/ownrules"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// TestWithoutSbinInThePath: cron and a plain su leave it out.
func TestWithoutSbinInThePath(t *testing.T) {
	lab.Require(t, "nft")
	h := lab.NewHost(t, "nosbin")
	t.Setenv("PATH", "/nowhere")
	var table ownrules.Table
	const flow = "server udp 53"
	err := h.Do(func() error {
		if got, err := table.Write(flow); err != nil || got != flow {
			t.Errorf("%q, %v", got, err)
		}
		_, err := table.Write("")
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
