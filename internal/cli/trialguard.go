package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/ctwarden/ctwarden/internal/journal"
	"github.com/ctwarden/ctwarden/internal/kernel/deadman"
)

const trialGuard = "trial-guard"

// guardArgs is the command line of the dead-man of an operation.
func (o *keeping) guardArgs(id string) []string {
	args := []string{trialGuard, id, "--state-dir", o.stateDir}
	if o.root != "" {
		args = append(args, "--root", o.root)
	}
	return args
}

// timerOf is the name under which a timer may have been set besides; which one
// is known only once both are armed.
func timerOf(id string) string { return id + ".timer" }

// newTrialGuard is the dead-man itself; apply starts it.
func newTrialGuard(env *Env) *cobra.Command {
	var o keeping
	c := &cobra.Command{
		Use:    trialGuard + " ID",
		Short:  "Wait for the end of a trial and take it back",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := o.keeper(env)
			if err != nil {
				return err
			}
			log, err := k.Journal.Read()
			if err != nil {
				return err
			}
			op := log.Op(args[0])
			if op == nil {
				return journal.ErrUnknown
			}
			deadman.Ready()
			err = k.Guard(cmd.Context(), args[0], deadman.Clock{}, health)
			if errors.Is(err, context.Canceled) {
				if (deadman.Deadman{}).TimerWaits(args[0]) {
					return nil // a session ended, and its processes with it; the trial goes on
				}
				// Told to stop: nobody would undo the trial later.
				_, err = k.Expire(context.WithoutCancel(cmd.Context()), args[0])
			}
			return errors.Join(err, k.Deadman.Disarm(args[0], timerOf(op.ID)))
		},
	}
	o.register(env, c.Flags())
	return c
}
