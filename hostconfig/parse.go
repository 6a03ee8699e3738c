package hostconfig

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// ErrRejected is in the chain of every error with which containerd rejects a hosts.toml as a whole. It then behaves as
// if the file were not there, which most often means that it goes to upstream.
var ErrRejected = errors.New("containerd rejects the file")

// HostsFile is what containerd makes of a hosts.toml.
type HostsFile struct {
	// Hosts are asked in this order. The last one is the root of the file; its URL is empty when there is no
	// `server`, and it then means the registry itself.
	Hosts []HostEntry
}

// HostEntry is one host of a hosts.toml: a [host] table, or the root.
type HostEntry struct {
	// URL is as it stands in the file.
	URL string
	// Scheme, Host and Path are what containerd makes of it.
	Scheme, Host, Path string
	Capabilities       []Capability
	// CA are paths as they stand in the file, relative to the host directory.
	CA []string
	// Client are pairs of certificate and key; an empty key means that the first file holds both.
	Client [][2]string
	// SkipVerify is nil where the file does not say.
	SkipVerify   *bool
	OverridePath bool
	// DialTimeout is nil where the file does not say or the version does not know it.
	DialTimeout *time.Duration

	header http.Header // may hold secrets, so it is not printed
}

// HeaderNames returns the names of the headers in byte order, without their values.
func (h HostEntry) HeaderNames() []string {
	names := make([]string, 0, len(h.header))
	for name := range h.header {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// hostTable follows hostFileConfig of core/remotes/docker/config/hosts.go, 2.4.2. Its types decide what is rejected.
type hostTable struct {
	Capabilities []string       `toml:"capabilities"`
	CACert       any            `toml:"ca"`
	Client       any            `toml:"client"`
	SkipVerify   *bool          `toml:"skip_verify"`
	Header       map[string]any `toml:"header"`
	OverridePath bool           `toml:"override_path"`
}

// dialTable is the table of the versions that know dial_timeout.
type dialTable struct {
	hostTable
	DialTimeout string `toml:"dial_timeout"`
}

type rootTable struct {
	dialTable
	Server string               `toml:"server"`
	Hosts  map[string]dialTable `toml:"host"`
}

// ParseHosts returns what containerd v makes of a hosts.toml, with warnings about what it does silently. Where it
// rejects the file the error is ErrRejected with the reason. It follows parseHostsFile of
// core/remotes/docker/config/hosts.go line by line, with the TOML library of 2.x; the one of 1.x may differ in what it
// takes for bad TOML. The zero v stands for the newest version that hotplate knows.
func ParseHosts(data []byte, v Version) (HostsFile, []Warning, error) {
	f, err := parseHosts(data, v)
	if err != nil {
		return HostsFile{}, nil, fmt.Errorf("%w: %w", ErrRejected, err)
	}
	return f, lintHosts(data, f, v), nil
}

func parseHosts(data []byte, v Version) (HostsFile, error) {
	if len(data) == 0 {
		return HostsFile{}, errors.New("it is empty")
	}
	names, err := hostNames(data, v)
	if err != nil {
		return HostsFile{}, err
	}
	root, err := decodeHosts(data, v)
	if err != nil {
		return HostsFile{}, err
	}
	var f HostsFile
	for _, name := range names {
		h, err := parseHost(name, root.Hosts[name], v)
		if err != nil {
			return HostsFile{}, fmt.Errorf("host %q: %w", shorten(redactURL(name)), err)
		}
		f.Hosts = append(f.Hosts, h)
	}
	h, err := parseHost(root.Server, root.dialTable, v)
	if err != nil {
		return HostsFile{}, err
	}
	f.Hosts = append(f.Hosts, h)
	return f, nil
}

// decodeHosts decodes with the types of v. The library's errors may quote values; only what and where is passed on.
func decodeHosts(data []byte, v Version) (rootTable, error) {
	if v.IsZero() || v.certainly(honoursDialTimeout) {
		var root rootTable
		err := toml.Unmarshal(data, &root)
		return root, tomlError(err)
	}
	old := struct {
		hostTable
		Server string               `toml:"server"`
		Hosts  map[string]hostTable `toml:"host"`
	}{}
	if err := toml.Unmarshal(data, &old); err != nil {
		return rootTable{}, tomlError(err)
	}
	root := rootTable{
		dialTable: dialTable{hostTable: old.hostTable}, Server: old.Server, Hosts: map[string]dialTable{},
	}
	for name, table := range old.Hosts {
		root.Hosts[name] = dialTable{hostTable: table}
	}
	return root, nil
}

// tomlError says where the fault is and what, without quoting the text around it, which may be a header's value.
func tomlError(err error) error {
	var at *toml.DecodeError
	if !errors.As(err, &at) {
		return err
	}
	row, col := at.Position()
	if key := strings.Join(at.Key(), "."); key != "" {
		return fmt.Errorf("line %d, column %d, key %s: the value is not of the type that belongs there, "+
			"or not TOML", row, col, shorten(redactURL(key)))
	}
	return fmt.Errorf("line %d, column %d: it is not TOML", row, col)
}

// parseHost follows parseHostConfig of core/remotes/docker/config/hosts.go, 2.4.2.
func parseHost(raw string, t dialTable, v Version) (HostEntry, error) {
	h := HostEntry{URL: raw, SkipVerify: t.SkipVerify, OverridePath: t.OverridePath}
	if raw != "" {
		if err := parseServer(&h); err != nil {
			return HostEntry{}, err
		}
	}
	var err error
	if h.Capabilities, err = parseCapabilities(t.Capabilities, v); err != nil {
		return HostEntry{}, err
	}
	if h.CA, err = parseCA(t.CACert); err != nil {
		return HostEntry{}, err
	}
	if h.Client, err = parseClient(t.Client); err != nil {
		return HostEntry{}, err
	}
	if h.header, err = parseHeader(t.Header); err != nil {
		return HostEntry{}, err
	}
	if t.DialTimeout != "" {
		d, err := time.ParseDuration(t.DialTimeout)
		if err != nil {
			return HostEntry{}, fmt.Errorf("dial_timeout %q is not a duration such as 2s", shorten(t.DialTimeout))
		}
		h.DialTimeout = &d
	}
	return h, nil
}

func parseServer(h *HostEntry) error {
	server := h.URL
	if !strings.HasPrefix(server, "http") {
		server = "https://" + server
	}
	u, err := url.Parse(server)
	if err != nil {
		return errors.New("its URL does not parse")
	}
	if len(u.Path) > 0 {
		u.Path = path.Clean(u.Path)
		if !strings.HasSuffix(u.Path, "/v2") && !h.OverridePath {
			u.Path += "/v2"
		}
	} else if !h.OverridePath {
		u.Path = "/v2"
	}
	h.Scheme, h.Host, h.Path = u.Scheme, u.Host, u.Path
	return nil
}

// allCapabilities returns those of a host that does not name any.
func allCapabilities(v Version) []Capability {
	all := []Capability{CapabilityPull, CapabilityResolve, CapabilityPush}
	if v.possibly(knowsReferrers) {
		all = append(all, CapabilityReferrers)
	}
	return all
}

func parseCapabilities(names []string, v Version) ([]Capability, error) {
	known := allCapabilities(v)
	if len(names) == 0 {
		return known, nil
	}
	set := map[Capability]bool{}
	for _, name := range names {
		c := Capability(strings.ToLower(name))
		if !slices.Contains(known, c) {
			return nil, fmt.Errorf("unknown capability %q", shorten(name))
		}
		set[c] = true
	}
	return slices.DeleteFunc(known, func(c Capability) bool { return !set[c] }), nil
}

func parseCA(value any) ([]string, error) {
	switch ca := value.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{ca}, nil
	case []any:
		return stringList(ca, "ca")
	default:
		return nil, errors.New("ca must be a string or a list of strings")
	}
}

func parseClient(value any) ([][2]string, error) {
	switch client := value.(type) {
	case nil:
		return nil, nil
	case string:
		return [][2]string{{client, ""}}, nil
	case []any:
		var pairs [][2]string
		for _, item := range client {
			pair, err := parsePair(item)
			if err != nil {
				return nil, err
			}
			pairs = append(pairs, pair)
		}
		return pairs, nil
	default:
		return nil, errors.New("client must be a string, a list of strings or a list of pairs")
	}
}

func parsePair(item any) ([2]string, error) {
	switch p := item.(type) {
	case string:
		return [2]string{p, ""}, nil
	case []any:
		list, err := stringList(p, "client")
		if err != nil {
			return [2]string{}, err
		}
		if len(list) != 2 {
			return [2]string{}, errors.New("a pair in client must have two paths")
		}
		if list[1] == "" {
			list[1] = "." // makeAbsPath makes it the host directory, and no longer empty: every pull fails
		}
		return [2]string(list), nil
	default:
		return [2]string{}, errors.New("client must hold strings or pairs")
	}
}

func parseHeader(table map[string]any) (http.Header, error) {
	if table == nil {
		return nil, nil
	}
	header := http.Header{}
	for name, value := range table {
		switch v := value.(type) {
		case string:
			header[name] = []string{v}
		case []any:
			list, err := stringList(v, "header "+name)
			if err != nil {
				return nil, err
			}
			header[name] = list
		default:
			return nil, fmt.Errorf("header %q must be a string or a list of strings", shorten(name))
		}
	}
	return header, nil
}

func stringList(list []any, of string) ([]string, error) {
	out := make([]string, len(list))
	for i, item := range list {
		s, ok := item.(string)
		if !ok {
			return nil, fmt.Errorf("%s must hold strings", shorten(of))
		}
		out[i] = s
	}
	return out, nil
}

// hostNames returns the names of the hosts in containerd's order. It follows getSortedHosts.
func hostNames(data []byte, v Version) ([]string, error) {
	scan := scanHosts(data)
	if v.certainly(rejectsBracketTables) && slices.ContainsFunc(scan.headers, hasBracket) {
		return nil, errors.New("a table header cannot have brackets in its key")
	}
	if v.IsZero() || v.certainly(dropsInlineHosts) {
		return scan.headers, nil
	}
	if !scan.hasTree && v.certainly(needsHostTable) {
		return nil, errors.New("invalid `host` tree: it has no [host.\"URL\"] table")
	}
	// 1.x sorts by line. An inline table has none, so these come first, in an order that changes.
	return append(slices.Clone(scan.inline), slices.DeleteFunc(scan.all, func(name string) bool {
		return slices.Contains(scan.inline, name)
	})...), nil
}

// hostScan is how the hosts are written in a file.
type hostScan struct {
	// headers are the hosts with a table header, in order; one that another host's table interrupts comes twice.
	headers []string
	// all are the hosts in whatever form, and inline those that are inline tables, in order and each once.
	all, inline []string
	// hasTree is set if there is a table `host` at all.
	hasTree bool
}

func scanHosts(data []byte) (scan hostScan) {
	p := unstable.Parser{}
	p.Reset(data)
	var (
		prefix []string
		last   string
	)
	add := func(name string, inline bool) {
		if slices.Contains(scan.all, name) {
			return
		}
		scan.all = append(scan.all, name)
		if inline {
			scan.inline = append(scan.inline, name)
		}
	}
	for p.NextExpression() {
		e := p.Expression()
		key := keyOf(e)
		switch e.Kind {
		case unstable.Table:
			prefix = key
			scan.hasTree = scan.hasTree || key[0] == "host"
			if len(key) < 2 || key[0] != "host" {
				continue
			}
			add(key[1], false)
			if key[1] != last {
				last = key[1]
				scan.headers = append(scan.headers, last)
			}
		case unstable.ArrayTable:
			prefix = key
		case unstable.KeyValue:
			full := append(slices.Clone(prefix), key...)
			if full[0] != "host" {
				continue
			}
			inline := e.Value().Kind == unstable.InlineTable
			if len(full) > 1 {
				scan.hasTree = true
				add(full[1], inline && len(full) == 2)
			} else if inline {
				scan.hasTree = true
				for it := e.Value().Children(); it.Next(); {
					add(keyOf(it.Node())[0], true)
				}
			}
		}
	}
	return scan
}

func hasBracket(key string) bool { return strings.ContainsAny(key, "[]") }

func keyOf(n *unstable.Node) []string {
	var parts []string
	for it := n.Key(); it.Next(); {
		parts = append(parts, string(it.Node().Data))
	}
	return parts
}

// redactURL removes the login from a URL.
func redactURL(raw string) string {
	i := strings.Index(raw, "@")
	if i < 0 {
		return raw
	}
	scheme, _, ok := strings.Cut(raw[:i], "://")
	if !ok {
		return "…" + raw[i:]
	}
	return scheme + "://…" + raw[i:]
}
