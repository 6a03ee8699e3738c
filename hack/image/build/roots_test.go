package build_test

import (
	"crypto/x509"
	"slices"
	"testing"

	"golang.org/x/crypto/x509roots/fallback/bundle"

	"github.com/hotplate-dev/hotplate/certs"
)

func TestRootsAreThoseOfMozilla(t *testing.T) {
	r := smallImage(t)
	base := entries(t, platform(t, r, "amd64"))[0]
	// Our own parser is stricter than Go's: it refuses whatever is not a certificate.
	got, err := certs.ParseBundle(base[len(base)-1].content)
	if err != nil {
		t.Fatal(err)
	}
	has := func(der []byte) bool {
		return slices.ContainsFunc(got.Certificates(), func(c *x509.Certificate) bool { return string(c.Raw) == string(der) })
	}
	want := 0
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			want++
		}
		if has(root.Certificate) != (root.Constraint == nil) {
			t.Errorf("a root with a constraint: %t, in the image: %t", root.Constraint != nil, has(root.Certificate))
		}
	}
	if got.Len() != want || want < 50 {
		t.Errorf("the image has %d roots, Mozilla %d without a constraint", got.Len(), want)
	}
	if !slices.ContainsFunc(got.Certificates(), func(c *x509.Certificate) bool { return c.Subject.CommonName == "ISRG Root X1" }) {
		t.Error("the root of Let's Encrypt is missing")
	}
}
