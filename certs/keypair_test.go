package certs_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hotplate-dev/hotplate/certs"
)

func ecPair(t testing.TB) (issued, []byte) {
	t.Helper()
	key := ecKey(t)
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	i := sign(t, key, &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "ec"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
	})
	return i, block("EC PRIVATE KEY", der)
}

func TestParseKeyPair(t *testing.T) {
	a, b := selfSigned(t, 1, "a"), selfSigned(t, 2, "b")
	ec, ecPEM := ecPair(t)
	rsaPriv := rsaKey(t)
	rsaCert := sign(t, rsaPriv, &x509.Certificate{SerialNumber: big.NewInt(8), Subject: pkix.Name{CommonName: "rsa"}})
	rsaPEM := block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaPriv))
	for name, tc := range map[string]struct {
		cert, key []byte
		err       string
	}{
		"a matching pair":      {cert: a.certPEM(), key: a.pkcs8()},
		"a chain, leaf first":  {cert: slices.Concat(a.certPEM(), b.certPEM()), key: a.pkcs8()},
		"an RSA key in PKCS 1": {cert: rsaCert.certPEM(), key: rsaPEM},
		"an EC key as openssl writes it": {
			cert: ec.certPEM(), key: slices.Concat(block("EC PARAMETERS", []byte{6, 0}), ecPEM),
		},
		"a chain with the leaf last": {
			cert: slices.Concat(b.certPEM(), a.certPEM()), key: a.pkcs8(), err: `"CN=a", which is not the first`,
		},
		"a key of somebody else": {
			cert: a.certPEM(), key: b.pkcs8(), err: `does not belong to the certificate "CN=a"`,
		},
		"a key among the certificates": {
			cert: slices.Concat(a.certPEM(), a.pkcs8()),
			key:  a.pkcs8(),
			err:  "certificate: block 2: it is a private key",
		},
		"a certificate in the key file": {
			cert: a.certPEM(),
			key:  slices.Concat(a.pkcs8(), a.certPEM()),
			err:  "private key: block 2: it is a \"CERTIFICATE\"",
		},
		"two keys": {
			cert: a.certPEM(), key: slices.Concat(a.pkcs8(), b.pkcs8()), err: "second private key",
		},
		"an encrypted key": {
			cert: a.certPEM(), key: block("ENCRYPTED PRIVATE KEY", []byte("x")), err: "it is encrypted",
		},
		"a key of OpenSSH": {
			cert: a.certPEM(), key: block("OPENSSH PRIVATE KEY", []byte("x")), err: "openssl pkey",
		},
		"a broken key": {
			cert: a.certPEM(), key: block("PRIVATE KEY", []byte("x")), err: "does not parse",
		},
		"no key":                          {cert: a.certPEM(), err: "no PEM block of type PRIVATE KEY"},
		"neither, and both are reported":  {err: "private key: it holds no PEM block"},
		"neither, and both are reported.": {err: "certificate: it holds no PEM block"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := certs.ParseKeyPair(tc.cert, tc.key)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("got error %v, want one with %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := got.TLS(); err != nil {
				t.Errorf("crypto/tls refuses it: %v", err)
			}
			again, err := certs.ParseKeyPair(got.CertPEM(), got.KeyPEM())
			if err != nil || !again.Equal(got) {
				t.Errorf("canonical PEM does not read back: %v", err)
			}
		})
	}
}

func TestKeyEncodingDoesNotChangeThePair(t *testing.T) {
	ec, sec1 := ecPair(t)
	a, err := certs.ParseKeyPair(ec.certPEM(), sec1)
	if err != nil {
		t.Fatal(err)
	}
	b, err := certs.ParseKeyPair(ec.certPEM(), ec.pkcs8())
	if err != nil {
		t.Fatal(err)
	}
	if !a.Equal(b) || a.KeyFileName() != b.KeyFileName() {
		t.Errorf("%s and %s are the same pair", a, b)
	}
	if !strings.HasSuffix(a.KeyFileName(), "-key.pem") || a.KeyFileName() == a.CertFileName() {
		t.Errorf("file names %s and %s", a.CertFileName(), a.KeyFileName())
	}
}

func TestPrintingNeverShowsTheKey(t *testing.T) {
	a := selfSigned(t, 1, "a")
	pair, err := certs.ParseKeyPair(a.certPEM(), a.pkcs8())
	if err != nil {
		t.Fatal(err)
	}
	type holder struct {
		Pair   certs.KeyPair
		Ptr    *certs.KeyPair
		hidden certs.KeyPair
	}
	h := holder{Pair: pair, Ptr: &pair, hidden: pair}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%X", "%o", "%08b", "%p"} {
		fmt.Fprintf(&out, verb+"\n", pair)
		fmt.Fprintf(&out, verb+"\n", &pair)
		fmt.Fprintf(&out, verb+"\n", h)
		fmt.Fprintf(&out, verb+"\n", &h)
		fmt.Fprintf(&out, verb+"\n", []any{h, h.hidden})
	}
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(handler).Info("pair", "pair", pair, "ptr", &pair, "holder", h)
	}
	if err := json.NewEncoder(&out).Encode(h); err != nil {
		t.Fatal(err)
	}
	der, _ := x509.MarshalPKCS8PrivateKey(a.key)
	secret := der[len(der)-32:]
	text := out.String()
	for _, form := range []string{
		"PRIVATE KEY", fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret),
		strings.Trim(fmt.Sprintf("%d", secret[:8]), "[]"),
		strings.Trim(fmt.Sprintf("%d", pair.KeyPEM()[:12]), "[]"), fmt.Sprintf("%x", pair.KeyPEM()[:12]),
		strings.Split(string(pair.KeyPEM()), "\n")[1],
	} {
		if strings.Contains(text, form) {
			t.Errorf("the output shows the key as %q", form)
		}
	}
	if !strings.Contains(text, pair.CertFileName()) {
		t.Error("the output does not name the pair")
	}
}

func TestZeroKeyPair(t *testing.T) {
	var zero certs.KeyPair
	if !zero.IsZero() || zero.CertPEM() != nil || zero.KeyPEM() != nil || zero.Leaf() != nil ||
		zero.Findings(time.Now()) != nil {
		t.Error("the zero pair holds something")
	}
	if _, err := zero.TLS(); err == nil {
		t.Error("the zero pair can be used")
	}
	if got := zero.String(); got != "no key pair" {
		t.Errorf("got %q", got)
	}
}

func FuzzParseKeyPair(f *testing.F) {
	a := selfSigned(f, 1, "a")
	f.Add(a.certPEM(), a.pkcs8())
	ec, sec1 := ecPair(f)
	f.Add(ec.certPEM(), sec1)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n"), []byte("-----BEGIN PRIVATE KEY-----\n\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, cert, key []byte) {
		pair, err := certs.ParseKeyPair(cert, key)
		if err != nil {
			return
		}
		again, err := certs.ParseKeyPair(pair.CertPEM(), pair.KeyPEM())
		if err != nil || !again.Equal(pair) {
			t.Fatalf("canonical PEM does not read back: %v", err)
		}
	})
}
