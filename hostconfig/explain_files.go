package hostconfig

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// maxRead bounds a file that Explain reads, in bytes. containerd has no bound.
const maxRead = 8 << 20

// errOutside is for a file that the hosts directory does not hold.
var errOutside = errors.New("it lies outside of the hosts directory")

// resolve makes one host as the loop of ConfigureHosts does. The error is one that fails every pull.
func (ex *explainer) resolve(e HostEntry) (ResolvedHost, error) {
	rh := ResolvedHost{
		Scheme: e.Scheme, Host: e.Host, Path: e.Path, Capabilities: e.Capabilities,
		SkipVerify: e.SkipVerify != nil && *e.SkipVerify, DialTimeout: containerdDialTimeout, entry: e,
	}
	if e.DialTimeout != nil {
		rh.DialTimeout = *e.DialTimeout
	}
	if triesHTTPS(e, ex.res.Version) {
		rh.Scheme, rh.HTTPFallback = "https", true
	}
	rh.URL = rh.Scheme + "://" + rh.Host + rh.Path
	for _, name := range e.HeaderNames() {
		rh.Headers = append(rh.Headers, redactHeader(name, e.header[name]))
	}
	var failure error
	for _, p := range e.CA {
		shown, err := ex.checkCA(p)
		rh.CA = append(rh.CA, shown)
		failure = firstError(failure, err)
	}
	for _, pair := range e.Client {
		shown, err := ex.checkClient(pair)
		rh.Client = append(rh.Client, shown)
		failure = firstError(failure, err)
	}
	return rh, failure
}

func firstError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// redactHeader shows a header's name, and of Authorization the scheme.
func redactHeader(name string, values []string) string {
	if strings.EqualFold(name, "Authorization") && len(values) > 0 {
		for _, scheme := range []string{"Basic", "Bearer"} {
			if len(values[0]) > len(scheme) && strings.EqualFold(values[0][:len(scheme)+1], scheme+" ") {
				return name + ": " + scheme + " (redacted)"
			}
		}
	}
	return name + ": (redacted)"
}

func (ex *explainer) checkCA(p string) (string, error) {
	shown, data, err := ex.read(p)
	switch {
	case errors.Is(err, errOutside):
		ex.warn(Info, "not-checked", shown, "this CA file lies outside of the hosts directory and was not read; if it "+
			"is missing, every pull fails")
		return shown, nil
	case err != nil:
		err = fmt.Errorf("the CA file %s cannot be read: %w", shown, err)
	case !x509.NewCertPool().AppendCertsFromPEM(data):
		err = fmt.Errorf("the CA file %s holds no certificate in PEM", shown)
	default:
		return shown, nil
	}
	ex.warn(Severe, "bad-ca", shown, "%v; every pull of this registry fails, with upstream allowed too", err)
	return shown, err
}

func (ex *explainer) checkClient(pair [2]string) ([2]string, error) {
	certPath, cert, certErr := ex.read(pair[0])
	keyPath, key, keyErr := "", cert, error(nil)
	if pair[1] != "" {
		keyPath, key, keyErr = ex.read(pair[1])
	}
	shown := [2]string{certPath, keyPath}
	if errors.Is(certErr, errOutside) || errors.Is(keyErr, errOutside) {
		ex.warn(Info, "not-checked", certPath, "this client certificate lies outside of the hosts directory and was "+
			"not read; if it or its key is missing, every pull fails")
		return shown, nil
	}
	err := firstError(certErr, keyErr)
	if err != nil {
		err = fmt.Errorf("the client certificate %s or its key cannot be read: %w", certPath, err)
	} else if _, err = tls.X509KeyPair(cert, key); err != nil {
		err = fmt.Errorf("the client certificate %s and its key do not load: %w", certPath, err)
	}
	if err != nil {
		ex.warn(Severe, "bad-client", certPath, "%v; every pull of this registry fails, with upstream allowed too", err)
	}
	return shown, err
}

// read reads a file that a hosts.toml names. It returns the path in the hosts directory, or the absolute one with
// errOutside.
func (ex *explainer) read(p string) (string, []byte, error) {
	name := p
	if !path.IsAbs(p) { // makeAbsPath
		name = path.Join(ex.res.Dir, p)
	} else if rest, ok := strings.CutPrefix(path.Clean(p), ex.root+"/"); ok && ex.root != "" {
		name = rest
	}
	if !fs.ValidPath(name) {
		return name, nil, errOutside
	}
	data, err := readFS(ex.fsys, name)
	return name, data, err
}

// readFS reads a file of bounded size. It refuses what is not a regular file before opening it.
func readFS(fsys fs.FS, name string) ([]byte, error) {
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxRead+1))
	if err == nil && len(data) > maxRead {
		err = fmt.Errorf("%s has more than %d bytes", name, maxRead)
	}
	return data, err
}
