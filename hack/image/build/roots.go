package build

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os/exec"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// rootsModule has Mozilla's roots for TLS servers as data. The Go project makes a new version whenever Mozilla changes
// them, and govulncheck says when that matters. go.mod chooses the version, so the same commit has the same roots.
const rootsModule = "golang.org/x/crypto/x509roots/fallback"

// roots are the certificate authorities in the image.
type roots struct {
	pem []byte
	// count is how many there are. leftOut are the subjects of those that Mozilla trusts with a condition, such as no
	// certificate issued after some day: a PEM file cannot say that, and trust without it is more than Mozilla gives.
	count   int
	leftOut []string
}

func readRoots() (roots, error) {
	var r roots
	var text bytes.Buffer
	for root := range bundle.Roots() {
		cert, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			return roots{}, fmt.Errorf("read the CA roots: %w", err)
		}
		if root.Constraint != nil {
			r.leftOut = append(r.leftOut, cert.Subject.String())
			continue
		}
		fmt.Fprintf(&text, "# %s\n", cert.Subject)
		if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}); err != nil {
			return roots{}, fmt.Errorf("write the CA roots: %w", err)
		}
		r.count++
	}
	r.pem = text.Bytes()
	return r, nil
}

// module is a Go module as go.sum knows it.
type module struct{ Path, Version, Sum string }

// moduleOf asks the go command which version of a module the tree in dir uses.
func moduleOf(ctx context.Context, dir, path string) (module, error) {
	out, err := output(exec.CommandContext(ctx, "go", "list", "-m", "-json", path), dir)
	if err != nil {
		return module{}, err
	}
	var m module
	if err := json.Unmarshal(out, &m); err != nil {
		return module{}, fmt.Errorf("read the version of %s: %w", path, err)
	}
	if m.Version == "" || m.Sum == "" {
		return module{}, fmt.Errorf("%s has the version %q and the sum %q: the image needs both", path, m.Version, m.Sum)
	}
	return m, nil
}
