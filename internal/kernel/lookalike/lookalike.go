// Package lookalike reads what can be mistaken for a full connection-tracking
// table: see ct.Lookalikes. Everything is read from /proc; only the cloud
// allowances ask the driver (ethtool).
package lookalike

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ctwarden/ctwarden/ct"
)

// Source says where to read.
type Source struct {
	Root string // a recorded machine; "" is the live one
	// Pid is a process whose network namespace is meant for the files of
	// /proc/net; 0 is the calling thread. Settings are always the thread's.
	Pid int
}

const maxFile = 4 << 20

func (s Source) read(name string) ([]byte, error) {
	f, err := os.Open(filepath.Join("/", s.Root, name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
}

func (s Source) net(name string) ([]byte, error) {
	dir := "proc/net"
	switch {
	case s.Pid != 0:
		dir = fmt.Sprintf("proc/%d/net", s.Pid)
	case s.Root == "":
		dir = "proc/thread-self/net"
	}
	return s.read(filepath.Join(dir, name))
}

// sysctl reads field i of a setting of whole numbers.
func (s Source) sysctl(key string, i int) ct.Value {
	data, err := s.read(filepath.Join("proc/sys", strings.ReplaceAll(key, ".", "/")))
	if err != nil {
		return ct.Value{}
	}
	f := strings.Fields(string(data))
	if i >= len(f) {
		return ct.Value{}
	}
	n, err := strconv.ParseInt(f[i], 10, 64)
	if err != nil {
		return ct.Value{}
	}
	return ct.Known(n)
}

// Read reads everything that can be read; what is missing stays unknown.
func (s Source) Read() ct.Lookalikes {
	var l ct.Lookalikes
	s.neighbours(&l)
	s.sockets(&l)
	l.Listeners = s.listeners()
	if s.Root == "" {
		l.Allowances = allowances()
	}
	return l
}

func (s Source) neighbours(l *ct.Lookalikes) {
	if data, err := s.net("stat/arp_cache"); err == nil {
		l.ARPEntries, l.ARPTableFulls = ParseNeighbourStat(bytes.NewReader(data))
	}
	if data, err := s.net("stat/ndisc_cache"); err == nil {
		l.NDPEntries, l.NDPTableFulls = ParseNeighbourStat(bytes.NewReader(data))
	}
	l.ARPLimit = s.sysctl("net.ipv4.neigh.default.gc_thresh3", 0)
	l.NDPLimit = s.sysctl("net.ipv6.neigh.default.gc_thresh3", 0)
}

func (s Source) sockets(l *ct.Lookalikes) {
	if data, err := s.net("netstat"); err == nil {
		ext := ParsePairs(bytes.NewReader(data))["TcpExt"]
		for name, v := range map[string]*ct.Value{
			"ListenOverflows": &l.ListenOverflows, "ListenDrops": &l.ListenDrops,
			"TCPReqQFullDoCookies": &l.ReqQFullCookies, "TCPReqQFullDrop": &l.ReqQFullDrops,
			"SyncookiesSent": &l.SyncookiesSent, "TCPAbortOnMemory": &l.AbortOnMemory,
			"TCPMemoryPressures": &l.MemoryPressures,
		} {
			if n, ok := ext[name]; ok {
				*v = ct.Known(n)
			}
		}
	}
	if data, err := s.net("sockstat"); err == nil {
		tcp := ParseSockstat(bytes.NewReader(data))["TCP"]
		for name, v := range map[string]*ct.Value{
			"mem": &l.TCPMemPages, "orphan": &l.TCPOrphans, "tw": &l.TimeWait, "inuse": &l.TCPInUse,
		} {
			if n, ok := tcp[name]; ok {
				*v = ct.Known(n)
			}
		}
	}
	l.Syncookies = s.sysctl("net.ipv4.tcp_syncookies", 0)
	l.SomaxConn = s.sysctl("net.core.somaxconn", 0)
	l.MaxSynBacklog = s.sysctl("net.ipv4.tcp_max_syn_backlog", 0)
	l.TCPMemLimitPages = s.sysctl("net.ipv4.tcp_mem", 2)
	l.TCPMaxOrphans = s.sysctl("net.ipv4.tcp_max_orphans", 0)
	l.PortFirst = s.sysctl("net.ipv4.ip_local_port_range", 0)
	l.PortLast = s.sysctl("net.ipv4.ip_local_port_range", 1)
	l.TWReuse = s.sysctl("net.ipv4.tcp_tw_reuse", 0)
}

// Netlink protocol and groups of connection tracking (linux/netlink.h,
// linux/netfilter/nfnetlink_compat.h): bits 0 to 5 are NEW, UPDATE, DESTROY
// and the three of expectations.
const (
	netlinkNetfilter = 12
	conntrackGroups  = 0x3f
)

func (s Source) listeners() []ct.EventListener {
	data, err := s.net("netlink")
	if err != nil {
		return nil
	}
	list := ParseNetlink(bytes.NewReader(data))
	for i, e := range list {
		if comm, err := s.read(fmt.Sprintf("proc/%d/comm", e.Pid)); err == nil && e.Pid > 0 {
			list[i].Comm = string(bytes.TrimSpace(comm))
		}
	}
	return list
}

// ParseNeighbourStat reads /proc/net/stat/arp_cache or ndisc_cache: a header,
// then a line of hexadecimal numbers for each CPU; entries repeat on every
// line. Refusals are unknown before 4.2, which lack the column.
func ParseNeighbourStat(r io.Reader) (entries, tableFulls ct.Value) {
	sc := bufio.NewScanner(r)
	if !sc.Scan() {
		return ct.Value{}, ct.Value{}
	}
	header := strings.Fields(sc.Text())
	for sc.Scan() {
		for i, f := range strings.Fields(sc.Text()) {
			n, err := strconv.ParseInt(f, 16, 64)
			if err != nil || i >= len(header) {
				break
			}
			switch header[i] {
			case "entries":
				entries = ct.Known(n)
			case "table_fulls":
				tableFulls = ct.Known(tableFulls.N + n)
			}
		}
	}
	return entries, tableFulls
}

// ParsePairs reads /proc/net/netstat or snmp: lines in pairs, names and then
// values, each beginning with the name of the group.
func ParsePairs(r io.Reader) map[string]map[string]int64 {
	out := make(map[string]map[string]int64)
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		names := strings.Fields(sc.Text())
		if !sc.Scan() || len(names) == 0 {
			break
		}
		values := strings.Fields(sc.Text())
		if len(values) == 0 || values[0] != names[0] {
			continue
		}
		group := make(map[string]int64)
		for i := 1; i < len(names) && i < len(values); i++ {
			if n, err := strconv.ParseInt(values[i], 10, 64); err == nil {
				group[names[i]] = n
			}
		}
		out[strings.TrimSuffix(names[0], ":")] = group
	}
	return out
}

// ParseSockstat reads /proc/net/sockstat: "TCP: inuse 1 orphan 0 …".
func ParseSockstat(r io.Reader) map[string]map[string]int64 {
	out := make(map[string]map[string]int64)
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) == 0 {
			continue
		}
		group := make(map[string]int64)
		for i := 1; i+1 < len(f); i += 2 {
			if n, err := strconv.ParseInt(f[i+1], 10, 64); err == nil {
				group[f[i]] = n
			}
		}
		out[strings.TrimSuffix(f[0], ":")] = group
	}
	return out
}

// ParseNetlink reads /proc/net/netlink by its header and keeps the sockets that
// have joined a connection-tracking group.
func ParseNetlink(r io.Reader) []ct.EventListener {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	if !sc.Scan() {
		return nil
	}
	column := make(map[string]int)
	for i, name := range strings.Fields(sc.Text()) {
		column[name] = i
	}
	var out []ct.EventListener
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		get := func(name string, base int) uint64 {
			i, ok := column[name]
			if !ok || i >= len(f) {
				return 0
			}
			n, err := strconv.ParseUint(f[i], base, 64)
			if err != nil {
				return 0
			}
			return n
		}
		groups := uint32(get("Groups", 16))
		if get("Eth", 10) != netlinkNetfilter || groups&conntrackGroups == 0 {
			continue
		}
		out = append(out, ct.EventListener{Pid: int(int32(get("Pid", 10))), Groups: groups,
			QueueBytes: get("Rmem", 10), Drops: get("Drops", 10)})
	}
	return out
}
