package store

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hotplate-dev/hotplate/prefetch"
)

// The defaults of Config.
const (
	DefaultNamespace   = "k8s.io"
	DefaultSnapshotter = "overlayfs"
	DefaultOwner       = "hotplate"
	DefaultMaxResume   = 1 << 30
)

// snapshotLabel, with the snapshotter's name behind it, is the label of a config that keeps its snapshots from being
// collected (core/metadata/gc.go, labelGCSnapRef, 2.4.2). Whoever unpacks an image sets it.
const snapshotLabel = "containerd.io/gc.ref.snapshot."

// maxMetadata bounds what is read of an index, manifest or config.
const maxMetadata = 8 << 20

// Config is what a Store needs.
type Config struct {
	// Address is containerd's socket; required.
	Address string
	// Log is required.
	Log *slog.Logger
	// Namespace is CRI's. Default: k8s.io.
	Namespace string
	// Snapshotter is the one that CRI uses. Default: overlayfs.
	Snapshotter string
	// Owner marks leases, pins and directories as ours. Two programs on one node that must not touch each other's have
	// different ones. Default: hotplate.
	Owner string
	// MaxResume is the largest partial layer, in bytes, that is continued; a larger one is thrown away and fetched anew.
	// containerd reads and hashes all of it when it is opened, inside a write transaction of its database
	// (core/metadata/content.go and plugins/content/local/store.go, resumeStatus, 2.4.2), and no container can be
	// created meanwhile. Default: 1 GiB, about a second.
	MaxResume int64
}

// Store is containerd, seen as a prefetch.Store. It is safe for concurrent use. It connects when it is first used, and
// again when the daemon has been away.
type Store struct {
	cfg    Config
	client *containerd.Client
	conn   grpc.ClientConnInterface
	cri    runtimeapi.ImageServiceClient
	roots  atomic.Pointer[roots] // as they were last
	// at is what the last call of Way found, for new sessions; nil where the direct way is closed.
	at atomic.Pointer[layout]
	// syncs tells whether CRI syncs the filesystem of each layer that it unpacks, as the last call of Way found.
	syncs  atomic.Bool
	syncFS func(dir string) error
	// process tells our probes from those of another process. The times are the constants.
	process              string
	probeTime, probeLife time.Duration
}

var _ prefetch.Store = (*Store)(nil)

// New returns a Store that talks to the daemon at cfg.Address. It must be closed.
func New(cfg Config) (*Store, error) {
	if cfg.Address == "" || cfg.Log == nil {
		return nil, errors.New("store: Address and Log are required")
	}
	cfg.Namespace = cmp.Or(cfg.Namespace, DefaultNamespace)
	cfg.Snapshotter = cmp.Or(cfg.Snapshotter, DefaultSnapshotter)
	cfg.Owner = cmp.Or(cfg.Owner, DefaultOwner)
	cfg.MaxResume = cmp.Or(cfg.MaxResume, DefaultMaxResume)
	if filepath.Base(cfg.Owner) != cfg.Owner || !filepath.IsLocal(cfg.Owner) {
		return nil, fmt.Errorf("store: Owner %q is no name of a directory", cfg.Owner)
	}
	client, err := containerd.New(cfg.Address, containerd.WithDefaultNamespace(cfg.Namespace),
		containerd.WithExtraDialOpts([]grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstWait, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnect},
			MinConnectTimeout: reconnect,
		})}))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd at %s: %w", cfg.Address, err)
	}
	conn, ok := client.Conn().(grpc.ClientConnInterface)
	if !ok {
		client.Close()
		return nil, fmt.Errorf("connect to containerd at %s: its client has no gRPC connection", cfg.Address)
	}
	return &Store{cfg: cfg, client: client, conn: conn, cri: runtimeapi.NewImageServiceClient(conn),
		syncFS: syncFS, process: rand.Text(), probeTime: probeTime, probeLife: probeLife}, nil
}

// Close ends the connection.
func (s *Store) Close() error { return s.client.Close() }

func (s *Store) in(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, s.cfg.Namespace)
}

// State implements prefetch.Store.
func (s *Store) State(ctx context.Context, q prefetch.Query) (st prefetch.State, err error) {
	defer away(&err)
	ctx = s.in(ctx)
	st = prefetch.State{
		Target: q.Target, Names: make(map[string]digest.Digest), Visible: make(map[string]digest.Digest),
	}
	version, err := s.client.Version(ctx)
	if err != nil {
		return st, fmt.Errorf("ask containerd at %s for its version: %w", s.cfg.Address, err)
	}
	st.Runtime = "containerd " + strings.TrimPrefix(version.Version, "v")
	st.PinSupported = knowsPins(version.Version)
	for i, name := range q.Names {
		img, err := s.client.ImageService().Get(ctx, name)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return st, fmt.Errorf("read image record %s: %w", name, err)
		}
		st.Names[name] = img.Target.Digest
		if i == 0 && q.Target == "" {
			st.Target = img.Target.Digest
		}
	}
	if st.Target == "" && len(q.Names) > 0 {
		if st.Target, err = s.targetOf(ctx, q.Names[0]); err != nil {
			return st, err
		}
	}
	if st.Target == "" {
		return st, nil
	}
	if err := s.lookAtContent(ctx, q, &st); err != nil {
		return st, err
	}
	if st.Config == "" {
		return st, nil
	}
	return st, s.askCRI(ctx, q.Names, &st)
}

// document is what an index, a manifest and a config have between them.
type document struct {
	Manifests    []ocispec.Descriptor `json:"manifests"`
	ArtifactType string               `json:"artifactType"`
	Config       ocispec.Descriptor   `json:"config"`
	Layers       []ocispec.Descriptor `json:"layers"`
	RootFS       ocispec.RootFS       `json:"rootfs"`
}

// lookAtContent follows target to the chain ID. What is not in the store stays empty.
func (s *Store) lookAtContent(ctx context.Context, q prefetch.Query, st *prefetch.State) error {
	manifest, doc := st.Target, document{}
	for depth := 0; ; depth++ {
		ok, err := s.readDocument(ctx, manifest, &doc)
		if err != nil || !ok {
			return err
		}
		if len(doc.Manifests) == 0 || depth == 4 {
			break
		}
		chosen, err := prefetch.Choose(doc.Manifests, q.Platform)
		if err != nil {
			return fmt.Errorf("index %s: %w", manifest, err)
		}
		manifest, doc = chosen.Digest, document{}
	}
	st.Manifest = manifest
	if doc.artifact() != "" {
		return s.lookAtArtifact(ctx, q, doc, st)
	}
	config := doc.Config.Digest
	doc = document{}
	if ok, err := s.readDocument(ctx, config, &doc); err != nil || !ok {
		return err
	}
	st.Config, st.ChainID = config, identity.ChainID(doc.RootFS.DiffIDs)
	_, err := s.client.SnapshotService(s.cfg.Snapshotter).Stat(ctx, st.ChainID.String())
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for snapshot %s: %w", st.ChainID, err)
	}
	st.Snapshot = true
	info, err := s.content().Info(ctx, config)
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("look for the labels of %s: %w", config, err)
	}
	st.Unpacked = err == nil && info.Labels[snapshotLabel+s.cfg.Snapshotter] == st.ChainID.String()
	return nil
}

// readDocument reads a small JSON blob; false means that it is not in the store.
func (s *Store) readDocument(ctx context.Context, dgst digest.Digest, doc *document) (bool, error) {
	if dgst == "" {
		return false, nil
	}
	if err := dgst.Validate(); err != nil {
		return false, fmt.Errorf("digest %q: %w", dgst, err)
	}
	data, err := s.read(ctx, dgst, maxMetadata)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(data, doc); err != nil {
		return false, fmt.Errorf("parse %s from containerd: %w", dgst, err)
	}
	return true, nil
}

func (s *Store) read(ctx context.Context, dgst digest.Digest, limit int64) ([]byte, error) {
	ra, err := s.client.ContentStore().ReaderAt(ctx, ocispec.Descriptor{Digest: dgst})
	if err != nil {
		return nil, fmt.Errorf("read %s from containerd: %w", dgst, err)
	}
	defer ra.Close()
	if ra.Size() > limit {
		return nil, fmt.Errorf("read %s from containerd: %d bytes are more than %d", dgst, ra.Size(), limit)
	}
	data := make([]byte, ra.Size())
	if n, err := ra.ReadAt(data, 0); n < len(data) {
		return nil, fmt.Errorf("read %s from containerd: %d of %d bytes: %w", dgst, n, len(data), err)
	}
	if got := dgst.Algorithm().FromBytes(data); got != dgst {
		return nil, fmt.Errorf("read %s from containerd: its content has digest %s: delete it with \"ctr content rm\"", dgst, got)
	}
	return data, nil
}

func (s *Store) askCRI(ctx context.Context, names []string, st *prefetch.State) error {
	for _, name := range append([]string{st.Config.String()}, names...) {
		resp, err := s.cri.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: name}})
		if err != nil {
			return fmt.Errorf("ask containerd's CRI for image %s: %w", name, err)
		}
		if resp.GetImage() == nil {
			continue
		}
		if name == st.Config.String() {
			st.Pinned = resp.GetImage().GetPinned()
			continue
		}
		st.Visible[name] = digest.Digest(resp.GetImage().GetId())
	}
	return nil
}

// knowsPins tells whether CRI of this version heeds the pin label: since 1.6.22 and 1.7.3, seen in the sources; 1.6.20,
// which Debian 12 ships, does not. An unreadable version is taken for a new one.
func knowsPins(version string) bool {
	n, ok := versionNumbers(version)
	if !ok {
		return true
	}
	switch {
	case n[0] != 1:
		return n[0] > 1
	case n[1] == 7:
		return n[2] >= 3
	case n[1] == 6:
		return n[2] >= 22
	}
	return n[1] > 7
}

// isImage tells whether an image record is the one that CRI names by the image's ID.
func isImage(img images.Image) (digest.Digest, bool) {
	id, err := digest.Parse(img.Name)
	return id, err == nil
}

func (s *Store) content() content.Store { return s.client.ContentStore() }
