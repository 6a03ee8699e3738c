package apply

import (
	"context"
	"errors"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

const probeDir = "hotplate-probe.invalid"

func probeTree(t testing.TB) hostconfig.Tree {
	return render(t, hostconfig.Registry{
		Host: probeDir, Upstream: hostconfig.Deny,
		Mirrors: []hostconfig.Mirror{{URL: "http://127.0.0.1:1", Path: "nonce"}},
	})
}

func TestATemporaryDirectoryIsNobodysDrift(t *testing.T) {
	r := newRig(t)
	h := r.start()
	defer r.close(h)
	tree := render(t, mirror("docker.io", "https://one.example.com", "one"))
	r.apply(h, tree)
	remove, err := h.PublishTemporary(context.Background(), probeDir, probeTree(t))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(view(r.hosts, probeDir), "127.0.0.1:1") {
		t.Errorf("containerd sees %s", view(r.hosts, probeDir))
	}
	if diff := cmp.Diff(Receipt{}, r.apply(h, tree), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("receipt (-want +got):\n%s", diff)
	}
	if !r.exists(probeDir) {
		t.Error("Apply has removed it")
	}
	if _, err := h.PublishTemporary(context.Background(), probeDir, probeTree(t)); err == nil {
		t.Error("no error for a second one of the same name")
	}
	for range 2 {
		if err := remove(context.Background()); err != nil {
			t.Errorf("remove: %v", err)
		}
	}
	r.wantTree(tree)
}

func TestATemporaryDirectoryGoesWithTheNextStartOrUninstall(t *testing.T) {
	r := newRig(t)
	h := r.start()
	if _, err := h.PublishTemporary(context.Background(), probeDir, probeTree(t)); err != nil {
		t.Fatal(err)
	}
	r.close(h)
	h = r.start()
	defer r.close(h)
	if got := names(snapshot(t, r.hosts)); len(got) != 0 {
		t.Errorf("after the next start there is %v", got)
	}
	remove, err := h.PublishTemporary(context.Background(), probeDir, probeTree(t))
	if err != nil {
		t.Fatal(err)
	}
	r.uninstall(h)
	if got := snapshot(t, r.hosts); len(got) != 0 {
		t.Errorf("after uninstall there is %v", got)
	}
	if err := remove(context.Background()); err != nil {
		t.Errorf("remove after uninstall: %v", err)
	}
}

func TestATemporaryDirectoryDoesNotTakeSomebodyElsesPlace(t *testing.T) {
	r := newRig(t)
	r.write(probeDir+"/notes", "mine")
	before := snapshot(t, r.hosts)
	h := r.start()
	defer r.close(h)
	if _, err := h.PublishTemporary(context.Background(), probeDir, probeTree(t)); err == nil ||
		!strings.Contains(err.Error(), r.hosts+"/"+probeDir) {
		t.Errorf("error is %v", err)
	}
	wantSame(t, "hosts directory", before, snapshot(t, r.hosts))
}

func TestATemporaryDirectoryThatSomebodyWroteToIsLeft(t *testing.T) {
	r := newRig(t)
	h := r.start()
	defer r.close(h)
	remove, err := h.PublishTemporary(context.Background(), probeDir, probeTree(t))
	if err != nil {
		t.Fatal(err)
	}
	r.write(probeDir+"/notes", "mine")
	if err := remove(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := names(snapshot(t, r.hosts)); len(got) != 2 || !got[probeDir+"/notes"] {
		t.Errorf("left: %v", got)
	}
}

func TestConcurrentCallsRunOneAfterTheOther(t *testing.T) {
	r := newRig(t)
	h := r.start()
	defer r.close(h)
	trees := []hostconfig.Tree{
		render(t, mirror("docker.io", "https://one.example.com", "one")),
		render(t, mirror("docker.io", "https://two.example.com", "two")),
	}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 20 {
				if _, err := h.Apply(context.Background(), trees[(n+i)%2], Options{}); err != nil {
					t.Errorf("apply: %v", err)
				}
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			remove, err := h.PublishTemporary(context.Background(), probeDir, probeTree(t))
			if err != nil {
				t.Errorf("publish: %v", err)
				return
			}
			if err := remove(context.Background()); err != nil {
				t.Errorf("remove: %v", err)
			}
		}
	})
	wg.Wait()
	r.uninstall(h)
	if got := snapshot(t, r.hosts); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

func TestAFailureElsewhereKeepsATemporaryDirectory(t *testing.T) {
	r := newRig(t)
	m := newMachine(t, r.top)
	r.open = m.open
	h := r.start()
	defer r.close(h)
	remove, err := h.PublishTemporary(context.Background(), probeDir, probeTree(t))
	if err != nil {
		t.Fatal(err)
	}
	tree := render(t, mirror("docker.io", "https://one.example.com", "one"))
	m.ops, m.at, m.mishap = 0, 6, mishap{err: syscall.ENOSPC}
	if _, err := h.Apply(context.Background(), tree, Options{}); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("error is %v", err)
	}
	m.heal()
	r.apply(h, tree)
	if !r.exists(probeDir) {
		t.Error("the recovery has removed a directory that is in use")
	}
	// Removing it may fail too, and is then done by the next call.
	m.ops, m.at, m.mishap = 0, 3, mishap{err: syscall.EIO}
	if err := remove(context.Background()); !errors.Is(err, syscall.EIO) {
		t.Fatalf("error is %v", err)
	}
	m.heal()
	if err := remove(context.Background()); err != nil {
		t.Errorf("remove: %v", err)
	}
	r.wantTree(tree)
}
