package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/hotplate-dev/hotplate/cmd/internal/cli"
)

// version is set by the linker.
var version = "devel"

func main() { cli.Main(newCommand()) }

func newCommand() *cobra.Command {
	log := &cli.Log{}
	cmd := &cobra.Command{
		Use:     "hotplate",
		Short:   "Prepare and inspect a node that hotplate keeps",
		Version: version,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			_, err := log.Logger(io.Discard) // also for the commands that log nothing
			return err
		},
	}
	log.Bind(cmd.PersistentFlags(), "warn")
	cmd.AddCommand(newPull(log), newLint(), newExplain(), newStatus(), newRestart(log))
	return cmd
}
