package cli

import (
	"encoding/json"

	"github.com/spf13/cobra"

	"github.com/ctwarden/ctwarden/internal/tune"
)

func newStatus(env *Env) *cobra.Command {
	var o keeping
	var out output
	c := &cobra.Command{
		Use:   "status",
		Short: "What ctwarden has changed here, and how it stands",
		Long: `Shows what is applied, on trial, held, kept and drifted, and who changed it.
It changes nothing. The exit code is 1 if there is something to act on.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			format, err := out.choice()
			if err != nil {
				return err
			}
			k, err := o.keeper(env)
			if err != nil {
				return err
			}
			st, err := k.Status(o.owners())
			if err != nil {
				return explainKeeper(err)
			}
			if err := printStatus(env, format, st); err != nil {
				return err
			}
			if st.Found() {
				return found
			}
			return nil
		},
	}
	o.register(env, c.Flags())
	out.register(c.Flags(), "text", "json")
	return c
}

func printStatus(env *Env, format string, st *tune.Status) error {
	if format == "text" {
		return st.Text(env.Stdout)
	}
	return writeJSON(env, struct {
		head
		*tune.Status
	}{newHead(env, tune.StatusSchema), st})
}

func writeJSON(env *Env, v any) error {
	e := json.NewEncoder(env.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
