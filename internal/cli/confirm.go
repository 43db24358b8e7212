package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ctwarden/ctwarden/internal/journal"
	"github.com/ctwarden/ctwarden/internal/kernel/deadman"
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
settings are applied at boot. Untracked flows go to
` + tune.RulesPath + `, which ` + tune.RulesUnit + `
loads at boot. Its unit, and what has systemd start it, are in
/etc/systemd/system under our name. No file of anybody else's is touched.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := o.keeper(env)
			if err != nil {
				return err
			}
			deadman.OutliveReaders()
			op, err := k.Confirm(cmd.Context(), first(args))
			if err != nil {
				return explainKeeper(err)
			}
			n := 0
			for _, s := range op.Settings {
				if s.State == journal.Confirmed {
					n++
				}
			}
			fmt.Fprintf(env.Stdout, "%s is kept: %s.\n", op.ID, settingsCount(n))
			if k.NoFiles == "" {
				o.warnOwners(env, op.Settings)
				fmt.Fprintln(env.Stdout, "`ctwarden verify` after the next boot proves it.")
			}
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

func settingsCount(n int) string {
	if n == 1 {
		return "1 setting"
	}
	return fmt.Sprintf("%d settings", n)
}
