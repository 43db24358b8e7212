package cli

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ctwarden/ctwarden/ct"
	"github.com/ctwarden/ctwarden/internal/explain"
)

// explainSchema names the JSON form of what explain says.
const explainSchema = "ctwarden.explain/1"

// maxExplained bounds the text that is read from standard input.
const maxExplained = 1 << 20

func newExplain(env *Env) *cobra.Command {
	var out output
	var kernel string
	c := &cobra.Command{
		Use:   "explain [TEXT… | -]",
		Short: "Say what a log line, setting, counter, state or error means",
		Long: `Explains a line of the log, the name of a setting of any era, a counter, a
state, a status flag, an error, or a question: what it means on this kernel,
what it does not mean, and what to do. "-" reads standard input; without a
text all that is known is listed.

The exit code is 1 if the text is not known.`,
		Example: `  ctwarden explain 'nf_conntrack: table full, dropping packet'
  ctwarden explain net.ipv4.netfilter.ip_conntrack_tcp_timeout_established=600
  ctwarden explain 'sendto: Operation not permitted'
  ctwarden explain early_drop --kernel 5.10
  ctwarden explain 'reject or drop?'
  journalctl -k | tail -100 | ctwarden explain -`,
		RunE: func(_ *cobra.Command, args []string) error {
			format, err := out.choice()
			if err != nil {
				return err
			}
			v, err := explainedKernel(kernel)
			if err != nil {
				return err
			}
			text, err := explainedText(env, args)
			if err != nil {
				return err
			}
			if text == "" {
				return listTopics(env, format)
			}
			return explainText(env, format, text, v)
		},
	}
	c.Flags().StringVar(&kernel, "kernel", "", `kernel to explain for, as 5.15, or "any"; this one by default`)
	out.register(c.Flags(), "text", "json")
	return c
}

func explainedKernel(flag string) (ct.KernelVersion, error) {
	switch flag {
	case "":
		return runningKernel(), nil
	case "any":
		return ct.KernelVersion{}, nil
	}
	return ct.ParseKernelVersion(flag)
}

// explainedText joins the arguments, or reads standard input.
func explainedText(env *Env, args []string) (string, error) {
	if len(args) != 1 || args[0] != "-" {
		return strings.TrimSpace(strings.Join(args, " ")), nil
	}
	b, err := io.ReadAll(io.LimitReader(env.Stdin, maxExplained))
	if err != nil {
		return "", fmt.Errorf("read standard input: %w", err)
	}
	if text := strings.TrimSpace(string(b)); text != "" {
		return text, nil
	}
	return "", errors.New("standard input is empty")
}

func explainText(env *Env, format, text string, v ct.KernelVersion) error {
	topics := explain.For(text, v)
	var like []string
	if len(topics) == 0 {
		like = explain.Suggest(text)
	}
	if format == "json" {
		if topics == nil {
			topics = []explain.Topic{}
		}
		err := writeJSON(env, struct {
			head
			For         string          `json:"explained_for"` // a kernel, "" for any
			Topics      []explain.Topic `json:"topics"`
			Suggestions []string        `json:"suggestions,omitempty"`
		}{newHead(env, explainSchema), versionText(v), topics, like})
		if err == nil && len(topics) == 0 {
			err = found
		}
		return err
	}
	if len(topics) > 0 {
		return explain.Write(env.Stdout, topics, env.Width)
	}
	fmt.Fprintf(env.Stderr, "ctwarden: not known: %q\n", firstLine(text))
	if len(like) > 0 {
		fmt.Fprintf(env.Stderr, "hint: do you mean %s?\n", strings.Join(like, ", "))
	} else {
		fmt.Fprintln(env.Stderr, "hint: ctwarden explain without a text lists what is known")
	}
	return found
}

func versionText(v ct.KernelVersion) string {
	if v.IsZero() {
		return ""
	}
	return v.String()
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line[:min(len(line), 120)]
}

func listTopics(env *Env, format string) error {
	topics := explain.Topics()
	if format == "json" {
		return writeJSON(env, struct {
			head
			Known map[string][]string `json:"known"`
		}{newHead(env, explainSchema), topics})
	}
	for _, group := range slices.Sorted(maps.Keys(topics)) {
		fmt.Fprintf(env.Stdout, "%ss:\n", group)
		for _, name := range topics[group] {
			fmt.Fprintf(env.Stdout, "  %s\n", name)
		}
	}
	return nil
}
