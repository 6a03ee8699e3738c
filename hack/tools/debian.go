package tools

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// debianRecipe downloads a package and keeps its programs. It installs nothing.
func (b *Builder) debianRecipe(part Part) (recipe, error) {
	release, err := debianRelease("/etc/os-release")
	if err != nil {
		return recipe{}, err
	}
	return recipe{
		part: part,
		// The package's exact version is known only after the download. A point release is taken when the cache is
		// emptied.
		key:  key([]byte(part.Debian), []byte(release), []byte(runtime.GOARCH)),
		what: fmt.Sprintf("downloading Debian's package %s", part.Debian),
		run: func(ctx context.Context, dir string) error {
			return unpackDebian(ctx, part, dir)
		},
	}, nil
}

func unpackDebian(ctx context.Context, part Part, dir string) error {
	tmp := filepath.Join(dir, ".unpack")
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return err
	}
	download := func() error {
		// apt warns when its own user cannot write here; with this option it does not try to be that user.
		cmd := exec.CommandContext(ctx, "apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", part.Debian)
		cmd.Dir = tmp
		_, err := output(cmd)
		return err
	}
	if err := download(); err != nil {
		if _, updateErr := output(exec.CommandContext(ctx, "apt-get", "-q", "update")); updateErr != nil {
			return errors.Join(err, updateErr)
		}
		if err := download(); err != nil {
			return err
		}
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("apt-get download %s left %d files: %w", part.Debian, len(debs), err)
	}
	if _, err := output(exec.CommandContext(ctx, "dpkg-deb", "-x", debs[0], tmp)); err != nil {
		return err
	}
	programs, err := filepath.Glob(filepath.Join(tmp, "usr", "bin", "*"))
	if err != nil {
		return err
	}
	for _, p := range programs {
		if err := os.Rename(p, filepath.Join(dir, filepath.Base(p))); err != nil {
			return err
		}
	}
	if err := checkVersion(ctx, part, dir); err != nil {
		return err
	}
	return os.RemoveAll(tmp)
}

func checkVersion(ctx context.Context, part Part, dir string) error {
	version, err := output(exec.CommandContext(ctx, filepath.Join(dir, part.Debian), "--version"))
	if err != nil {
		return err
	}
	if !strings.Contains(version, part.Wants) {
		return fmt.Errorf("this system's package %s is %q and not%s; Debian 12 has it", part.Debian, version,
			strings.TrimSuffix(part.Wants, "."))
	}
	return nil
}

// debianRelease reads the name of the release, for example bookworm.
func debianRelease(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("find out the Debian release: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if name, ok := strings.CutPrefix(lines.Text(), "VERSION_CODENAME="); ok {
			return strings.Trim(name, `"`), nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("read %q: %w", path, err)
	}
	return "", fmt.Errorf("%s has no VERSION_CODENAME; this needs Debian 12", path)
}

// InstallPackages installs the Debian packages that are missing, which needs root. It changes nothing when none is.
func (b *Builder) InstallPackages(ctx context.Context) error {
	var names, reasons []string
	for _, p := range Packages() {
		if !installed(ctx, p) {
			names = append(names, p.Name)
			reasons = append(reasons, fmt.Sprintf("%s (%s)", p.Name, p.Reason))
		}
	}
	if len(names) == 0 {
		b.progress("Debian packages: nothing missing")
		return nil
	}
	list := strings.Join(reasons, ", ")
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("missing packages: %s; this is no Debian system, so install them by hand", list)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("missing packages: %s; run as root: apt-get install %s", list, strings.Join(names, " "))
	}
	b.progress("Debian packages: installing " + list)
	steps := [][]string{{"update"}, append([]string{"install", "-y", "--no-install-recommends"}, names...)}
	for _, args := range steps {
		args = append([]string{"-q", "-o", "DPkg::Lock::Timeout=120"}, args...)
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if _, err := output(cmd); err != nil {
			return fmt.Errorf("install %s: %w", strings.Join(names, ", "), err)
		}
	}
	return nil
}

func installed(ctx context.Context, p Package) bool {
	if _, err := exec.LookPath("dpkg-query"); err != nil {
		_, err := exec.LookPath(p.Program)
		return err == nil
	}
	status, err := output(exec.CommandContext(ctx, "dpkg-query", "-W", "-f", "${Status}", p.Name))
	return err == nil && strings.HasSuffix(status, " installed")
}
