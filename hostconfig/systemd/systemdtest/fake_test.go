package systemdtest

import (
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeNode is a Fake whose files are those of this machine.
type fakeNode struct {
	*Fake
	dir string
}

func (n fakeNode) Systemd() Systemd         { return n.Fake }
func (n fakeNode) Dir() string              { return n.dir }
func (n fakeNode) Local(path string) string { return path }
func (n fakeNode) Prefix() string           { return "hotplate-test-" }

func TestFakeIsLikeSystemd(t *testing.T) {
	for _, c := range Cases() {
		t.Run(c.Name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				f := New()
				defer f.Close()
				c.Test(t, fakeNode{f, dir})
			})
		})
	}
}
