//go:build e2e

package e2e

import (
	"io/fs"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
	"github.com/hotplate-dev/hotplate/hack/rig"
	"github.com/hotplate-dev/hotplate/hack/rig/rigtest"
)

func TestCredentialsWrongThenRight(t *testing.T) {
	t.Parallel()
	const wrong = "wrong-correct-horse"
	for _, tt := range []struct {
		name  string
		write func(n *node, c *config.Config, mirror *site, password string)
	}{
		{"password file", func(n *node, _ *config.Config, _ *site, password string) {
			n.write("password", []byte(password))
		}},
		{"docker config JSON", func(n *node, c *config.Config, mirror *site, password string) {
			n.write("docker.json", dockerConfig(user, password, mirror.Host()))
			c.Credentials = []config.Credential{{Name: "login", DockerConfigFile: n.etc("docker.json")}}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			row := shows(t, newest, "agent: credentials wrong, then right while it runs ("+tt.name+")")
			mirror := newMirror(t)
			img := mirror.push(t, model())
			n := newNode(t, newest, nil)
			n.secrets = append(n.secrets, wrong)
			c := n.wanting(img, mirror)
			tt.write(n, c, mirror, wrong)
			n.writeConfig(c)
			n.start()
			n.until(notReady, imageIs("model", report.ImageFailed, "401", mirror.Host(), img.under(mirrored),
				"check the credentials"))
			n.checkAbsent(allNames(img)...)
			row.saw("Failed: check the credentials")
			tt.write(n, c, mirror, password)
			n.until(ready, imageIs("model", report.ImageReady))
			row.saw("file rewritten: Ready without a restart")
			n.checkImage(mirror, img, allNames(img)...)
		})
	}
}

func TestExposedCredentials(t *testing.T) {
	forLines(t, func(t *testing.T, line string) {
		row := shows(t, line, "exposeToNode: the login stands in hosts.toml, for root's eyes only, and pods need none")
		const wrong = "wrong-correct-horse"
		mirror := newMirror(t)
		n := newNode(t, line, nil)
		n.secrets = append(n.secrets, wrong)
		c := n.config(mirrored, config.Deny, mirror)
		n.writeConfig(c)
		n.start()
		n.until(ready)
		n.waitApplied()
		anonymous := func() error {
			img := mirror.push(t, small())
			_, err := n.cri.PullImage(t.Context(), img.under(mirrored), nil)
			return err
		}
		if err := anonymous(); err == nil {
			t.Error("an anonymous pull works although nothing is exposed")
		}
		c.Registries[0].Mirrors[0].ExposeToNode = true
		n.configure(c)
		hosts, err := os.ReadFile(n.hostsTOML(mirrored))
		if err != nil || !strings.Contains(string(hosts), "Authorization = ") {
			t.Errorf("no Authorization in hosts.toml: %v\n%s", err, hosts)
		}
		if mode := fileMode(t, n.hostsTOML(mirrored)); mode.Perm() != 0o600 {
			t.Errorf("hosts.toml with a login has mode %s", mode)
		}
		if err := anonymous(); err != nil {
			t.Error(err)
		}
		row.saw("before: anonymous pull refused; exposed: mode %s, anonymous pull works", fs.FileMode(0o600))

		n.write("password", []byte(wrong))
		n.waitApplied()
		if err := anonymous(); err == nil {
			t.Error("an anonymous pull works although the exposed password is wrong now")
		}
		n.write("password", []byte(password))
		n.waitApplied()
		if err := anonymous(); err != nil {
			t.Error(err)
		}
		out := n.run("hotplate", "explain", "--hosts-dir", n.hosts(), mirrored+"/team/model:v1").out
		if !contains(out, "Authorization") {
			t.Errorf("explain does not tell of the login:\n%s", out)
		}
		c.Registries[0].Mirrors[0].ExposeToNode = false
		n.configure(c)
		if err := anonymous(); err == nil {
			t.Error("an anonymous pull works although nothing is exposed any more")
		}
		row.saw("follows the password file; taken back: refused again")
	})
}

func TestRedirect(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		host   func(cdn *site) string
		expose bool
	}{
		{"another port", func(cdn *site) string { return cdn.URL() }, false},
		{"another host", func(cdn *site) string { return strings.Replace(cdn.URL(), "127.0.0.1", "localhost", 1) }, false},
		{"another port, login from hosts.toml", func(cdn *site) string { return cdn.URL() }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			row := shows(t, newest, "agent: blobs redirected to "+tt.name+": the login stays behind")
			ca := rigtest.CA(t)
			cert, key, err := ca.Issue("127.0.0.1")
			if err != nil {
				t.Fatal(err)
			}
			store := backend{rigtest.Registry(t, rig.RegistryConfig{CertPEM: cert, KeyPEM: key}), ca}
			mirror, cdn := newMirror(t), newSite(t, store, project, nil)
			content, name := build(t, model()), newName()
			img := mirror.put(t, content, name)
			cdn.put(t, content, name)
			mirror.SetScript(func(r *http.Request) rig.Fault {
				if isBlob(r) {
					return rig.Redirect(r, tt.host(cdn))
				}
				return rig.Fault{}
			})
			n := newNode(t, newest, nil)
			c := n.wanting(img, mirror)
			for i := range c.Registries {
				c.Registries[i].Mirrors[0].ExposeToNode = tt.expose
				c.Registries[i].Mirrors[0].CA = append(c.Registries[i].Mirrors[0].CA, "cdn")
			}
			n.bundle(c, "cdn", cdn.ca)
			n.writeConfig(c)
			n.start()
			n.until(ready, imageIs("model", report.ImageReady))
			if cdn.blobs() == 0 || mirror.blobs() == 0 {
				t.Errorf("%d blobs from the other host after %d redirects, want some", cdn.blobs(), mirror.blobs())
			}
			for _, r := range cdn.Requests() {
				if r.Authorized {
					t.Errorf("the other host got the login: %+v", r)
				}
			}
			row.saw("%d redirects, %d requests there, none with Authorization", mirror.blobs(), len(cdn.Requests()))
			n.checkImage(mirror, img, allNames(img)...)
		})
	}
}

func TestMirrorsForPrefetch(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		break1 func(t *testing.T, first *site)
	}{
		{"the first is dead", func(t *testing.T, first *site) {
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
		}},
		{"the first answers 503", func(_ *testing.T, first *site) {
			first.SetScript(always(anything, rig.Answer(http.StatusServiceUnavailable)))
		}},
		{"the first has manifests but no blobs", func(_ *testing.T, first *site) {
			first.SetScript(always(isBlob, rig.Answer(http.StatusNotFound)))
		}},
		{"the first has wrong bytes", func(_ *testing.T, first *site) {
			first.SetScript(always(isBlob, rig.Fault{FlipAt: rig.At(50)}))
		}},
		{"the first breaks off", func(_ *testing.T, first *site) {
			first.SetScript(always(isBlob, rig.Fault{CutAfter: rig.At(150_000)}))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			row := shows(t, newest, "agent: two mirrors, "+tt.name)
			first, second := newMirror(t), newMirror(t)
			img := second.push(t, model())
			tt.break1(t, first)
			n := newNode(t, newest, nil)
			n.writeConfig(n.wanting(img, first, second))
			n.start()
			n.until(ready, imageIs("model", report.ImageReady))
			row.saw("%d requests at the first, %d at the second; Ready", len(first.asked()), len(second.asked()))
			n.checkImage(second, img, allNames(img)...)
		})
	}
}

func TestKindsOfImages(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		push func(t *testing.T, mirror *site) image
		ref  func(img image) string
	}{
		{"an index of two platforms", func(t *testing.T, m *site) image { return m.pushIndex(t, model()) },
			func(img image) string { return img.under(mirrored) }},
		{"a digest of an index", func(t *testing.T, m *site) image { return m.pushIndex(t, model()) },
			func(img image) string { return mirrored + "/" + img.repo + "@" + img.digest }},
		{"a digest of a manifest", func(t *testing.T, m *site) image { return m.push(t, model()) },
			func(img image) string { return mirrored + "/" + img.repo + "@" + img.digest }},
		{"a tag and a digest", func(t *testing.T, m *site) image { return m.push(t, model()) },
			func(img image) string { return img.under(mirrored) + "@" + img.digest }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			row := shows(t, newest, "agent: "+tt.name)
			mirror := newMirror(t)
			img := tt.push(t, mirror)
			n := newNode(t, newest, nil)
			c := n.wanting(img, mirror)
			c.Images[0].Ref = tt.ref(img)
			n.writeConfig(c)
			n.start()
			n.until(ready, imageIs("model", report.ImageReady))
			if others := mirror.otherBlobs(img); len(others) > 0 {
				t.Errorf("blobs that are not of the image for this platform were fetched: %q", others)
			}
			row.saw("%d requests for blobs, none of another platform", mirror.blobs())
			names := []string{mirrored + "/" + img.repo + "@" + img.digest, img.under(aliased)}
			if ref := tt.ref(img); !strings.Contains(ref, "@") {
				names = append(names, ref)
			}
			n.checkImage(mirror, img, names...)
		})
	}
}

func TestImagesOfAConfig(t *testing.T) {
	t.Parallel()
	row := shows(t, newest, "agent: images by priority, without a pin where none is asked for, short names, added while it runs")
	mirror := newMirror(t)
	n := newNode(t, newest, nil)
	unpinned := false
	last, first, hub := mirror.push(t, small()), mirror.push(t, small()), mirror.push(t, small())
	c := n.config(mirrored, config.Deny, mirror)
	c.Registries = append(c.Registries, config.Registry{Host: "docker.io", Upstream: config.Deny,
		Mirrors: c.Registries[0].Mirrors})
	c.Images = []config.Image{
		{Name: "last", Ref: last.under(mirrored), Pin: &unpinned},
		{Name: "first", Ref: first.under(mirrored), Priority: 10},
	}
	n.writeConfig(c)
	n.start()
	n.until(ready, imageIs("last", report.ImageReady), imageIs("first", report.ImageReady))
	if asked := mirror.asked(); !strings.HasSuffix(asked[0].Path, "/"+first.tag) {
		t.Errorf("the image of low priority came first: %+v", asked)
	}
	n.checkPinned(last, false)
	n.checkPinned(first, true)

	c.Images = append(c.Images, config.Image{Name: "hub", Ref: hub.repo + ":" + hub.tag})
	n.configure(c)
	n.until(ready, imageIs("hub", report.ImageReady))
	n.checkImage(mirror, hub, hub.under("docker.io"), "docker.io/"+hub.repo+"@"+hub.digest)
	row.saw("3 images Ready")
}

func TestConfigFromAVolume(t *testing.T) {
	t.Parallel()
	row := shows(t, newest, "the config itself is replaced as the kubelet does with a ConfigMap: by a symlink")
	mirror := newMirror(t)
	n := newNode(t, newest, nil)
	n.volume = true
	c := n.config(mirrored, config.Deny, mirror)
	n.writeConfig(c)
	n.start()
	n.until(ready)
	for i := range 3 {
		img := mirror.push(t, small())
		c.Images = []config.Image{{Name: "model", Ref: img.under(mirrored)}}
		c.Registries[0].Mirrors[0].Headers = map[string][]string{"X-Version": {string(rune('a' + i))}}
		n.configure(c)
		n.until(ready, imageIs("model", report.ImageReady))
		n.checkImage(mirror, img, img.under(mirrored))
	}
	row.saw("3 versions, each in force and its image Ready")
}
