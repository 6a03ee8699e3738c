package systemd

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

func exampleBootUnit() BootUnit {
	return BootUnit{
		Name: "hotplate-restart-boot", Description: "hotplate: put containerd's configuration back",
		Marker: "/var/lib/hot plate/restart/marker", Rescues: "hotplate-rescue-", Before: "containerd.service",
		Unchanged: "/var/lib/hot plate/restart/new.sha256",
		Steps:     RestoreFile("/var/lib/hot plate/restart/backup", "/etc/containerd/config.toml"),
	}
}

func TestRenderBootUnit(t *testing.T) {
	const golden = "testdata/boot.service"
	b := exampleBootUnit()
	got, err := b.Render()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if strings.ContainsAny(got, "$%") {
		t.Error("it holds $ or %")
	}
}

func TestRenderBootUnitRefuses(t *testing.T) {
	for what, change := range map[string]func(*BootUnit){
		"a foreign name":        func(b *BootUnit) { b.Name = "containerd" },
		"rescues of all":        func(b *BootUnit) { b.Rescues = "" },
		"a glob":                func(b *BootUnit) { b.Rescues = "hotplate-*" },
		"a unit without a type": func(b *BootUnit) { b.Before = "containerd" },
		"a relative marker":     func(b *BootUnit) { b.Marker = "marker" },
		"no marker":             func(b *BootUnit) { b.Marker = "" },
		"a marker with a %":     func(b *BootUnit) { b.Marker = "/var/%i" },
		"a second line":         func(b *BootUnit) { b.Description = "a\nExecStart=/bin/sh" },
		"a quote":               func(b *BootUnit) { b.Steps = RestoreFile(`/a"b`, "/c") },
		"a list that is not":    func(b *BootUnit) { b.Unchanged = "sums" },
	} {
		b := exampleBootUnit()
		change(&b)
		if got, err := b.Render(); err == nil {
			t.Errorf("%s: rendered\n%s", what, got)
		}
	}
}

func TestCheckArgv(t *testing.T) {
	for _, good := range [][]string{
		{"/bin/true"}, {"/bin/cp", "-p", "/a b", "/c"}, {"/usr/bin/x", "--name=value", "ü", "a,b:c@d+e~f#g!h(i)[j]{k}|&<>*?^`"},
	} {
		if err := checkArgv(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range [][]string{
		nil, {""}, {"true"}, {"./true"}, {"/bin/../bin/true"}, {"/bin/true", ""}, {"/bin/echo", "$X"}, {"/bin/echo", "a%b"},
		{"/bin/echo", ";"}, {"/bin/echo", "it's"}, {"/bin/echo", `a"b`}, {"/bin/echo", `a\b`}, {"/bin/echo", "a\nb"},
		{"/bin/echo", "a\x00b"}, {"/bin/echo", "\xff"}, {"/bin/echo", "a\u200bb"}, {"/bin/echo", strings.Repeat("a", 5000)},
		append([]string{"/bin/echo"}, make([]string, 100)...),
	} {
		if checkArgv(bad) == nil {
			t.Errorf("%.100q was let through", bad)
		}
	}
}

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"containerd.service": true, "snap.microk8s.daemon-containerd.service": true, "a@b.service": true, "dev-sda.device": true,
		"": false, "containerd": false, "containerd.": false, "*.service": false, "a/b.service": false, "a b.service": false,
		strings.Repeat("a", 250) + ".service": false,
	} {
		if err := checkName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestSteps(t *testing.T) {
	steps := append(RestoreFile("/backup", "/etc/x/config"), RemoveFile("/etc/x/extra")...)
	steps = append(steps, CheckSums("/sums"))
	steps = append(steps, RestartUnit("containerd.service", "kubelet.service")...)
	var got []string
	for _, s := range steps {
		if err := checkArgv(s.Argv); err != nil {
			t.Error(err)
		}
		got = append(got, execLine(s))
	}
	want := []string{
		"/bin/cp -p /backup /etc/x/config.hotplate-restore",
		"-/bin/sync /etc/x/config.hotplate-restore",
		"/bin/mv -f /etc/x/config.hotplate-restore /etc/x/config",
		"-/bin/sync /etc/x",
		"/bin/rm -f /etc/x/extra",
		"-/bin/sync /etc/x",
		"/usr/bin/sha256sum --check --status /sums",
		"-/bin/systemctl reset-failed containerd.service",
		"/bin/systemctl --no-block restart containerd.service",
		"-/bin/systemctl reset-failed kubelet.service",
		"-/bin/systemctl --no-block start kubelet.service",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
