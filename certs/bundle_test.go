package certs_test

import (
	"bytes"
	"crypto/x509"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hotplate-dev/hotplate/certs"
)

func TestParseBundle(t *testing.T) {
	a, b := selfSigned(t, 1, "a"), selfSigned(t, 2, "b")
	text := func(parts ...string) []byte { return []byte(strings.Join(parts, "")) }
	pemA, pemB, key := string(a.certPEM()), string(b.certPEM()), string(a.pkcs8())
	body := strings.SplitAfter(pemA, "\n")
	for name, tc := range map[string]struct {
		data []byte
		want int    // certificates
		err  string // part of the error
	}{
		"one certificate":                       {data: text(pemA), want: 1},
		"two certificates":                      {data: text(pemA, pemB), want: 2},
		"the same certificate twice counts one": {data: text(pemA, pemB, pemA), want: 2},
		"text of openssl between blocks": {
			data: text("Certificate:\n    Data:\n        Version: 3 (0x2)\n", pemA,
				"\n# b - our CA\n=====\n", pemB, "end\n"),
			want: 2,
		},
		"line ends of Windows": {
			data: bytes.ReplaceAll(text(pemA, pemB), []byte("\n"), []byte("\r\n")), want: 2,
		},
		"no newline at the end": {data: bytes.TrimSpace(text(pemA)), want: 1},
		"nothing":               {data: nil, err: "no PEM block"},
		"only text":             {data: text("hello\n"), err: "no PEM block"},
		"DER":                   {data: a.cert.Raw, err: "openssl x509 -inform der"},
		"a private key": {
			data: text(pemA, key), err: "block 2: it is a private key (PRIVATE KEY); remove it",
		},
		"a trusted certificate of OpenSSL": {
			data: text(strings.ReplaceAll(pemA, " CERT", " TRUSTED CERT")),
			err:  `block 1: it is a "TRUSTED CERTIFICATE"`,
		},
		"headers in a block": {
			data: text(body[0], "Proc-Type: 4\n\n", strings.Join(body[1:], "")), err: "PEM headers (Proc-Type)",
		},
		"a block without its end": {
			data: text(pemA, strings.Join(body[:3], "")), err: "block 2: CERTIFICATE has no end line",
		},
		"an end without its block": {data: text(pemA, body[len(body)-2]), err: "block 2: a line with"},
		"a broken block before a whole one": {
			data: text(strings.Join(body[:2], ""), pemB), err: "block 1: CERTIFICATE is broken",
		},
		"a block that is not base64": {
			data: text(body[0], "!!!!\n", strings.Join(body[1:], "")), err: "block 1: CERTIFICATE is broken",
		},
		"an indented block": {
			data: bytes.ReplaceAll(text(pemA), []byte("-----B"), []byte("  -----B")), err: "block 1: a line with",
		},
		"a block with other bytes in it": {data: block("CERTIFICATE", []byte("hello")), err: "block 1: x509"},
		"a bundle that is too big":       {data: bytes.Repeat([]byte("\n"), certs.MaxSize+1), err: "more than"},
		"too many certificates": {
			data: bytes.Repeat(text(pemA), certs.MaxCertificates+1), err: "more than 1000 blocks",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := certs.ParseBundle(tc.data)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("got error %v, want one with %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.Len() != tc.want {
				t.Errorf("got %d certificates, want %d", got.Len(), tc.want)
			}
		})
	}
}

func TestEqualSetsHaveEqualBytes(t *testing.T) {
	a, b, c := selfSigned(t, 1, "a"), selfSigned(t, 2, "b"), selfSigned(t, 3, "c")
	parse := func(list ...issued) certs.Bundle {
		var data []byte
		for _, i := range list {
			data = append(data, i.certPEM()...)
		}
		got, err := certs.ParseBundle(data)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	want := parse(a, b, c)
	for _, got := range []certs.Bundle{
		parse(c, b, a, b), certs.Merge(parse(b), parse(a, c)), certs.Merge(parse(a, b), parse(b, c), certs.Bundle{}),
	} {
		if !got.Equal(want) || !bytes.Equal(got.PEM(), want.PEM()) || got.FileName() != want.FileName() {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if other := parse(a, b); other.Equal(want) || other.FileName() == want.FileName() {
		t.Errorf("%s and %s are different sets", other, want)
	}
	reread, err := certs.ParseBundle(want.PEM())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, reread); diff != "" {
		t.Errorf("PEM() read back (-want +got):\n%s", diff)
	}
}

func TestBundleWithout(t *testing.T) {
	a, b := selfSigned(t, 1, "a"), selfSigned(t, 2, "b")
	both, err := certs.ParseBundle(slices.Concat(a.certPEM(), b.certPEM()))
	if err != nil {
		t.Fatal(err)
	}
	got := both.Without(func(c *x509.Certificate) bool { return c.Subject.CommonName == "a" })
	if got.Len() != 1 || got.Certificates()[0].Subject.CommonName != "b" {
		t.Errorf("got %v", got.Certificates())
	}
	if both.Len() != 2 {
		t.Error("Without changed the bundle it was called on")
	}
	if zero := got.Without(func(*x509.Certificate) bool { return true }); !zero.IsZero() || zero.PEM() != nil {
		t.Errorf("an empty bundle has the bytes %q", zero.PEM())
	}
}

func TestPoolAddsToTheBase(t *testing.T) {
	a, b := selfSigned(t, 1, "a"), selfSigned(t, 2, "b")
	bundle, err := certs.ParseBundle(a.certPEM())
	if err != nil {
		t.Fatal(err)
	}
	base, want := x509.NewCertPool(), x509.NewCertPool()
	base.AddCert(b.cert)
	want.AddCert(b.cert)
	want.AddCert(a.cert)
	if !bundle.Pool(base).Equal(want) {
		t.Error("the pool does not hold both")
	}
	if base.Equal(want) {
		t.Error("the base was changed")
	}
	if bundle.Pool(nil).Equal(base) {
		t.Error("a nil base is not empty")
	}
}

// A bundle that is accepted keeps its meaning through its own bytes, and holds what crypto/x509 finds in the source.
func FuzzParseBundle(f *testing.F) {
	a, b := selfSigned(f, 1, "a"), selfSigned(f, 2, "b")
	f.Add(a.certPEM())
	f.Add(slices.Concat([]byte("text\n"), a.certPEM(), []byte("more\n"), b.certPEM()))
	f.Add(slices.Concat(a.certPEM(), a.pkcs8()))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("-----BEGIN A-----\n-----END B-----\n-----END A-----"))
	f.Fuzz(func(t *testing.T, data []byte) {
		bundle, err := certs.ParseBundle(data)
		if err != nil {
			return
		}
		again, err := certs.ParseBundle(bundle.PEM())
		if err != nil || !again.Equal(bundle) {
			t.Fatalf("PEM() does not read back: %v", err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(data)
		if !pool.Equal(bundle.Pool(nil)) {
			t.Fatal("crypto/x509 finds other certificates")
		}
	})
}
