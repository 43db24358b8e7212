package cli

import "github.com/spf13/cobra"

// registry lists the commands, one a line, in the order of the help text.
func registry() []func(*Env) *cobra.Command {
	return []func(*Env) *cobra.Command{
		newCheck,
		newExplain,
		newCollect,
		newTop,
		newList,
		newWatch,
		newPlan,
		newApply,
		newConfirm,
		newRevert,
		newStatus,
		newVerify,
		newLint,
		newNotrack,
		newTrialGuard,
		newEvict,
		newGuard,
		newIncidents,
		newSimulate,
		newRecord,
		newForecast,
		newVersion,
	}
}
