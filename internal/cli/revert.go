package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ctwarden/ctwarden/internal/journal"
	"github.com/ctwarden/ctwarden/internal/kernel/deadman"
	"github.com/ctwarden/ctwarden/internal/tune"
)

func newRevert(env *Env) *cobra.Command {
	var o keeping
	c := &cobra.Command{
		Use:   "revert [ID]",
		Short: "Take back what apply did",
		Long: `Puts back the values from before the newest operation that stands, or the one
named, and takes them out of the permanent files. A value that somebody else
has changed since is left as it is. nf_conntrack_max is never lowered below 1.2
times the fullest table: it is held, and lowered by itself when it has drained.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := o.keeper(env)
			if err != nil {
				return err
			}
			deadman.OutliveReaders()
			op, err := k.Revert(cmd.Context(), first(args), "asked for")
			if errors.Is(err, tune.ErrNothing) && first(args) == "" {
				fmt.Fprintln(env.Stdout, "Nothing is in force that could be taken back.")
				return nil
			}
			if err != nil {
				return explainKeeper(err)
			}
			return sayReverted(env, op)
		},
	}
	o.register(env, c.Flags())
	return c
}

func sayReverted(env *Env, op *journal.Op) error {
	state := string(op.State)
	if op.State == journal.Deferred {
		state = "revert-deferred"
	}
	fmt.Fprintf(env.Stdout, "%s: %s.\n", op.ID, state)
	for _, s := range op.Settings {
		if s.State != journal.Reverted {
			fmt.Fprintf(env.Stdout, "  %s: %s, %s\n", s.Key, s.State, s.Note)
		}
	}
	if op.State == journal.Deferred {
		return found
	}
	return nil
}
