package rig

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"
	"k8s.io/client-go/rest"
)

// Users that Kubernetes has roles for, and its groups of administrators and nodes.
const (
	userManager   = "system:kube-controller-manager"
	userScheduler = "system:kube-scheduler"
	userProxy     = "system:kube-proxy"
	userNode      = "system:node:"
	groupAdmins   = "system:masters"
	groupNodes    = "system:nodes"
)

// pki is the path of a file with a certificate, a key or a client's configuration.
func (c *Cluster) pki(name string) string { return filepath.Join(c.cfg.Dir, "pki", name) }

// corefile has the place for the path of a client's configuration. DNS knows services and nothing else.
const corefile = `.:53 {
	errors
	ready 127.0.0.1:8181
	kubernetes ` + clusterDomain + ` in-addr.arpa {
		kubeconfig %s
	}
}
`

// writePKI makes an authority for everything in the cluster, the control plane's certificates, and its programs'
// configurations.
func (c *Cluster) writePKI() error {
	var err error
	if c.ca, err = NewCA("rig-cluster"); err != nil {
		return err
	}
	caKey, err := c.ca.keyPEM()
	if err != nil {
		return err
	}
	files := map[string][]byte{"ca.crt": c.ca.PEM(), "ca.key": caKey}
	for name, o := range map[string]CertOptions{
		"apiserver": {CommonName: "kube-apiserver", Hosts: []string{
			clusterIP, serviceIP, "127.0.0.1", "kubernetes.default.svc." + clusterDomain, "kubernetes.default.svc",
		}},
		"kubelet-client": {CommonName: "kube-apiserver", Organizations: []string{groupAdmins}, Client: true},
	} {
		if files[name+".crt"], files[name+".key"], err = c.ca.IssueWith(o); err != nil {
			return err
		}
	}
	if files["sa.key"], files["sa.pub"], err = signingKey(); err != nil {
		return err
	}
	for _, user := range []string{userManager, userScheduler} {
		if files[user+".conf"], err = c.kubeconfig(user); err != nil {
			return err
		}
	}
	if files["admin.conf"], err = c.kubeconfig("admin", groupAdmins); err != nil {
		return err
	}
	files["Corefile"] = fmt.Appendf(nil, corefile, c.pki("admin.conf"))
	for name, data := range files {
		if err := os.WriteFile(c.pki(name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// signingKey makes the key pair of service accounts' tokens.
func signingKey() (private, public []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make the key of service accounts: %w", err)
	}
	if private, err = encodeKey(key); err != nil {
		return nil, nil, fmt.Errorf("make the key of service accounts: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, nil, fmt.Errorf("make the key of service accounts: %w", err)
	}
	return private, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// kubeconfig renders the configuration of a client that is this user in these groups.
func (c *Cluster) kubeconfig(user string, groups ...string) ([]byte, error) {
	cert, key, err := c.ca.IssueWith(CertOptions{CommonName: user, Organizations: groups, Client: true})
	if err != nil {
		return nil, err
	}
	encode := base64.StdEncoding.EncodeToString
	return yaml.Marshal(table{
		"apiVersion": "v1", "kind": "Config", "current-context": "rig",
		"clusters": []table{{"name": "rig", "cluster": table{
			"server": "https://" + apiAddr, "certificate-authority-data": encode(c.ca.PEM()),
		}}},
		"users": []table{{"name": user, "user": table{
			"client-certificate-data": encode(cert), "client-key-data": encode(key),
		}}},
		"contexts": []table{{"name": "rig", "context": table{"cluster": "rig", "user": user}}},
	})
}

// RESTConfigFor is how this process reaches the API server as a user in these groups, with a certificate that is valid
// for a day and no limit on the rate.
func (c *Cluster) RESTConfigFor(user string, groups ...string) (*rest.Config, error) {
	cert, key, err := c.ca.IssueWith(CertOptions{CommonName: user, Organizations: groups, Client: true})
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host:            "https://" + apiAddr,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.ca.PEM(), CertData: cert, KeyData: key},
		Dial:            c.Dial,
		QPS:             -1,
	}, nil
}
