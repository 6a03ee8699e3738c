package configtoml_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// generator writes configurations that people might write, in every form that TOML has for them.
type generator struct {
	*rand.Rand
}

func newGenerator(seed uint64) generator { return generator{rand.New(rand.NewPCG(seed, 0))} }

func pick[T any](g generator, list ...T) T { return list[g.IntN(len(list))] }

func (g generator) chance(percent int) bool { return g.IntN(100) < percent }

// files returns a root file and up to three drop-ins.
func (g generator) files() map[string]string {
	n := pick(g, 0, 0, 1, 1, 2, 3)
	root := pick(g, 0, 1, 2, 2, 2, 3, 3, 4)
	imports := ""
	if n > 0 || g.chance(20) {
		imports = "imports = [\"/etc/containerd/conf.d/*.toml\"]"
	}
	files := map[string]string{"config.toml": g.file(root, imports)}
	for i := range n {
		// Mostly of a version that fits.
		v := pick(g, root, root, 0, 2, pick(g, 1, 3, 4))
		files[fmt.Sprintf("conf.d/%d0-x.toml", i+1)] = g.file(v, "")
	}
	return files
}

// file writes one file of a version.
func (g generator) file(version int, first string) string {
	w := &styled{generator: g, unit: pick(g, "", "  ", "\t"), q: pick(g, `"`, `'`)}
	top := []string{first}
	if version > 0 {
		top = append(top, fmt.Sprintf("version = %d", version))
	}
	g.Shuffle(len(top), func(i, j int) { top[i], top[j] = top[j], top[i] })
	for _, line := range top {
		if line != "" {
			w.line(0, line)
		}
	}
	names := map[int][]string{0: {"cri"}, 1: {"cri"}, 2: {v2}, 3: {v3}, 4: {v3}}[version]
	if g.chance(25) {
		names = append(names, pick(g, v2, v3)) // one that may not count
	}
	if g.chance(10) {
		names = nil
	}
	if len(names) == 2 && names[0] == names[1] {
		names = names[:1]
	}
	written := map[string]bool{}
	if g.chance(15) {
		w.dottedAtRoot(names[:min(1, len(names))], written)
	}
	if g.chance(30) {
		w.line(0, "[debug]")
		w.line(1, `level = "info"`)
	}
	for _, name := range names {
		if !written[name] {
			w.section(name)
		}
	}
	text := w.b.String()
	if g.chance(15) {
		text = strings.ReplaceAll(text, "\n", "\r\n")
	}
	if g.chance(15) {
		text = strings.TrimRight(text, "\r\n")
	}
	return text
}

const (
	v2 = "io.containerd.grpc.v1.cri"
	v3 = "io.containerd.cri.v1.images"
)

// styled writes lines in the style of one file.
type styled struct {
	generator
	b       strings.Builder
	unit, q string
}

func (w *styled) line(depth int, text string) {
	if w.chance(10) {
		w.b.WriteString(strings.Repeat(w.unit, depth) + "# a comment [x] = \"y\"\n")
	}
	w.b.WriteString(strings.Repeat(w.unit, depth) + text + pick(w.generator, "", "", "", " # why", "  ") + "\n")
	if w.chance(15) {
		w.b.WriteString("\n")
	}
}

func (w *styled) key(name string) string {
	if strings.Contains(name, ".") {
		return w.q + name + w.q
	}
	return name
}

func (w *styled) configPath() string {
	dir := pick(w.generator, "", "/etc/containerd/certs.d", "/opt/certs.d", "/etc/containerd/certs.d:/etc/docker/certs.d")
	return pick(w.generator, `"`+dir+`"`, `"`+dir+`"`, `'`+dir+`'`, `"""`+dir+`"""`, `"""\`+"\n   "+dir+`"""`)
}

// registryKeys are what a registry table holds besides config_path, as pairs of key and value.
func (w *styled) registryKeys() [][2]string {
	var out [][2]string
	if w.chance(70) {
		out = append(out, [2]string{"config_path", w.configPath()})
	}
	if w.chance(30) {
		out = append(out, [2]string{"headers", `{ User = ["node"] }`})
	}
	if w.chance(20) {
		out = append(out, [2]string{"configs", `{ "r.example.com" = { auth = { password = "swordfish" } } }`})
	}
	if w.chance(8) {
		out = append(out, [2]string{"mirrors", `{ "docker.io" = { endpoint = ["https://m.example.com"] } }`})
	}
	w.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

func (w *styled) dottedAtRoot(names []string, written map[string]bool) {
	for _, name := range names {
		written[name] = true
		w.line(0, fmt.Sprintf("plugins.%s.stats_collect_period = 12", w.key(name)))
		for _, kv := range w.registryKeys() {
			w.line(0, fmt.Sprintf("plugins.%s.registry.%s = %s", w.key(name), kv[0], kv[1]))
		}
	}
}

// section writes a plugin's section in one of many forms.
func (w *styled) section(name string) {
	header := fmt.Sprintf("plugins%s%s", pick(w.generator, ".", ".", " . "), w.key(name))
	registry := w.registryKeys()
	switch w.IntN(6) {
	case 0: // an inline table
		w.line(1, "["+header+"]")
		w.line(2, "stats_collect_period = 13")
		var parts []string
		for _, kv := range registry {
			if !strings.Contains(kv[1], "\n") {
				parts = append(parts, kv[0]+" = "+kv[1])
			}
		}
		w.line(2, "registry = {"+strings.Join(parts, ", ")+"}")
	case 1: // dotted keys
		w.line(1, "["+header+"]")
		for _, kv := range registry {
			w.line(2, "registry."+kv[0]+" = "+kv[1])
		}
		w.line(2, "stats_collect_period = 14")
	case 2: // nothing about the registry
		w.line(1, "["+header+"]")
		w.line(2, "stats_collect_period = 15")
	case 3: // tables below the registry, and no header for itself
		w.line(1, "["+header+".registry.configs]")
		w.line(2, `"r.example.com" = { auth = { username = "u" } }`)
		if w.chance(50) {
			w.line(1, "["+header+".registry]")
			for _, kv := range registry {
				if kv[0] != "configs" {
					w.line(2, kv[0]+" = "+kv[1])
				}
			}
		}
	default: // headers
		if w.chance(50) {
			w.line(1, "["+header+"]")
			w.line(2, "stats_collect_period = 16")
		}
		w.line(2, "["+header+".registry]")
		for _, kv := range registry {
			w.line(3, kv[0]+" = "+kv[1])
		}
		if !hasKey(registry, "mirrors") && w.chance(8) {
			w.line(3, "["+header+`.registry.mirrors."docker.io"]`)
			w.line(4, "endpoint = [\n\"https://m.example.com/v2/hub\", # first\n]")
		}
	}
}

func hasKey(pairs [][2]string, key string) bool {
	for _, kv := range pairs {
		if kv[0] == key {
			return true
		}
	}
	return false
}
