package cli

import (
	"github.com/spf13/cobra"

	"github.com/ctwarden/ctwarden/internal/tune"
)

func newVerify(env *Env) *cobra.Command {
	var o keeping
	var out output
	c := &cobra.Command{
		Use:   "verify [PLAN]",
		Short: "Compare live values, files and the next boot with what was confirmed",
		Long: `Checks every setting that ctwarden keeps, or those of a saved plan: whether it
stands now, whether our file sets it, and whether it will stand after the next
boot, other owners considered. Made for a unit that runs after boot; the exit
code is 1 if anything differs.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			format, err := out.choice()
			if err != nil {
				return err
			}
			k, err := o.keeper(env)
			if err != nil {
				return err
			}
			var p *tune.Plan
			if len(args) > 0 {
				if p, err = loadPlan(env, args[0]); err != nil {
					return err
				}
			}
			v, err := k.Verify(p, o.owners())
			if err != nil {
				return explainKeeper(err)
			}
			if err := printVerification(env, format, v); err != nil {
				return err
			}
			if !v.OK() {
				return found
			}
			return nil
		},
	}
	o.register(env, c.Flags())
	out.register(c.Flags(), "text", "json")
	return c
}

func printVerification(env *Env, format string, v *tune.Verification) error {
	if format == "text" {
		return v.Text(env.Stdout)
	}
	return writeJSON(env, struct {
		head
		*tune.Verification
	}{newHead(env, tune.VerifySchema), v})
}
