package restart

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/hotplate-dev/hotplate/hostconfig"
	"github.com/hotplate-dev/hotplate/hostconfig/configtoml"
	"github.com/hotplate-dev/hotplate/hostconfig/daemon"
	"github.com/hotplate-dev/hotplate/hostconfig/systemd"
)

const (
	// usualUnit is containerd's unit where its process does not tell, as of 1.6.20.
	usualUnit = "containerd.service"
	// usualConfig is what containerd reads when it is started without --config (defaults/defaults_unix.go, 2.4.2).
	usualConfig = "/etc/containerd/config.toml"
)

// target is the daemon and its configuration at one moment.
type target struct {
	info   daemon.Info
	unit   systemd.Unit
	binary string
	config *configtoml.Config
	edit   configtoml.Edit
}

// find finds the daemon, its unit, its configuration and the edit. A reason not to go on is a Check, and no error; the
// target is then whole only as far as it got.
func (r *Restarter) find(ctx context.Context, s *survey) (t target, err error) {
	if t.info, err = r.cfg.Daemon.Info(ctx); err != nil {
		return t, err
	}
	if t.unit, err = r.unit(ctx, t.info); err != nil {
		if errors.Is(err, systemd.ErrNoUnit) {
			s.add("unit", Refuse, "containerd belongs to no unit of systemd: "+err.Error()+"; name it, or restart it by hand")
			return t, nil
		}
		return t, err
	}
	if r.foreign(t.unit, s) {
		return t, nil
	}
	if t.info.PID != 0 && t.info.PID != t.unit.MainPID {
		s.add("unit", Refuse, fmt.Sprintf("the containerd that answers (pid %d) is not the main process of %s (pid %d), so that a "+
			"restart of that would not be one of it: name its own unit", t.info.PID, t.unit.Name, t.unit.MainPID))
		return t, nil
	}
	if len(t.unit.ExecStart) != 1 {
		s.add("unit", Refuse, fmt.Sprintf("%s has %d commands in ExecStart, and which is containerd is not known", t.unit.Name,
			len(t.unit.ExecStart)))
		return t, nil
	}
	start := t.unit.ExecStart[0]
	file, ok := configOf(start.Argv)
	if path.Base(start.Path) != "containerd" || !ok {
		s.add("unit", Refuse, fmt.Sprintf("%s runs %q, of which it is not known which configuration it reads: "+
			"change it by hand", t.unit.Name, strings.Join(start.Argv, " ")))
		return t, nil
	}
	t.binary = start.Path
	s.add("unit", Pass, fmt.Sprintf("%s runs %s %s with %s", t.unit.Name, t.binary, t.info.Version, file))
	version, err := hostconfig.ParseVersion(t.info.Version)
	if err == nil {
		t.config, err = configtoml.Read(os.DirFS(r.here("/")), file, version)
	}
	if err == nil {
		t.edit, err = t.config.Plan(r.cfg.HostsDir, configtoml.Options{Convert: r.cfg.Convert})
	}
	var refused *configtoml.RefusedError
	switch {
	case errors.As(err, &refused):
		s.add("configuration", Refuse, refused.Error())
		return t, nil
	case err != nil:
		return t, err
	}
	r.describe(t, s)
	return t, nil
}

// foreign refuses a containerd that belongs to another program, which writes its configuration and restarts it.
func (r *Restarter) foreign(u systemd.Unit, s *survey) bool {
	signs := daemon.Signs{Unit: u.Name, Socket: r.cfg.Address}
	for _, start := range u.ExecStart {
		signs.Argv = append(signs.Argv, start.Argv...)
	}
	f := daemon.DetectFlavour(os.DirFS(r.here("/")), signs)
	if f.Native == "" {
		s.add("platform", Pass, f.Name)
		return false
	}
	s.add("platform", Refuse, fmt.Sprintf("this is %s, whose containerd hotplate neither configures nor restarts: set %s; its hosts "+
		"directory is %s", f.Name, f.Native, f.HostsDir))
	return true
}

// describe says what would change.
func (r *Restarter) describe(t target, s *survey) {
	if t.edit.IsZero() {
		s.add("configuration", Refuse, fmt.Sprintf("%s says %s already, and the running containerd has not read it, or is "+
			"started with something else; there is nothing to go back to if it does not start with that file: look at it, "+
			"then restart %s by hand", t.config.Path, r.cfg.HostsDir, t.unit.Name))
		return
	}
	s.add("configuration", Pass, t.edit.Why)
	for _, w := range t.edit.Warnings {
		s.add("configuration", Note, w.String())
	}
	for _, reg := range t.edit.Converted {
		s.add("configuration", Note, "takes the mirrors of "+reg.Host+" out, which the hosts directory must have instead")
	}
}

// unit is the one of the daemon: the one that is configured, that of the daemon's process, or the usual one.
func (r *Restarter) unit(ctx context.Context, info daemon.Info) (systemd.Unit, error) {
	switch {
	case r.cfg.Unit != "":
		return r.cfg.Systemd.Unit(ctx, r.cfg.Unit)
	case info.PID != 0:
		return r.cfg.Systemd.UnitOfPID(ctx, info.PID)
	}
	return r.cfg.Systemd.Unit(ctx, usualUnit)
}

// configOf reads the configuration's path off containerd's command line. It is not known when a word of it is filled in by
// systemd, or when the daemon is told to be something else than a daemon.
func configOf(argv []string) (file string, ok bool) {
	file = usualConfig
	for i := 1; i < len(argv); i++ {
		name, value, has := strings.Cut(argv[i], "=")
		switch name {
		case "--config", "-config", "-c", "--c":
			if !has {
				if i++; i == len(argv) {
					return "", false
				}
				value = argv[i]
			}
			file = value
		case "--address", "-a", "--root", "--state", "--log-level", "-l", "--log-format":
			if !has {
				i++
			}
		default:
			if !strings.HasPrefix(name, "-") {
				return "", false // a subcommand
			}
		}
	}
	return file, path.IsAbs(file) && !strings.ContainsAny(file, "$%")
}
