package tools

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// rootRelease is the Debian release of every root, whatever this machine runs.
const rootRelease = "bookworm"

// rootTrimmed is what nobody misses in a root that is never upgraded: half of its size. What debootstrap copied from
// this machine goes as well.
var rootTrimmed = []string{
	"etc/hostname", "etc/machine-id", "etc/resolv.conf", "usr/share/doc", "usr/share/locale", "usr/share/man",
	"var/cache/apt", "var/lib/apt", "var/lib/dbus/machine-id", "var/lib/dpkg", "var/log/apt", "var/log/bootstrap.log", "var/log/dpkg.log",
}

// rootRecipe bootstraps a Debian system. Its packages' versions are those of the day: empty the cache to get newer
// ones.
func rootRecipe(part Part) recipe {
	names := strings.Join(part.Root, ",")
	return recipe{
		part: part,
		key:  key([]byte(rootRelease), []byte(runtime.GOARCH), []byte(names), []byte(strings.Join(rootTrimmed, ","))),
		what: fmt.Sprintf("bootstrapping Debian %s (a minute, once)", rootRelease),
		run: func(ctx context.Context, dir string) error {
			return bootstrap(ctx, names, dir)
		},
	}
}

func bootstrap(ctx context.Context, packages, dir string) error {
	if os.Geteuid() != 0 {
		return errors.New("debootstrap needs root")
	}
	// debootstrap mounts proc and sys below dir and starts programs in it. In namespaces of its own they go when it is
	// killed, before anybody removes dir.
	_, err := output(exec.CommandContext(ctx, "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
		"debootstrap", "--variant=minbase", "--include="+packages, rootRelease, dir))
	if err != nil {
		return err
	}
	for _, path := range rootTrimmed {
		if err := os.RemoveAll(filepath.Join(dir, path)); err != nil {
			return err
		}
	}
	return nil
}
