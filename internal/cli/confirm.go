package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ctwarden/ctwarden/internal/tune"
)

func newConfirm(env *Env) *cobra.Command {
	var o keeping
	c := &cobra.Command{
		Use:   "confirm [ID]",
		Short: "Keep a trial, now and after every boot",
		Long: `Ends the trial that runs, or the one named, and keeps its settings: writes
` + tune.SysctlPath + ` and
` + tune.ModulesLoadPath + `, which loads the module before the
settings are applied at boot. No other file is touched.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := o.keeper(env)
			if err != nil {
				return err
			}
			op, err := k.Confirm(cmd.Context(), first(args))
			if err != nil {
				return explainKeeper(err)
			}
			fmt.Fprintf(env.Stdout, "%s is kept: %d settings.\n", op.ID, len(op.Settings))
			o.warnOwners(env, op.Settings)
			return nil
		},
	}
	o.register(env, c.Flags())
	return c
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}
