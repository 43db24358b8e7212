package boottest

import (
	"os"
	"strings"
	"testing"
)

// A guard that hangs is killed by systemd's watchdog and started again, as the
// packaged unit says. The new one takes over the limit that the table needs, where
// undoing it would lock the table; stopped when the table has drained, it leaves
// the limit as it was found.
func TestWatchdogRestartsTheGuard(t *testing.T) {
	long(t)
	unit, err := os.ReadFile("../../../packaging/systemd/ctwarden-guard.service")
	if err != nil {
		t.Fatal(err)
	}
	out := system(t, track+`
pid() { systemctl show -p MainPID --value ctwarden-guard; }
count() { sysctl -n net.netfilter.nf_conntrack_count; }
# Entries from $1 to $2, a hundred at a time.
fill() {
  for from in $(seq $1 100 $2); do
    for i in $(seq $from $((from+99))); do
      echo "-I -s 10.7.$((i/250)).$((i%250+1)) -d 192.0.2.1 -p tcp --sport $((1024+i)) --dport 80 --state ESTABLISHED -u SEEN_REPLY,ASSURED -t 3600"
    done > /tmp/fill
    conntrack -R /tmp/fill >/dev/null 2>&1; sleep 0.3
  done
}
modprobe nf_conntrack_netlink
cp /usr/local/bin/ctwarden /usr/bin/ctwarden
sysctl -q -w net.netfilter.nf_conntrack_max=2000
systemctl daemon-reload; systemctl start ctwarden-guard; echo "start $?"
fill 1 2600
echo "raised $(max)"; echo "entries $(count)"; old=$(pid)
kill -STOP $old
for i in $(seq 120); do [ "$(pid)" != $old ] && [ "$(systemctl is-active ctwarden-guard)" = active ] && break; sleep 1; done
sleep 3
echo "again $(systemctl is-active ctwarden-guard)"; [ "$(pid)" != $old ] && echo "another process"
echo "taken $(max)"
journalctl --no-pager -o cat -u ctwarden-guard | grep -E 'SIGABRT|nf_conntrack_max|timeouts back|deferred|taking over|enforces'
conntrack -D -s 10.7.0.0/16 >/dev/null 2>&1
systemctl stop ctwarden-guard; echo "stop $?"; sleep 2
echo "ended $(max)"
nft list tables; echo "tables"
ctwarden guard cleanup; echo "cleanup $?"
systemctl poweroff --force
`, false, map[string]string{
		"/etc/systemd/system/ctwarden-guard.service": string(unit),
		"/etc/ctwarden/guard.yaml":                   "mode: enforce\n",
	})
	one := between(t, out, "1")
	raised := value(t, one, "raised")
	if raised == "2000" {
		t.Errorf("the guard did not raise the limit: the test shows nothing:\n%s", one)
	}
	wants(t, one, "start 0", "again active", "another process",
		"SIGABRT: abort", // the watchdog's signal
		"revert-deferred", "taking over what a guard that ended left in place: nf_conntrack_max was 2000", "stop 0", "cleanup 0")
	if taken := value(t, one, "taken"); taken != raised {
		t.Errorf("the limit is %s after the restart, was %s before:\n%s", taken, raised, one)
	}
	if ended := value(t, one, "ended"); ended != "2000" {
		t.Errorf("the limit is %s at the end, 2000 was found:\n%s", ended, one)
	}
	if _, tables, _ := strings.Cut(one, "ended "); strings.Contains(tables, "table inet ctwarden") {
		t.Errorf("our table is left:\n%s", one)
	}
}
