package klog

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// corpus is n bytes of what servers log, without any message of ours.
func corpus(n int) []byte {
	r := rand.New(rand.NewPCG(1, 1))
	formats := []string{
		"sshd[%d]: Accepted publickey for deploy from 10.0.%d.7 port 51622 ssh2: ED25519 SHA256:q3Zk9",
		"systemd[1]: Started Session %d of user root (%d).",
		"kernel: [%d.123456] IN=eth0 OUT= MAC=52:54:00 SRC=10.0.%d.1 DST=10.0.0.2 LEN=60 TTL=64 PROTO=TCP SPT=4433 DPT=80 WINDOW=64240 SYN",
		"nginx[%d]: 192.0.2.%d - - \"GET /api/v1/items?page=3 HTTP/1.1\" 200 5123 \"-\" \"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit\"",
		"CRON[%d]: (root) CMD (command -v debian-sa1 > /dev/null && debian-sa1 %d 1)",
		"dockerd[%d]: time=\"2025-11-22T09:00:%02d.123Z\" level=warning msg=\"table of contents supplied callback memory\"",
	}
	var b bytes.Buffer
	b.Grow(n + 512)
	for b.Len() < n {
		fmt.Fprintf(&b, "Nov 22 10:%02d:%02d web%d ", r.IntN(60), r.IntN(60), r.IntN(4))
		fmt.Fprintf(&b, formats[r.IntN(len(formats))], r.IntN(100000), r.IntN(255))
		b.WriteByte('\n')
	}
	return b.Bytes()
}

func BenchmarkFind(b *testing.B) {
	f := newFinder(needles)
	text := corpus(64 << 20)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		for o := 0; o < len(text); o += 512 << 10 {
			f.find(text[o:min(o+512<<10, len(text))], nil)
		}
	}
}
