// Command askssystemd is a program for a sandbox: it asks systemd for containerd's process id over systemd's own socket,
// and then waits to be ended.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
)

func main() {
	if err := run(); err != nil {
		fmt.Println("error:", err)
		os.Exit(3)
	}
	time.Sleep(time.Hour)
}

func run() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := dbus.NewSystemdConnectionContext(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	pid, err := conn.GetServicePropertyContext(ctx, "containerd.service", "MainPID")
	if err != nil {
		return err
	}
	fmt.Println("MainPID", pid.Value.Value())
	return nil
}
