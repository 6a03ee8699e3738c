package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hack/generated"
)

const (
	chartDir   = "manifests/chart"
	alertsFile = "manifests/alerts/hotplate.yaml"
	plainFile  = "manifests/install.yaml"
	command    = "go run ./hack/chart"
)

func main() {
	verify := flag.Bool("verify", false, "check the files and write nothing")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	err := run(ctx, *verify)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "chart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, verify bool) error {
	files, err := fromValues()
	if err != nil {
		return err
	}
	helm, err := ensureHelm(ctx)
	if err != nil {
		return err
	}
	plain, err := renderPlain(ctx, helm, files[0].Data)
	if err != nil {
		return err
	}
	files = append(files, generated.File{Path: plainFile, Data: plain})
	var errs []error
	for _, f := range files {
		if verify {
			errs = append(errs, f.Verify(command))
		} else {
			errs = append(errs, f.Write())
		}
	}
	return errors.Join(errs...)
}

// fromValues makes what needs no helm; the schema is the first.
func fromValues() ([]generated.File, error) {
	text, err := os.ReadFile(filepath.Join(chartDir, "values.yaml"))
	if err != nil {
		return nil, err
	}
	values, err := parseValues(text)
	if err != nil {
		return nil, err
	}
	schema, err := makeSchema(values)
	if err != nil {
		return nil, err
	}
	readmePath := filepath.Join(chartDir, "README.md")
	old, err := os.ReadFile(readmePath)
	if err != nil {
		return nil, err
	}
	readme, err := fillReadme(old, values)
	if err != nil {
		return nil, err
	}
	alerts, err := os.ReadFile(filepath.Join(chartDir, "files", "alerts.yaml"))
	if err != nil {
		return nil, err
	}
	return []generated.File{
		{Path: filepath.Join(chartDir, "values.schema.json"), Data: schema},
		{Path: readmePath, Data: readme},
		{Path: alertsFile, Data: alerts},
	}, nil
}
