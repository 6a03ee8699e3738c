package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/containerd/api/services/introspection/v1"
	"github.com/containerd/containerd/v2/plugins"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hotplate-dev/hotplate/prefetch"
)

// tested tells whether the direct way has been tried on a version's release line: 1.6, 1.7, or 2.0 to 2.4. What it relies
// on is how containerd works, not what it promises.
func tested(version string) bool {
	n, ok := versionNumbers(version)
	return ok && (n[0] == 1 && n[1] >= 6 && n[1] <= 7 || n[0] == 2 && n[1] <= 4)
}

// closed is a reason why the direct way is closed.
type closed string

func (c closed) Error() string { return string(c) }

func closedf(format string, args ...any) error { return closed(fmt.Sprintf(format, args...)) }

// layout is where containerd keeps things, and where ours are beside them. containerd looks only into blobs and ingest
// of its content root (plugins/content/local/store.go, 2.4.2) and into snapshots of overlayfs's
// (plugins/snapshots/overlay/overlay.go), so that it leaves a directory beside those alone.
type layout struct{ content, snapshots, staging, trees string }

// Way implements prefetch.Store. Nothing is remembered from one call to the next: it takes containerd a few milliseconds
// to show by a blob of some bytes and a snapshot of some files that the direct way is open, and a daemon may come back
// as another one.
func (s *Store) Way(ctx context.Context) (way prefetch.Way, err error) {
	defer away(&err)
	ctx = s.in(ctx)
	way.Name = prefetch.API
	d, err := s.introspect(ctx)
	if err != nil {
		return way, err
	}
	cri, err := s.settings(ctx, d)
	if err != nil {
		return way, err
	}
	way.Discards, way.DiscardsKnown = cri.discards, cri.discardsKnown
	s.syncs.Store(cri.syncs)
	at, err := s.direct(ctx, d)
	var reason closed
	switch {
	case err == nil:
		way.Name, way.Staging, way.Trees = prefetch.Direct, at.staging, at.trees
	case errors.As(err, &reason):
		staging, trees := s.ours(d)
		way.Reason, way.Staging, way.Trees = string(reason), existing(staging), existing(trees)
	default:
		return way, err // it says nothing about the way
	}
	s.at.Store(at)
	return way, nil
}

// ours are our directories below the roots of containerd's content store and overlayfs, empty where it names no root.
func (s *Store) ours(d daemon) (staging, trees string) {
	below := func(kind, id, name string) string {
		exports, _ := d.plugin(kind, id) // what is not there has no root
		if exports["root"] == "" {
			return ""
		}
		return filepath.Join(exports["root"], "hotplate", s.cfg.Owner, name)
	}
	return below(string(plugins.ContentPlugin), "content", "staging"),
		below(string(plugins.SnapshotPlugin), DefaultSnapshotter, "trees")
}

// existing is dir, or empty if it is no directory.
func existing(dir string) string {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return ""
	}
	return dir
}

// direct returns the layout if the direct way is open, or an error that is closed.
func (s *Store) direct(ctx context.Context, d daemon) (*layout, error) {
	at, err := s.layoutOf(d)
	if err != nil {
		return nil, err
	}
	if err := checkNamespace(); err != nil {
		return nil, err
	}
	if err := s.checkCRI(ctx, at); err != nil {
		return nil, err
	}
	if err := s.prove(ctx, at); err != nil {
		return nil, err
	}
	return at, nil
}

// checkCRI closes the way if CRI does not use the snapshotter. CRI names the snapshotters that it uses by their
// directories, and takes them to be below containerd's root, whatever root_path says.
func (s *Store) checkCRI(ctx context.Context, at *layout) error {
	resp, err := s.cri.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil {
		return fmt.Errorf("ask containerd's CRI where it has images: %w", err)
	}
	var dirs []string
	for _, fs := range resp.GetImageFilesystems() {
		dir := fs.GetFsId().GetMountpoint()
		if dir == at.snapshots || filepath.Base(dir) == string(plugins.SnapshotPlugin)+"."+s.cfg.Snapshotter {
			return nil
		}
		dirs = append(dirs, dir)
	}
	return closedf("CRI has its images in %s, not in %s", strings.Join(dirs, ", "), at.snapshots)
}

// daemon is what containerd says of itself.
type daemon struct {
	version string
	plugins []*introspection.Plugin
}

func (s *Store) introspect(ctx context.Context) (daemon, error) {
	version, err := s.client.Version(ctx)
	if err != nil {
		return daemon{}, fmt.Errorf("ask containerd at %s for its version: %w", s.cfg.Address, err)
	}
	resp, err := s.client.IntrospectionService().Plugins(ctx)
	if err != nil {
		return daemon{}, fmt.Errorf("ask containerd at %s for its plugins: %w", s.cfg.Address, err)
	}
	return daemon{version: version.Version, plugins: resp.GetPlugins()}, nil
}

// plugin returns what a plugin exports, or a closed error.
func (d daemon) plugin(kind, id string) (map[string]string, error) {
	for _, p := range d.plugins {
		if p.GetType() != kind || p.GetID() != id {
			continue
		}
		if e := p.GetInitErr(); e != nil {
			return nil, closedf("containerd's plugin %s.%s does not run: %s", kind, id, e.GetMessage())
		}
		return p.GetExports(), nil
	}
	return nil, closedf("containerd has no plugin %s.%s", kind, id)
}

// layoutOf finds containerd's directories by what it says of itself, and closes the way where something else than
// containerd's own content store and overlayfs may be at work.
func (s *Store) layoutOf(d daemon) (*layout, error) {
	if !tested(d.version) {
		return nil, closedf("untested version: containerd %s", d.version)
	}
	if s.cfg.Snapshotter != DefaultSnapshotter {
		return nil, closedf("the snapshotter is %s, not %s", s.cfg.Snapshotter, DefaultSnapshotter)
	}
	for _, p := range d.plugins {
		if p.GetType() == string(plugins.ContentPlugin) && p.GetID() != "content" && p.GetInitErr() == nil {
			return nil, closedf("containerd has another content store, %s", p.GetID())
		}
	}
	content, err := d.plugin(string(plugins.ContentPlugin), "content")
	if err != nil {
		return nil, err
	}
	overlay, err := d.plugin(string(plugins.SnapshotPlugin), DefaultSnapshotter)
	if err != nil {
		return nil, err
	}
	bolt, err := d.plugin(string(plugins.MetadataPlugin), "bolt")
	if err != nil {
		return nil, err
	}
	if policy := bolt["policy"]; policy != "shared" {
		return nil, closedf("containerd's content sharing policy is %q, not \"shared\"", policy)
	}
	if content["root"] == "" || overlay["root"] == "" {
		return nil, closedf("containerd does not say where it keeps content and snapshots")
	}
	staging, trees := s.ours(d)
	return &layout{content: content["root"], snapshots: overlay["root"], staging: staging, trees: trees}, nil
}

// settings are those of CRI that are about pulls, as far as the daemon tells them: whether it discards the blobs of layers
// that it has unpacked, and whether it syncs the filesystem after each of them.
type settings struct{ discards, discardsKnown, syncs bool }

// settings asks for them: 1.x shows its CRI configuration, 2.4 exports the first, and the others do not say.
func (s *Store) settings(ctx context.Context, d daemon) (settings, error) {
	exports, _ := d.plugin(string(plugins.CRIServicePlugin), "images") // there is none in 1.x
	if v := exports["DiscardUnpackedLayers"]; v == "true" || v == "false" {
		return settings{discards: v == "true", discardsKnown: true}, nil
	}
	resp, err := runtimeapi.NewRuntimeServiceClient(s.conn).Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		return settings{}, fmt.Errorf("ask containerd's CRI for its status: %w", err)
	}
	var config struct {
		Containerd          struct{ DiscardUnpackedLayers *bool }
		ImagePullWithSyncFs bool
	}
	// What cannot be parsed says nothing, as what is not there.
	_ = json.Unmarshal([]byte(resp.GetInfo()["config"]), &config)
	found := settings{syncs: config.ImagePullWithSyncFs}
	if v := config.Containerd.DiscardUnpackedLayers; v != nil {
		found.discards, found.discardsKnown = *v, true
	}
	return found, nil
}

// versionNumbers reads the first three numbers of a version.
func versionNumbers(version string) (n [3]int, ok bool) {
	for i, f := range strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3) {
		if end := strings.IndexFunc(f, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
			f = f[:end]
		}
		var err error
		if n[i], err = strconv.Atoi(f); err != nil {
			return n, false
		}
	}
	return n, true
}
