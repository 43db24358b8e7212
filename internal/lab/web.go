package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Nginx serves a small page over HTTP on a port of both families until the
// test ends. keepalive false makes it close after every answer.
func (h *Host) Nginx(port uint16, keepalive bool) {
	h.t.Helper()
	dir := h.t.TempDir()
	timeout := "0"
	if keepalive {
		timeout = "60s"
	}
	conf := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log stderr crit;
events { worker_connections 4096; }
http {
	access_log off; keepalive_timeout %[3]s; keepalive_requests 1000000;
	client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s;
	uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
	server {
		listen %[2]d reuseport; listen [::]:%[2]d reuseport;
		location / { return 200 "hello\n"; }
	}
}
`, dir, port, timeout)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		h.t.Fatalf("lab: nginx: %v", err)
	}
	cmd := exec.Command("nginx", "-c", file, "-p", dir, "-e", "stderr")
	cmd.Stderr = os.Stderr
	h.Start(cmd)
	h.awaitPort(netip.AddrPortFrom(h.Addr4, port))
}

// awaitPort waits until something on this host accepts connections.
func (h *Host) awaitPort(at netip.AddrPort) {
	h.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if out, err := h.TryExec("ss", "-Hltn", "sport", "=", strconv.Itoa(int(at.Port()))); err == nil && out != "" {
			return
		}
	}
	h.t.Fatalf("lab: %s: nothing listens on %s", h.Name, at)
}

// Web is what wrk reports.
type Web struct {
	Requests int
	Errors   int // of sockets, of any kind
	// Timeouts are among the errors.
	Timeouts int
	// P50 and P99 are latencies, of paced requests only.
	P50, P99 time.Duration
}

// Wrk asks for the page again and again over so many connections for a time of
// whole seconds, half a minute at most.
func (h *Host) Wrk(target netip.AddrPort, connections int, lasting time.Duration) (Web, error) {
	seconds := min(max(int(lasting/time.Second), 1), 30)
	out, err := h.TryExec("wrk", "-t1", "-c", strconv.Itoa(connections), "-d", strconv.Itoa(seconds)+"s",
		"http://"+target.String()+"/")
	if err != nil {
		return Web{}, err
	}
	return parseWrk(out)
}

// WrkPaced asks for the page on so many connections, on each again some time after
// the answer, for at most half an hour. patience is how long an answer may take.
// That no answer came at all is no error.
func (h *Host) WrkPaced(target netip.AddrPort, connections int, pause, patience, lasting time.Duration) (Web, error) {
	h.t.Helper()
	script := filepath.Join(h.t.TempDir(), "pace.lua")
	text := fmt.Sprintf("function delay() return %d end\n", pause.Milliseconds())
	if err := os.WriteFile(script, []byte(text), 0o644); err != nil {
		return Web{}, err
	}
	seconds := min(max(int(lasting/time.Second), 1), 1800)
	// Before it begins, wrk waits for a first connection as long as the kernel does.
	out, err := h.TryExec("timeout", strconv.Itoa(seconds+5), "wrk", "-t1", "-c", strconv.Itoa(connections), "-d", strconv.Itoa(seconds)+"s", "--latency",
		"--timeout", strconv.Itoa(int(patience/time.Second))+"s", "-s", script, "http://"+target.String()+"/")
	if err != nil && !strings.Contains(out, " requests in ") {
		return Web{}, nil // it never got a connection
	}
	w, err := parseWrk(out)
	if errors.Is(err, errNoRequest) {
		err = nil
	}
	return w, err
}

var errNoRequest = errors.New("wrk made no request")

// parseWrk reads the lines
//
//	50%  636.00us
//	99%    1.06ms
//	81519 requests in 2.00s, 12.44MB read
//	Socket errors: connect 0, read 3, write 0, timeout 1
func parseWrk(out string) (w Web, err error) {
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if n, _, ok := strings.Cut(line, " requests in "); ok {
			if w.Requests, err = strconv.Atoi(n); err != nil {
				return w, fmt.Errorf("wrk: %q: %w", line, err)
			}
		}
		for percent, to := range map[string]*time.Duration{"50%": &w.P50, "99%": &w.P99} {
			if v, ok := strings.CutPrefix(line, percent); ok {
				if *to, err = time.ParseDuration(strings.TrimSpace(v)); err != nil {
					return w, fmt.Errorf("wrk: %q: %w", line, err)
				}
			}
		}
		failed, ok := strings.CutPrefix(line, "Socket errors: ")
		if !ok {
			continue
		}
		for part := range strings.SplitSeq(failed, ", ") {
			kind, count, _ := strings.Cut(part, " ")
			n, err := strconv.Atoi(count)
			if err != nil {
				return w, fmt.Errorf("wrk: %q: %w", line, err)
			}
			w.Errors += n
			if kind == "timeout" {
				w.Timeouts = n
			}
		}
	}
	if w.Requests == 0 {
		return w, fmt.Errorf("%w: %s", errNoRequest, firstLines(out, 8))
	}
	return w, nil
}
