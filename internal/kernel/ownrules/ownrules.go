// Package ownrules puts our own table of untracked flows into the kernel and
// takes it out again, through nft(8). It never touches another table.
package ownrules

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/ctwarden/ctwarden/internal/notrack"
)

// ErrNoNFT is returned where nft(8) is not installed.
var ErrNoNFT = errors.New("nft is not installed")

const limit = 10 * time.Second

// Table is our table in the calling thread's namespace, as a setting: its
// value is that of [notrack.Value].
type Table struct{}

// Read returns the flows that the table makes untracked, "" without a table.
func (Table) Read() (string, error) {
	out, err := nft("", "list", "table", "inet", notrack.Table)
	if err != nil {
		if strings.Contains(err.Error(), "No such file or directory") {
			return "", nil
		}
		return "", err
	}
	specs := notrack.SpecsOf(out)
	if len(specs) == 0 {
		return "a table of somebody else's making", nil
	}
	return notrack.Value(specs), nil
}

// Write replaces the table in one transaction and reads it back; "" removes it.
func (t Table) Write(value string) (string, error) {
	specs, err := notrack.ParseValue(value)
	if err != nil {
		return "", err
	}
	if _, err := nft(notrack.NFT(specs), "-f", "-"); err != nil {
		return "", err
	}
	got, err := t.Read()
	if err == nil && got != notrack.Value(specs) {
		err = fmt.Errorf("table %s holds %q after %q was written", notrack.Table, got, value)
	}
	return got, err
}

// Check reports whether the kernel and nft would take the table.
func (Table) Check(value string) error {
	specs, err := notrack.ParseValue(value)
	if err != nil {
		return err
	}
	_, err = nft(notrack.NFT(specs), "--check", "-f", "-")
	return err
}

func nft(input string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	program, err := find("nft")
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"LC_ALL=C"}
	cmd.Stdin = strings.NewReader(input)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		text := said.String()
		return "", fmt.Errorf("nft: %w: %s", err, strings.TrimSpace(text[:min(len(text), 500)]))
	}
	return out.String(), nil
}

// find looks for a program of the administrator's also where the PATH of cron
// and of a plain su does not lead.
func find(name string) (string, error) {
	for _, name := range []string{name, "/usr/sbin/" + name, "/sbin/" + name, "/usr/local/sbin/" + name} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", ErrNoNFT
}
