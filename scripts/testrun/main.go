// Command testrun runs go test and tells briefly what happened: one line a
// package, everything about a failed test, every skipped test with its reason,
// and a count at the end. With CI=true a skip that the list of known skips does
// not explain is a failure.
//
//	testrun [-skips FILE] [-go GO] [arguments of go test]
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

func main() {
	skips := flag.String("skips", "", "file of known skips: a test, blanks, a reason on each line")
	goTool := flag.String("go", "go", "the go command")
	flag.Parse()
	failed, err := run(*goTool, *skips, flag.Args(), os.Getenv("CI") == "true")
	if err != nil {
		fmt.Fprintf(os.Stderr, "testrun: %v\n", err)
		os.Exit(2)
	}
	if failed {
		os.Exit(1)
	}
}

func run(goTool, skipsFile string, args []string, ci bool) (failed bool, err error) {
	r := newReport(os.Stdout)
	if skipsFile != "" {
		if r.known, err = readSkips(skipsFile); err != nil {
			return false, err
		}
	}
	cmd := exec.Command(goTool, append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return false, err
	}
	if err := cmd.Start(); err != nil {
		return false, err
	}
	err = r.read(out)
	if err != nil {
		_, _ = io.Copy(io.Discard, out)
	}
	var exit *exec.ExitError
	if e := cmd.Wait(); e != nil && !errors.As(e, &exit) {
		return false, e
	}
	if err != nil {
		return false, fmt.Errorf("read the events of go test: %w", err)
	}
	return r.finish(ci) || exit != nil, nil
}

// readSkips reads the list of known skips.
func readSkips(file string) (map[string]string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	known := make(map[string]string)
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		test, reason, ok := strings.Cut(line, " ")
		if reason = strings.TrimSpace(reason); !ok || reason == "" {
			return nil, fmt.Errorf("%s: %q gives no reason", file, test)
		}
		known[test] = reason
	}
	return known, nil
}

// decodeEvents calls f with each event of go test -json. Lines that are none,
// which a crashing test binary may leave, go to f as output.
func decodeEvents(in io.Reader, f func(event)) error {
	d := newLines(in)
	for {
		line, err := d.next()
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				e = event{Action: "output", Output: string(line)}
			}
			f(e)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
