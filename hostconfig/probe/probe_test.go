package probe

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// daemon stands for a containerd: it may read what is published, and answers a pull with err.
type daemon struct {
	t         *testing.T
	obeys     bool
	err       error
	published hostconfig.Tree
	removed   int
	removeErr error
}

func (d *daemon) prober() *Prober {
	p, err := New(Config{Pull: d.pull, Publish: d.publish})
	if err != nil {
		d.t.Fatal(err)
	}
	return p
}

func (d *daemon) publish(_ context.Context, dir string, files hostconfig.Tree) (func(context.Context) error, error) {
	if dir != Host {
		d.t.Errorf("published %q, want %q", dir, Host)
	}
	d.published = files
	return func(context.Context) error {
		d.removed++
		return d.removeErr
	}, nil
}

func (d *daemon) pull(ctx context.Context, ref string) error {
	if !d.obeys {
		return d.err
	}
	var file struct {
		Server string `toml:"server"`
	}
	if err := toml.Unmarshal(d.published[Host+"/"+hostconfig.HostsTOML].Data, &file); err != nil {
		d.t.Error(err)
	}
	tag := ref[strings.LastIndex(ref, ":")+1:]
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, file.Server+"/p/manifests/"+tag+"?ns="+Host, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "containerd/2.4.2")
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		d.t.Errorf("the listener answered %s, want 404", resp.Status)
	}
	return d.err
}

func TestProbe(t *testing.T) {
	notFound := status.Error(codes.NotFound, "hotplate-probe.invalid/p:x: not found")
	for _, tt := range []struct {
		name  string
		obeys bool
		err   error
		want  Verdict
		fails string // in the error; empty for none
	}{
		{"a daemon that asks the listener is live", true, notFound, Verdict{Live: true, UserAgent: "containerd/2.4.2"}, ""},
		{"a daemon that asks elsewhere is not live", false, status.Error(codes.Unknown, "no such host"),
			Verdict{Cause: "no such host"}, ""},
		{"a daemon without CRI gives no verdict", false, status.Error(codes.Unimplemented, "unknown service"), Verdict{},
			"serves no CRI"},
		{"a daemon that is away gives no verdict", false, status.Error(codes.Unavailable, "connection refused"), Verdict{},
			"does not answer"},
		{"a pull that succeeds gives no verdict", false, nil, Verdict{}, "cannot exist"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := &daemon{t: t, obeys: tt.obeys, err: tt.err}
			got, err := d.prober().Probe(t.Context())
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			if (err != nil) != (tt.fails != "") || err != nil && !strings.Contains(err.Error(), tt.fails) {
				t.Errorf("error %v, want one with %q", err, tt.fails)
			}
			if d.removed != 1 {
				t.Errorf("the directory was removed %d times, want once", d.removed)
			}
		})
	}
}

func TestProbeTellsThatItsDirectoryIsLeft(t *testing.T) {
	d := &daemon{t: t, obeys: true, err: errors.New("not found"), removeErr: errors.New("read-only file system")}
	if _, err := d.prober().Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("error %v, want the one of the removal", err)
	}
}

func TestProbeEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	d := &daemon{t: t}
	p, err := New(Config{Publish: d.publish, Pull: func(ctx context.Context, _ string) error {
		cancel()
		return status.FromContextError(ctx.Err()).Err()
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Probe(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want canceled", err)
	}
	if d.removed != 1 {
		t.Errorf("the directory was removed %d times, want once", d.removed)
	}
}
