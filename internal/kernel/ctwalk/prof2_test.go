package ctwalk_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"net/netip"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/kernel/ctnl"
	"github.com/ctwarden/ctwarden/internal/lab"
)

func TestProfCmd(t *testing.T) {
	if os.Getenv("PROFCMD") == "" {
		t.Skip()
	}
	lab.Require(t)
	l := lab.ExclusiveLimits(t)
	l.SetBuckets(1_000_000)
	l.SetMax(1_250_000)
	h := lab.NewHost(t, "prof")
	c, _ := ctnl.Dial(ctnl.Options{Netns: h.Path()})
	defer c.Close()
	b := c.NewBatch()
	for i := range 1_000_000 {
		o := ct.Tuple{Src: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), Dst: netip.AddrFrom4([4]byte{192, 0, 2, 1}),
			Proto: ct.TCP, SrcPort: uint16(1024 + i>>16), DstPort: 443}
		r, _ := o.Invert()
		b.Create(&ct.Flow{Orig: o, Reply: r, Status: ct.StatusSeenReply | ct.StatusAssured, State: ct.TCPEstablished, Fields: ct.HasProtoInfo, TimeoutSeconds: 3600})
	}
	b.Flush()
	_ = context.Background()
	for _, line := range strings.Split(os.Getenv("PROFCMD"), ";") {
		out, err := exec.Command("sh", "-c", strings.ReplaceAll(line, "NS", h.Path())).CombinedOutput()
		fmt.Println(line, string(out), err)
	}
}
