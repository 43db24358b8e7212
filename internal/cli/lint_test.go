package cli

import (
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// badPlaces hold one bad line each, in every place from which a machine takes
// settings at boot.
var badPlaces = map[string]string{
	"proc/cmdline":                          "quiet nf_conntrack.max=5\n",
	"etc/modprobe.d/a.conf":                 "options nf_conntrack nf_conntrack_max=5\n",
	"run/modprobe.d/b.conf":                 "options nf_conntrack nf_conntrack_max=5\n",
	"usr/local/lib/modprobe.d/c.conf":       "options nf_conntrack nf_conntrack_max=5\n",
	"usr/lib/modprobe.d/d.conf":             "options nf_conntrack nf_conntrack_max=5\n",
	"etc/modules":                           "ip_conntrack\n",
	"etc/modules-load.d/a.conf":             "ip_conntrack\n",
	"usr/lib/modules-load.d/b.conf":         "ip_conntrack\n",
	"etc/udev/rules.d/a.rules":              `SUBSYSTEM=="module", KERNEL=="nf_conntrack", RUN+="/sbin/sysctl -w net.netfilter.nf_conntrack_count=5"` + "\n",
	"etc/sysctl.d/a.conf":                   "net.netfilter.nf_conntrack_count=5\n",
	"run/sysctl.d/b.conf":                   "net.netfilter.nf_conntrack_count=5\n",
	"usr/local/lib/sysctl.d/c.conf":         "net.netfilter.nf_conntrack_count=5\n",
	"usr/lib/sysctl.d/d.conf":               "net.netfilter.nf_conntrack_count=5\n",
	"etc/sysctl.conf":                       "net.netfilter.nf_conntrack_count=5\n",
	"etc/ufw/sysctl.conf":                   "net/netfilter/nf_conntrack_count=5\n",
	"etc/ufw/before.rules":                  "-A PREROUTING -p udp --dport 53 -j NOTRACK\n",
	"etc/nftables.conf":                     "oifname wan masquerade\nudp dport 53 notrack\n",
	"etc/iptables/rules.v4":                 "-A PREROUTING -p udp --dport 53 -j NOTRACK\n",
	"etc/cloud/cloud.cfg.d/a.cfg":           "#cloud-config\nruncmd:\n  - conntrack -F\n",
	"etc/systemd/system/a.service":          "[Service]\nExecStart=/usr/sbin/conntrack -F\n",
	"etc/tuned/mine/tuned.conf":             "[sysctl]\nnet.netfilter.nf_conntrack_count=5\n",
	"etc/rc.local":                          "#!/bin/sh\nsysctl -w net.netfilter.nf_conntrack_count=5\n",
	"etc/crontab":                           "* * * * * root conntrack -F\n",
	"etc/cron.d/a":                          "* * * * * root conntrack -F\n",
	"etc/cron.hourly/a":                     "conntrack -F\n",
	"etc/cron.daily/a":                      "conntrack -F\n",
	"etc/cron.weekly/a":                     "conntrack -F\n",
	"etc/cron.monthly/a":                    "conntrack -F\n",
	"var/spool/cron/crontabs/root":          "* * * * * conntrack -F\n",
	"var/spool/cron/root":                   "* * * * * conntrack -F\n",
	"etc/ufw/ufw.conf":                      "ENABLED=yes\n",
	"etc/tuned/active_profile":              "mine\n",
	"usr/lib/sysctl.d/hidden.conf":          "net.netfilter.nf_conntrack_count=5\n",
	"etc/sysctl.d/hidden.conf":              "# nothing\n",
	"etc/sysctl.d/not-a-setting.conf.saved": "net.netfilter.nf_conntrack_count=5\n",
}

// quiet are those of badPlaces in which nothing is to be found.
var quiet = []string{"etc/ufw/ufw.conf", "etc/tuned/active_profile", "usr/lib/sysctl.d/hidden.conf", "etc/sysctl.d/hidden.conf",
	"etc/sysctl.d/not-a-setting.conf.saved"}

func badMachine(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range badPlaces {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func runLint(t *testing.T, args ...string) []byte {
	t.Helper()
	r := runCLI("", false, nil, append([]string{"lint"}, args...)...)
	if r.code != ExitFound {
		t.Fatalf("exit code %d: %s%s", r.code, r.out, r.err)
	}
	return []byte(r.out)
}

// TestLintReadsEveryPlace: without a name every place is read, and only what
// counts there.
func TestLintReadsEveryPlace(t *testing.T) {
	var doc struct {
		Findings []struct{ File, Severity, Code, Message string }
	}
	if err := json.Unmarshal(runLint(t, "--root", badMachine(t), "--json"), &doc); err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, f := range doc.Findings {
		found[strings.TrimPrefix(f.File, "/")] = true
	}
	for name := range badPlaces {
		if want := !slices.Contains(quiet, name); found[name] != want {
			t.Errorf("%s: found %v, want %v", name, found[name], want)
		}
	}
}

// TestLintSARIF holds the output against what SARIF 2.1.0 asks for (OASIS,
// sections 3.13, 3.14, 3.19, 3.27 and 3.28).
func TestLintSARIF(t *testing.T) {
	var log struct {
		Schema  string `json:"$schema"`
		Version string
		Runs    []struct {
			Tool struct {
				Driver struct {
					Name, Version string
					Rules         []struct{ ID string }
				}
			}
			Results []struct {
				RuleID, Level string
				Message       struct{ Text string }
				Locations     []struct {
					PhysicalLocation struct {
						ArtifactLocation struct{ URI string }
						Region           struct{ StartLine int }
					}
				}
			}
		}
	}
	if err := json.Unmarshal(runLint(t, "--root", badMachine(t), "-o", "sarif"), &log); err != nil {
		t.Fatal(err)
	}
	if log.Version != "2.1.0" || !strings.Contains(log.Schema, "sarif-2.1.0") || len(log.Runs) != 1 {
		t.Fatalf("%+v", log)
	}
	run := log.Runs[0]
	rules := map[string]int{}
	for _, r := range run.Tool.Driver.Rules {
		rules[r.ID]++
	}
	if run.Tool.Driver.Name != "ctwarden" || len(run.Results) < 20 {
		t.Errorf("driver %q, %d results", run.Tool.Driver.Name, len(run.Results))
	}
	for _, r := range run.Results {
		if rules[r.RuleID] != 1 || r.Message.Text == "" || !slices.Contains([]string{"none", "note", "warning", "error"}, r.Level) || len(r.Locations) != 1 {
			t.Fatalf("%+v, %d rules of its id", r, rules[r.RuleID])
		}
		at := r.Locations[0].PhysicalLocation
		if u, err := url.Parse(at.ArtifactLocation.URI); err != nil || u.Path == "" || at.Region.StartLine < 1 {
			t.Errorf("%+v: %v", at, err)
		}
	}
}
