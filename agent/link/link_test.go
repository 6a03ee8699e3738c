package link

import (
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/test/bufconn"

	"github.com/hotplate-dev/hotplate/agent/agenttest"
	"github.com/hotplate-dev/hotplate/agent/report"
)

// coordinator is one that answers in memory, with real HTTP and TLS.
type coordinator struct {
	*bufconn.Listener // TLS needs a buffer: both ends write after the handshake
	t                 *testing.T
	ca                string

	mu     sync.Mutex // guards what follows
	asked  []asked
	answer func(w http.ResponseWriter)
}

// asked is one report as it came.
type asked struct {
	at     time.Time
	token  string
	report report.NodeReport
	size   int // after decompression
	// again tells whether the TLS session is that of an earlier connection.
	again bool
}

func newCoordinator(t *testing.T) *coordinator {
	return &coordinator{t: t, Listener: bufconn.Listen(64 << 10)}
}

func (c *coordinator) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return c.DialContext(ctx)
}

func (c *coordinator) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodPost || req.URL.Path != report.ReportPath || req.Header.Get("Content-Encoding") != "gzip" {
		c.t.Errorf("asked as %s %s, %q", req.Method, req.URL, req.Header)
	}
	zip, err := gzip.NewReader(req.Body)
	if err != nil {
		c.t.Errorf("the body: %v", err)
		return
	}
	text, err := io.ReadAll(zip)
	a := asked{at: time.Now(), token: req.Header.Get("Authorization"), size: len(text), again: req.TLS.DidResume}
	if err := errors.Join(err, json.Unmarshal(text, &a.report)); err != nil {
		c.t.Errorf("the report: %v", err)
	}
	c.mu.Lock()
	c.asked = append(c.asked, a)
	answer := c.answer
	c.mu.Unlock()
	answer(w)
}

func (c *coordinator) set(answer func(w http.ResponseWriter)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = answer
}

// says answers with a Directive.
func (c *coordinator) says(d report.Directive) {
	c.set(func(w http.ResponseWriter) { _ = json.NewEncoder(w).Encode(d) })
}

// took returns what was asked since it was called last.
func (c *coordinator) took() []asked {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.asked
	c.asked = nil
	return all
}

// gaps are the times between reports.
func gaps(all []asked) []time.Duration {
	var out []time.Duration
	for i := 1; i < len(all); i++ {
		out = append(out, all[i].at.Sub(all[i-1].at))
	}
	return out
}

// node is an agent that reports.
type node struct {
	*Link
	t     *testing.T
	log   *agenttest.Log
	token string // the file
	moved chan struct{}

	mu    sync.Mutex // guards what follows
	url   string
	ca    string
	where error
	state report.NodeReport
	got   []report.Directive
}

func (n *node) set(f func(n *node)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f(n)
}

// run has a node report to a coordinator while f looks at both, in time that is not real.
func run(t *testing.T, f func(n *node, c *coordinator)) {
	synctest.Test(t, func(t *testing.T) {
		ca := issue(t, nil, "")
		c := newCoordinator(t)
		c.ca = ca.pem
		c.says(report.Directive{ConfigHash: "abc"})
		server := serve(c, issue(t, ca, report.CoordinatorName))
		n := &node{t: t, log: new(agenttest.Log), token: filepath.Join(t.TempDir(), "token"), moved: make(chan struct{}, 1),
			url: "https://192.0.2.7:8443", ca: ca.pem, state: report.NodeReport{Node: "gpu-7"}}
		if err := os.WriteFile(n.token, []byte("one\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		var err error
		if n.Link, err = New(Config{Moved: n.moved, TokenFile: n.token, Log: n.log.Logger(), Where: func() (string, string, error) {
			n.mu.Lock()
			defer n.mu.Unlock()
			return n.url, n.ca, n.where
		}}); err != nil {
			t.Fatal(err)
		}
		n.dial = c.dial
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			n.Run(ctx, func() report.NodeReport {
				n.mu.Lock()
				defer n.mu.Unlock()
				return n.state
			}, func(d report.Directive) { n.set(func(n *node) { n.got = append(n.got, d) }) })
		}()
		f(n, c)
		cancel()
		<-done
		_ = server.Close()
	})
}

func serve(l net.Listener, cert *issued) *http.Server {
	server := &http.Server{Handler: l.(http.Handler), ErrorLog: log.New(io.Discard, "", 0)}
	go func() {
		_ = server.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert.tls}}))
	}()
	return server
}

// issued is a certificate; issue makes one of ca's for a name, or a CA.
type issued struct {
	tls  tls.Certificate
	cert *x509.Certificate
	pem  string
}

func issue(t *testing.T, ca *issued, name string) *issued {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: ca == nil}
	parent, signer := template, any(key)
	if ca != nil {
		template.DNSNames, parent, signer = []string{name}, ca.cert, ca.tls.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issued{tls: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, cert: cert,
		pem: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

func wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestAReportIsAnswered(t *testing.T) {
	run(t, func(n *node, c *coordinator) {
		want := report.Directive{ConfigHash: "abc", Images: []report.WantedImage{{Name: "llama", Ref: "example.com/llama:v1",
			Digest: "sha256:0", Pin: true}}, Pull: report.Leave{Granted: true}, NextReport: 20 * time.Second}
		c.says(want)
		wait(time.Second)
		all := c.took()
		if len(all) != 1 || all[0].token != "Bearer one" || all[0].report.Node != "gpu-7" {
			t.Errorf("the coordinator was told %+v", all)
		}
		n.set(func(n *node) {
			if diff := cmp.Diff([]report.Directive{want}, n.got); diff != "" {
				t.Errorf("the Directive (-want +got):\n%s", diff)
			}
		})
		if got := n.log.Lines(""); len(got) != 0 {
			t.Errorf("where all is well the log says %q", got)
		}
	})
}

func TestHowOften(t *testing.T) {
	for name, test := range map[string]struct {
		state       report.NodeReport
		next        time.Duration
		least, most time.Duration
	}{
		"an idle node":                                    {least: 24 * time.Second, most: 36 * time.Second},
		"a node that fetches":                             {state: fetching(), least: 4 * time.Second, most: 6 * time.Second},
		"a node that waits for a slot":                    {state: report.NodeReport{Restart: report.Restart{Slot: report.SlotWanted}}, least: 4 * time.Second, most: 6 * time.Second},
		"as the coordinator says":                         {next: 10 * time.Second, least: 8 * time.Second, most: 12 * time.Second},
		"not as often as a coordinator says that is mad":  {next: 1, least: time.Second, most: time.Second},
		"not as seldom as a coordinator says that is mad": {next: 24 * time.Hour, least: time.Minute, most: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(n *node, c *coordinator) {
				n.set(func(n *node) { n.state = test.state })
				c.says(report.Directive{NextReport: test.next, ConfigHash: test.state.Config.Hash})
				wait(2 * mostInterval)
				c.took() // the first may be of the state before
				wait(10 * test.most)
				seen := map[time.Duration]bool{}
				for _, gap := range gaps(c.took()) {
					seen[gap] = true
					if gap < test.least || gap > test.most {
						t.Errorf("%s between two reports", gap)
					}
				}
				if len(seen) < 2 && test.least != test.most {
					t.Errorf("the times between reports are not random: %v", seen)
				}
			})
		})
	}
}

func fetching() report.NodeReport {
	return report.NodeReport{Images: []report.Image{{Phase: report.ImageReady}, {Phase: report.ImageFetching}}}
}

// One of the two will see the new config any moment. If it does not, something else is different.
func TestItAsksOftenForAWhileWhereTheTwoGoByDifferentConfigs(t *testing.T) {
	run(t, func(n *node, c *coordinator) {
		c.says(report.Directive{ConfigHash: "old", NextReport: 30 * time.Second})
		wait(apartFor)
		if got := len(c.took()); got < 9 || got > 17 {
			t.Errorf("%d reports in the first minute", got)
		}
		wait(10 * time.Minute)
		if got := len(c.took()); got < 16 || got > 27 {
			t.Errorf("%d reports in the next ten minutes", got)
		}
		n.set(func(n *node) { n.state.Config.Hash = "old" })
		wait(time.Minute)
		n.set(func(n *node) { n.state.Config.Hash = "new" })
		n.Wake()
		c.took()
		wait(apartFor)
		if got := len(c.took()); got < 9 {
			t.Errorf("%d reports in the first minute of the next change", got)
		}
	})
}

func TestASessionIsResumedOnTheNextConnection(t *testing.T) {
	run(t, func(_ *node, c *coordinator) {
		wait(5 * time.Minute)
		got := c.took()
		if len(got) < 5 {
			t.Fatalf("%d reports in five minutes", len(got))
		}
		for i, a := range got {
			if a.again != (i > 0) {
				t.Errorf("report %d: session resumed: %t", i, a.again)
			}
		}
	})
}

// TestWhereTheCoordinatorIs: nodes come to a new place over a while, not all at once; what is only said again is no news.
func TestWhereTheCoordinatorIs(t *testing.T) {
	var latest time.Duration
	for range 20 {
		run(t, func(n *node, c *coordinator) {
			c.says(report.Directive{}) // by the node's own config: it asks every half minute
			wait(10 * time.Second)
			c.took()
			n.moved <- struct{}{}
			wait(leastInterval + spread)
			if got := c.took(); len(got) != 0 {
				t.Errorf("it was asked %d times because it is where it was", len(got))
			}
			n.set(func(n *node) { n.url = "https://192.0.2.8:8443" })
			moved := time.Now()
			n.moved <- struct{}{}
			wait(leastInterval + movedSpread)
			got := c.took()
			if len(got) == 0 {
				t.Fatal("nobody asks where it is now")
			}
			latest = max(latest, got[0].at.Sub(moved))
		})
	}
	if latest < movedSpread/4 {
		t.Errorf("twenty nodes came within %s", latest)
	}
}

func TestAChangeIsReportedAtOnceButNotMoreThanOnceASecond(t *testing.T) {
	run(t, func(n *node, c *coordinator) {
		wait(10 * time.Second)
		c.took()
		n.Wake()
		wait(spread + time.Second) // one may have gone out just before
		if got := c.took(); len(got) != 1 {
			t.Errorf("a change was reported %d times", len(got))
		}
		for range 200 {
			n.Wake()
			time.Sleep(50 * time.Millisecond)
		}
		all := c.took()
		for _, gap := range gaps(all) {
			if gap < leastInterval {
				t.Errorf("%s between two reports", gap)
			}
		}
		if len(all) < 6 || len(all) > 11 {
			t.Errorf("%d reports in ten seconds of changes", len(all))
		}
	})
}

func TestTheTokenIsReadAnewEachTime(t *testing.T) {
	run(t, func(n *node, c *coordinator) {
		wait(time.Second)
		if err := os.WriteFile(n.token, []byte("two"), 0o600); err != nil {
			t.Error(err)
		}
		wait(time.Minute)
		all := c.took()
		if len(all) < 2 || all[0].token != "Bearer one" || all[1].token != "Bearer two" {
			t.Errorf("asked with %+v", all)
		}
		for text, want := range map[string]string{"one two": "holds something else", strings.Repeat("x", maxToken): "holds something else"} {
			if err := os.WriteFile(n.token, []byte(text), 0o600); err != nil {
				t.Error(err)
			}
			if _, err := readToken(n.token); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%.10q: %v", text, err)
			}
		}
	})
}

func TestWhoCannotProveToBeTheCoordinatorIsToldNothing(t *testing.T) {
	for name, test := range map[string]struct {
		change func(t *testing.T, n *node)
		want   string
	}{
		"the CA is another one":    {func(t *testing.T, n *node) { n.ca = issue(t, nil, "").pem }, "certificate signed by unknown authority"},
		"there is no CA":           {func(_ *testing.T, n *node) { n.ca = "" }, "no certificate in the CA"},
		"where it is is not known": {func(_ *testing.T, n *node) { n.where = errors.New("nobody knows") }, "nobody knows"},
		"there is no token":        {func(_ *testing.T, n *node) { _ = os.Remove(n.token) }, "read the token for the coordinator: open "},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(n *node, c *coordinator) {
				n.set(func(inner *node) { test.change(n.t, inner) })
				n.moved <- struct{}{}
				wait(leastInterval + movedSpread)
				c.took()
				wait(10 * time.Minute)
				if got := c.took(); len(got) != 0 {
					t.Errorf("it was told all the same: %+v", got)
				}
				if got := n.log.Lines("level=WARN", test.want); len(got) != 1 || len(n.log.Lines("level=WARN")) != 1 {
					t.Errorf("the log says %q", n.log.Lines(""))
				}
			})
		})
	}
	t.Run("its certificate is for another name", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ca := issue(t, nil, "")
			c := newCoordinator(t)
			server := serve(c, issue(t, ca, "kubernetes"))
			token := filepath.Join(t.TempDir(), "token")
			if err := os.WriteFile(token, []byte("one"), 0o600); err != nil {
				t.Fatal(err)
			}
			l, err := New(Config{Where: func() (string, string, error) { return "https://kubernetes:8443", ca.pem, nil },
				Moved: make(chan struct{}), TokenFile: token, Log: new(agenttest.Log).Logger()})
			if err != nil {
				t.Fatal(err)
			}
			l.dial = c.dial
			if _, err := l.ask(t.Context(), report.NodeReport{}); err == nil || !strings.Contains(err.Error(), "not hotplate-coordinator") {
				t.Errorf("got %v", err)
			}
			_ = server.Close()
		})
	})
}

func TestAnAnswerThatIsNoneIsNotTaken(t *testing.T) {
	for name, test := range map[string]struct {
		answer func(w http.ResponseWriter)
		want   string
	}{
		"an error": {func(w http.ResponseWriter) { http.Error(w, "not for\nthis node", http.StatusForbidden) }, "403 Forbidden: not for this node"},
		"no JSON":  {func(w http.ResponseWriter) { _, _ = io.WriteString(w, "hello") }, "read the coordinator's answer: invalid character"},
		"endless": {func(w http.ResponseWriter) {
			_, _ = io.Copy(w, io.LimitReader(zeros{}, report.MaxDirective+1))
		}, "longer than 1048576 bytes"},
		"another place": {func(w http.ResponseWriter) {
			w.Header().Set("Location", "https://evil.example.com/")
			w.WriteHeader(http.StatusTemporaryRedirect)
		}, "307 Temporary Redirect"},
		"nothing": {func(http.ResponseWriter) { time.Sleep(4 * askTimeout) }, "imeout"},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(n *node, c *coordinator) {
				wait(time.Second)
				n.set(func(n *node) { n.got = nil })
				c.set(test.answer)
				n.Wake()
				wait(time.Minute)
				n.set(func(n *node) {
					if len(n.got) != 0 {
						t.Errorf("it is taken as %+v", n.got)
					}
				})
				if got := n.log.Lines("level=WARN", test.want); len(got) != 1 || len(n.log.Lines("level=WARN")) != 1 {
					t.Errorf("the log says %q", n.log.Lines(""))
				}
				c.says(report.Directive{})
				wait(5 * time.Minute)
				if got := n.log.Lines("level=INFO", "the coordinator answers again"); len(got) != 1 {
					t.Errorf("then the log says %q", n.log.Lines(""))
				}
			})
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestACoordinatorThatIsAwayIsAskedLessAndLessOften(t *testing.T) {
	run(t, func(n *node, c *coordinator) {
		refuse := func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) }
		c.set(refuse)
		wait(15 * time.Minute)
		all := gaps(c.took())
		for i, gap := range all {
			if most := time.Duration(float64(retryMax) * (1 + jitter)); gap < 800*time.Millisecond || gap > most || i > 10 && gap < most/2 {
				t.Errorf("the wait %d was %s", i, gap)
			}
		}
		n.Wake() // changes are no reason
		wait(time.Second)
		// It is somewhere else: that is.
		n.moved <- struct{}{}
		wait(leastInterval + movedSpread)
		if len(c.took()) == 0 {
			t.Error("it is not asked where it is now")
		}
		c.set(func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", "45")
			w.WriteHeader(http.StatusTooManyRequests)
		})
		wait(10 * time.Minute)
		for i, gap := range gaps(c.took()) {
			if i > 0 && gap < 45*time.Second {
				t.Errorf("asked after %s, and it said 45 seconds", gap)
			}
		}
	})
}

func TestItFollowsTheCoordinator(t *testing.T) {
	run(t, func(n *node, _ *coordinator) {
		wait(time.Second)
		ca := issue(n.t, nil, "")
		next := newCoordinator(t)
		next.says(report.Directive{ConfigHash: "next"})
		server := serve(next, issue(n.t, ca, report.CoordinatorName))
		n.set(func(n *node) { n.url, n.ca = "https://192.0.2.8:8443", ca.pem })
		synctest.Wait() // it sleeps, so its fields are ours
		n.dial = next.dial
		n.moved <- struct{}{}
		wait(leastInterval + movedSpread)
		n.set(func(n *node) {
			if len(n.got) < 2 || n.got[0].ConfigHash != "abc" || n.got[1].ConfigHash != "next" {
				t.Errorf("got %+v", n.got)
			}
		})
		_ = server.Close()
	})
}

func TestAReportFits(t *testing.T) {
	long := strings.Repeat("ü", maxMessage)
	r := report.NodeReport{Node: "gpu-7",
		Config:     report.ConfigStatus{Rejected: []string{long}},
		Conditions: []report.Condition{{Message: long}},
		Registries: []report.Registry{{Message: long, Mirrors: []report.Mirror{{Message: long}}}},
		Unwanted:   []report.Unwanted{{Message: long}},
		Restart:    report.Restart{Checks: []report.Check{{Detail: long}}, Records: []report.RestartRecord{{Reason: long}}},
		Images:     []report.Image{{Name: "a", Message: long, Advice: []string{long}, WayReason: long, Layers: make([]report.Layer, 3)}},
	}
	before, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	read := func() (out report.NodeReport, size int) {
		t.Helper()
		text, err := fit(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &out); err != nil {
			t.Fatal(err)
		}
		return out, len(text)
	}
	got, size := read()
	if len(got.Images[0].Layers) != 3 || size > 12*(maxMessage+100) {
		t.Errorf("%d layers, %d bytes", len(got.Images[0].Layers), size)
	}
	if m := got.Conditions[0].Message; !strings.HasSuffix(m, "ü…") || len(m) > maxMessage+3 {
		t.Errorf("a message is cut to %d bytes, ending with %q", len(m), m[len(m)-5:])
	}
	if now, _ := json.Marshal(r); string(now) != string(before) {
		t.Error("the report itself is changed")
	}
	for i := range 100 {
		r.Images = append(r.Images, report.Image{Name: fmt.Sprint(i), Layers: make([]report.Layer, 1000)})
	}
	if got, size = read(); got.Images[0].Layers != nil || size > report.MaxReport || len(got.Images) != 101 {
		t.Errorf("then %d layers, %d images, %d bytes", len(got.Images[0].Layers), len(got.Images), size)
	}
	for range 1000 {
		r.Images = append(r.Images, report.Image{Name: "b", Message: long})
	}
	if got, size = read(); size > report.MaxReport || len(got.Images) != 1101 {
		t.Errorf("then %d images, %d bytes", len(got.Images), size)
	}
	r.Images = make([]report.Image, 20000)
	if _, err := fit(r); err == nil || !strings.Contains(err.Error(), "the report about 20000 images") {
		t.Errorf("got %v", err)
	}
}
