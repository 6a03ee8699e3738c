package apply

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/hostconfig"
)

func TestApplyConvergesAndUninstallRemoves(t *testing.T) {
	r := newRig(t)
	h := r.start()
	defer r.close(h)

	one := render(t, mirror("docker.io", "https://one.example.com", "one"), mirror("a.example.com:5000", "https://m.example.com", "one"))
	receipt := r.apply(h, one)
	r.wantTree(one)
	want := []string{".hotplate/" + cas()["one"].FileName(), "a.example.com_5000_", "docker.io"}
	if diff := cmp.Diff(want, receipt.Changed); diff != "" {
		t.Errorf("changed (-want +got):\n%s", diff)
	}
	if !receipt.NextRetire.IsZero() {
		t.Errorf("NextRetire is %v; nothing is to go", receipt.NextRetire)
	}

	two := render(t, mirror("docker.io", "https://two.example.com", "two"))
	receipt = r.apply(h, two)
	old := hostconfig.Tree{}
	for p, f := range two {
		old[p] = f
	}
	ca := ".hotplate/" + cas()["one"].FileName()
	old[ca] = one[ca]
	r.wantTree(old)
	if want := r.clock.Now().Add(time.Minute); !receipt.NextRetire.Equal(want) {
		t.Errorf("NextRetire is %v, want %v", receipt.NextRetire, want)
	}
	r.clock.advance(time.Minute)
	receipt = r.apply(h, two)
	r.wantTree(two)
	if !receipt.NextRetire.IsZero() {
		t.Errorf("NextRetire is %v; nothing is to go", receipt.NextRetire)
	}

	r.uninstall(h)
	if len(snapshot(t, r.hosts)) != 0 {
		t.Errorf("the hosts directory, which hotplate made, is still there: %v", snapshot(t, r.hosts))
	}
	if diff := cmp.Diff(map[string]bool{"lock": true}, names(snapshot(t, r.dir))); diff != "" {
		t.Errorf("state directory (-want +got):\n%s", diff)
	}
}

func names(snap map[string]string) map[string]bool {
	out := map[string]bool{}
	for p := range snap {
		if p != "." {
			out[p] = true
		}
	}
	return out
}
