//go:build e2e

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
)

// aliased is a registry host whose images are those of mirrored.
const aliased = "alias.invalid"

// checkImage checks that an image is Ready as the design has it: CRI reports it under every name, it is pinned where CRI's
// own pulls do not erase that, a kubelet's pull of each name fetches no blob, and nothing is left over.
func (n *node) checkImage(mirror *site, img image, names ...string) {
	n.t.Helper()
	for _, name := range names {
		status, err := n.cri.ImageStatus(n.t.Context(), name)
		if err != nil {
			n.t.Fatal(err)
		}
		if status.GetId() != img.id {
			n.t.Errorf("CRI has %q for %s, want %s", status.GetId(), name, img.id)
		}
		if status.GetPinned() != n.knowsPins() {
			n.t.Errorf("CRI says of %s: pinned=%v", name, status.GetPinned())
		}
	}
	mirror.SetScript(nil)
	mirror.Reset()
	for _, name := range names {
		n.mustPull(name, img)
	}
	if got := mirror.blobs(); got > 0 {
		n.t.Errorf("the kubelet's pulls of a Ready image asked for %d blobs", got)
	}
	n.checkPin(img)
	n.checkLeftovers()
	n.checkContent()
}

// allNames are the names under which the tests want an image: tag, alias and digest.
func allNames(img image) []string {
	return []string{img.under(mirrored), img.under(aliased), mirrored + "/" + img.repo + "@" + img.digest}
}

// ctrd connects to the node's containerd.
func (n *node) ctrd() *containerd.Client {
	n.t.Helper()
	c, err := containerd.New(n.containerd.Address(), containerd.WithDefaultNamespace("k8s.io"))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		if err := c.Close(); err != nil {
			n.t.Error(err)
		}
	})
	return c
}

// knowsPins tells whether the node's containerd knows pins. Debian 12's does not, which the agent says (prefetch/store).
func (n *node) knowsPins() bool {
	return !strings.HasPrefix(strings.TrimPrefix(n.containerd.Version(), "v"), "1.6.20")
}

// checkPin checks that the pin is on the record that CRI names by the image's ID, the only one whose labels survive pulls.
func (n *node) checkPin(img image) {
	n.t.Helper()
	record, err := n.ctrd().ImageService().Get(namespaces.WithNamespace(n.t.Context(), "k8s.io"), img.id)
	if err != nil {
		n.t.Error(err)
		return
	}
	if pinned := record.Labels["io.cri-containerd.pinned"] == "pinned"; pinned != n.knowsPins() {
		n.t.Errorf("the record %s has labels %v: pinned=%v", img.id, record.Labels, pinned)
	}
}

// checkLeftovers checks that no lease and no ingest is left.
func (n *node) checkLeftovers() {
	n.t.Helper()
	client, ctx := n.ctrd(), namespaces.WithNamespace(n.t.Context(), "k8s.io")
	waitFor(n.t, "no lease and no ingest to be left", func() string {
		leases, err := client.LeasesService().List(ctx)
		if err != nil {
			return err.Error()
		}
		ingests, err := client.ContentStore().ListStatuses(ctx)
		if err != nil {
			return err.Error()
		}
		if len(leases)+len(ingests) > 0 {
			return fmt.Sprintf("leases %v, ingests %v", leases, ingests)
		}
		return ""
	})
}

// checkContent checks that every blob on the disk has the digest that is its name: a wrong one would poison it for good.
func (n *node) checkContent() {
	n.t.Helper()
	blobs, err := filepath.Glob(filepath.Join(n.containerd.Root(), "io.containerd.content.v1.content/blobs/sha256/*"))
	if err != nil {
		n.t.Fatal(err)
	}
	for _, path := range blobs {
		got, err := fileDigest(path)
		if err != nil && !os.IsNotExist(err) {
			n.t.Fatal(err)
		}
		if err == nil && got != filepath.Base(path) {
			n.t.Errorf("%s holds content with the digest %s", path, got)
		}
	}
}

func fileDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// checkAbsent checks that CRI knows nothing of an image, and that what is on the disk of it is right.
func (n *node) checkAbsent(names ...string) {
	n.t.Helper()
	for _, name := range names {
		status, err := n.cri.ImageStatus(n.t.Context(), name)
		if err != nil {
			n.t.Fatal(err)
		}
		if status != nil {
			n.t.Errorf("CRI has %v for %s, which could not be fetched", status, name)
		}
	}
	images, err := n.cri.ListImages(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	if len(images) > 0 {
		n.t.Errorf("CRI lists %v", images)
	}
	n.checkContent()
}

// dockerConfig is a docker config JSON with a login for some hosts.
func dockerConfig(user, password string, hosts ...string) []byte {
	var auths []string
	for _, h := range hosts {
		auths = append(auths, fmt.Sprintf(`%q: {"username": %q, "password": %q}`, h, user, password))
	}
	return fmt.Appendf(nil, `{"auths": {%s}}`, strings.Join(auths, ", "))
}

// contains tells whether all texts are in s.
func contains(s string, texts ...string) bool {
	return !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(s, text) })
}
