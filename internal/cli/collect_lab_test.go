package cli

import (
	"archive/tar"
	"bytes"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/lab"
)

// TestCollectAnonymized collects a namespace whose table, interfaces and logs
// hold thousands of addresses, and searches the archive for every one of them,
// and for the names of the machine and of a host in the log. The report that
// it gives is that of the archive with the names, but for them.
func TestCollectAnonymized(t *testing.T) {
	lab.Require(t, "ip", "conntrack")
	lab.SharedLimits(t)
	h := lab.Gateway(t).Gateway
	h.Fill(
		lab.Class{Count: 3000, Proto: ct.UDP, Sources: netip.MustParsePrefix("10.77.1.0/24"), Targets: netip.MustParsePrefix("198.51.100.0/24"), TimeoutSeconds: 3000},
		lab.Class{Count: 300, Sources: netip.MustParsePrefix("192.168.5.0/24"), Targets: netip.MustParsePrefix("93.184.215.14/32"), State: ct.TCPEstablished, Status: ct.StatusSeenReply},
		lab.Class{Count: 300, Proto: ct.UDP, Sources: netip.MustParsePrefix("fd77::/64"), Targets: netip.MustParsePrefix("2001:db8:77::1/128"), TimeoutSeconds: 3000})
	dir := t.TempDir()
	log := filepath.Join(dir, "kern.log")
	text := "2026-11-22T10:00:00+00:00 secretgw kernel: nf_conntrack: nf_conntrack: table full, dropping packet\n" +
		"2026-11-22T10:00:01+00:00 secretgw kernel: TCP: request_sock_TCP: Possible SYN flooding on port 172.20.9.1:80. Sending cookies.\n"
	if err := os.WriteFile(log, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	open, hidden := filepath.Join(dir, "open.tar.zst"), filepath.Join(dir, "hidden.tar.zst")
	for _, args := range [][]string{{"-o", open}, {"--anonymize", "-o", hidden}} {
		args = append([]string{"collect", "--netns", h.Path(), "--full", "--observe", "0", "--log", log}, args...)
		if code, _, stderr := runCommand(args...); code != ExitOK {
			t.Fatalf("%v: exit code %d\n%s", args, code, stderr)
		}
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	secrets := append(addressesIn(t, h), "172.20.9.1", "secretgw")
	if len(host) > 3 { // a shorter one is a part of other words
		secrets = append(secrets, host)
	}
	if len(secrets) < 500 {
		t.Fatalf("only %d addresses to look for", len(secrets))
	}
	said := func(archive string) int {
		found := 0
		words := regexp.MustCompile(`[0-9A-Za-z.:_-]+`).FindAllString(archive, -1)
		have := make(map[string]bool, len(words))
		for _, w := range words {
			have[strings.TrimRight(w, ".:")] = true
			have[strings.TrimSuffix(w, ":80")] = true
		}
		for _, s := range secrets {
			if have[s] {
				found++
				if found < 5 {
					t.Logf("in it: %s", s)
				}
			}
		}
		return found
	}
	if n := said(members(t, open)); n < 20 {
		t.Errorf("the archive with the names holds %d of them: the search is blind", n)
	}
	if n := said(members(t, hidden)); n > 0 {
		t.Errorf("the anonymized archive holds %d of %d originals", n, len(secrets))
	}
	_, first, _ := runCommand("check", "--from", open)
	_, second, _ := runCommand("check", "--from", hidden)
	shape := regexp.MustCompile(`[0-9a-f.:]{7,}|host-[0-9]+|secretgw|\s+`)
	if a, b := shape.ReplaceAllString(first, ""), shape.ReplaceAllString(second, ""); strings.ReplaceAll(a, host, "") != strings.ReplaceAll(b, host, "") {
		t.Errorf("the reports differ in more than names:\n%s\n%s", first, second)
	}
}

// addressesIn are all addresses of a namespace's table and interfaces.
func addressesIn(t *testing.T, h *lab.Host) []string {
	t.Helper()
	text := strings.Join(h.ConntrackList(), "\n") + strings.Join(h.ConntrackList("-f", "ipv6"), "\n") + h.Exec("ip", "-o", "address")
	var all []string
	for _, w := range regexp.MustCompile(`[0-9a-f.:]{3,}`).FindAllString(text, -1) {
		a, err := netip.ParseAddr(w)
		if err == nil && !a.IsLoopback() && !a.IsUnspecified() && !a.IsLinkLocalUnicast() {
			all = append(all, a.String())
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// members is all that an archive holds, names too.
func members(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	var b strings.Builder
	for r := tar.NewReader(z); ; {
		head, err := r.Next()
		if err == io.EOF {
			return b.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(head.Name + "\n")
		if _, err := io.Copy(&b, r); err != nil {
			t.Fatal(err)
		}
	}
}
