// Package cli is the command line: one file per command, each a thin layer
// that reads flags, calls the packages that do the work and prints a report.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Exit codes, the same for every command.
const (
	ExitOK     = 0 // fine, or done
	ExitFound  = 1 // something was found, or has drifted
	ExitFailed = 2 // could not look, or could not do it
)

// Env is everything a command may touch besides the machine itself.
type Env struct {
	Args   []string // without the program's name
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Getenv func(string) string
	Now    func() time.Time
	// StdinTTY, StdoutTTY and StderrTTY say which streams are terminals.
	StdinTTY, StdoutTTY, StderrTTY bool
	// Width is the terminal's width in columns, 80 where there is none.
	Width int
}

// NewEnv returns the environment of this process.
func NewEnv() *Env {
	e := &Env{
		Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Getenv: os.Getenv, Now: time.Now,
		StdinTTY:  term.IsTerminal(int(os.Stdin.Fd())),
		StdoutTTY: term.IsTerminal(int(os.Stdout.Fd())),
		StderrTTY: term.IsTerminal(int(os.Stderr.Fd())),
		Width:     80,
	}
	if w, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil && w > 0 {
		e.Width = w
	}
	return e
}

// ExitError ends a command with a code of its own. Err may be nil: the command
// has then said all there is to say.
type ExitError struct {
	Code int
	Err  error
}

func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

// Unwrap returns the cause.
func (e *ExitError) Unwrap() error { return e.Err }

// found is the error of a command that worked and has something to report.
var found = &ExitError{Code: ExitFound}

// HintError is an error with a line of advice, printed after it.
type HintError struct {
	Err  error
	Hint string
}

func (e *HintError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *HintError) Unwrap() error { return e.Err }

// Run executes one command line and returns the exit code.
func Run(ctx context.Context, env *Env) int {
	root := newRoot(env)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitOK
	}
	code := ExitFailed
	var exit *ExitError
	if errors.As(err, &exit) {
		code = exit.Code
		if exit.Err == nil {
			return code
		}
	}
	said := strings.TrimSpace(err.Error())
	if err == context.Canceled && ctx.Err() != nil { // wrapped, it tells more
		said = "interrupted"
	}
	fmt.Fprintf(env.Stderr, "ctwarden: %s\n", said)
	var hint *HintError
	if errors.As(err, &hint) {
		fmt.Fprintf(env.Stderr, "hint: %s\n", hint.Hint)
	}
	return code
}

func newRoot(env *Env) *cobra.Command {
	root := &cobra.Command{
		Use:           "ctwarden",
		Short:         "Why the Linux connection-tracking table fills, and what to do about it",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetArgs(env.Args)
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(flagError)
	for _, c := range registry() {
		root.AddCommand(c(env))
	}
	return root
}

// flagError advises on a flag that a command does not have.
func flagError(cmd *cobra.Command, err error) error {
	if err.Error() == "unknown flag: --netns" {
		return &HintError{err, fmt.Sprintf("%[1]s works where it runs: `ip netns exec NAME %[1]s` or, for a container, `nsenter -t PID -n %[1]s`", cmd.CommandPath())}
	}
	return &HintError{err, fmt.Sprintf("`%s --help` lists its flags", cmd.CommandPath())}
}
