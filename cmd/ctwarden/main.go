// Command ctwarden diagnoses, tunes and guards the Linux connection-tracking
// table.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/ctwarden/ctwarden/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := cli.Run(ctx, cli.NewEnv())
	stop()
	os.Exit(code)
}
