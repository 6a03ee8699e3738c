package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hotplate-dev/hotplate/hack/bench/proc"
	"github.com/hotplate-dev/hotplate/hack/rig"
)

// replica is a coordinator that runs.
type replica struct {
	cmd    *exec.Cmd
	log    string
	status string // URL
	client *http.Client
	done   chan struct{} // closed when it has been waited for
}

// startReplica starts the number-th one, as another pod at another address.
func (b *bench) startReplica(ctx context.Context, number int) (*replica, error) {
	name := fmt.Sprintf("hotplate-coordinator-%d", number)
	status := net.JoinHostPort(b.cluster.IP(), fmt.Sprint(8080+number))
	r := &replica{log: filepath.Join(b.dir, name+".log"), status: "http://" + status, done: make(chan struct{}),
		client: &http.Client{Timeout: askTimeout, Transport: &http.Transport{DialContext: b.cluster.Dial, DisableKeepAlives: true}}}
	log, err := os.Create(r.log)
	if err != nil {
		return nil, err
	}
	r.cmd = b.cluster.Command(context.WithoutCancel(ctx), b.coordinator, "--kubeconfig", b.kubeconfig(), "--namespace", namespace, "--pod-name", name,
		"--pod-ip", b.cluster.IP(), "--listen", net.JoinHostPort(b.cluster.IP(), fmt.Sprint(8443+number)), "--status-listen", status,
		"--work-dir", filepath.Join(b.dir, name))
	r.cmd.Stdout, r.cmd.Stderr = log, log
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	started := make(chan error, 1)
	go func() {
		// The kernel kills it when the thread that started it ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(r.done)
		err := r.cmd.Start()
		started <- err
		if err == nil {
			_ = r.cmd.Wait() // it is killed
		}
	}()
	if err := errors.Join(<-started, log.Close()); err != nil {
		return nil, fmt.Errorf("start the coordinator: %w", err)
	}
	return r, nil
}

// kill ends it at once (-9) and waits. It may be called more than once.
func (r *replica) kill() error {
	err := r.cmd.Process.Kill()
	<-r.done
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

func (r *replica) running() error {
	select {
	case <-r.done:
		text, _ := os.ReadFile(r.log) // for what it is worth
		return fmt.Errorf("the coordinator has ended: %s\n%s", r.cmd.ProcessState, text[max(0, len(text)-4<<10):])
	default:
		return nil
	}
}

func (r *replica) used() (proc.Counters, error) { return proc.Host().Process(r.cmd.Process.Pid) }

// metrics are the coordinator's own.
func (r *replica) metrics(ctx context.Context) (series, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.status+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	return parseSeries(page), err
}

// leads tells whether it is the leader.
func (r *replica) leads(ctx context.Context) error {
	if err := r.running(); err != nil {
		return err
	}
	s, err := r.metrics(ctx)
	switch {
	case err != nil:
		return err
	case s[leadsSeries] != 1:
		return errors.New("it does not lead")
	}
	return nil
}

// led is how often it began to lead.
func (r *replica) led() (int, error) {
	text, err := os.ReadFile(r.log)
	return strings.Count(string(text), "this replica leads"), err
}

// apiWrites are what the API server has carried out for everybody.
func (b *bench) apiWrites(ctx context.Context) (writes, error) {
	page, err := b.client.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return writes{}, fmt.Errorf("read the API server's metrics: %w", err)
	}
	return writesOf(parseSeries(page)), nil
}

// clusterConfig is that of a control plane whose controllers leave Nodes alone.
func clusterConfig(dir string) rig.ClusterConfig {
	return rig.ClusterConfig{Dir: filepath.Join(dir, "cluster"),
		APIServerArgs:         []string{"--disable-admission-plugins=TaintNodesByCondition"},
		ControllerManagerArgs: []string{"--controllers=serviceaccount-controller"}}
}

func writeFile(path, text string) error { return os.WriteFile(path, []byte(text), 0o600) }
