package kube

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/hotplate-dev/hotplate/agent/agenttest"
	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/agent/report"
)

// A suite shows what a Source does, with an API in memory and with a real one.
type suite struct {
	t *testing.T
	// admin may write; agent is what the Source gets.
	admin, agent kubernetes.Interface
	namespace    string
	// away makes the API unreachable, for the agent at least, or reachable again.
	away func(bool)
	// patience bounds how long the test waits for what must come; quiet is for how long it looks that nothing comes.
	patience, quiet time.Duration
	runDir          string
	log             *agenttest.Log
}

// rows are all that a Source is to show.
func rows() map[string]func(*suite) {
	return map[string]func(*suite){
		"the document is created late, changed and deleted":       lateChangedDeleted,
		"a faulty document is told and healed":                    faulty,
		"objects that the document names are followed":            namedObjects,
		"changes made together are seen together":                 together,
		"what the document does not name is none of our business": unrelated,
		"the API goes away and comes back":                        awayAndBack,
		"the API is away at the start":                            awayAtStart,
		"the API is away at the start and said nothing before":    awayAtFirstStart,
		"a faulty document at the start leaves the last good one": lastGoodObjects,
		"the coordinator says where it is":                        announcement,
	}
}

func (s *suite) source() *Source {
	s.t.Helper()
	source, err := New(Config{Client: s.agent, Namespace: s.namespace, ConfigMap: "hotplate-config", RunDir: s.runDir,
		Log: s.log.Logger()})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { s.close(source) })
	return source
}

func (s *suite) close(source *Source) {
	s.t.Helper()
	if err := source.Close(); err != nil {
		s.t.Errorf("close: %v", err)
	}
}

// next is the next snapshot, which must come.
func (s *suite) next(source *Source) config.Snapshot {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), s.patience)
	defer cancel()
	snapshot, err := source.Next(ctx)
	if err != nil {
		s.t.Fatalf("next: %v; the log says\n%s", err, strings.Join(s.log.Lines(), "\n"))
	}
	return snapshot
}

// until takes snapshots until one is in force, and returns it.
func (s *suite) until(source *Source, what string, good func(config.Snapshot) bool) config.Snapshot {
	s.t.Helper()
	for end := time.Now().Add(s.patience); time.Now().Before(end); {
		if snapshot := s.next(source); good(snapshot) {
			return snapshot
		}
	}
	s.t.Fatalf("there was no snapshot %s", what)
	return config.Snapshot{}
}

// none checks that nothing is delivered for a while.
func (s *suite) none(source *Source, when string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), s.quiet)
	defer cancel()
	if snapshot, err := source.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		s.t.Errorf("%s: a snapshot is delivered, with the error %v, or the error is %v", when, snapshot.Err, err)
	}
}

// noneUntil checks that nothing is delivered until the log says something.
func (s *suite) noneUntil(source *Source, part string) {
	s.t.Helper()
	for end := time.Now().Add(s.patience); len(s.log.Lines(part)) == 0; {
		if !time.Now().Before(end) {
			s.t.Fatalf("the log does not say %q:\n%s", part, strings.Join(s.log.Lines(), "\n"))
		}
		s.none(source, part)
	}
}

func (s *suite) fault(snapshot config.Snapshot, parts ...string) {
	s.t.Helper()
	if snapshot.Err == nil {
		s.t.Fatalf("the snapshot has no fault; want %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(snapshot.Err.Error(), part) {
			s.t.Errorf("the fault does not say %q: %v", part, snapshot.Err)
		}
	}
}

// image is the name of the one image of a snapshot in force.
func image(snapshot config.Snapshot) string {
	if snapshot.Err != nil || len(snapshot.Config.Images) != 1 {
		return ""
	}
	return snapshot.Config.Images[0].Name
}

func hasImage(name string) func(config.Snapshot) bool {
	return func(s config.Snapshot) bool { return image(s) == name }
}

const head = "apiVersion: " + config.APIVersion + "\n"

func withImage(name string) string {
	return head + "images: [{name: " + name + ", ref: example.com/" + name + "}]\n"
}

// put writes a ConfigMap, putSecret a Secret.
func (s *suite) put(name string, data map[string]string) {
	s.t.Helper()
	o := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: s.namespace}, Data: data}
	maps := s.admin.CoreV1().ConfigMaps(s.namespace)
	_, err := maps.Update(s.t.Context(), o, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = maps.Create(s.t.Context(), o, metav1.CreateOptions{})
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *suite) putSecret(name string, data map[string]string) {
	s.t.Helper()
	o := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: s.namespace}, Data: map[string][]byte{}}
	for key, text := range data {
		o.Data[key] = []byte(text)
	}
	secrets := s.admin.CoreV1().Secrets(s.namespace)
	_, err := secrets.Update(s.t.Context(), o, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = secrets.Create(s.t.Context(), o, metav1.CreateOptions{})
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *suite) document(text string) {
	s.t.Helper()
	s.put("hotplate-config", map[string]string{config.DocumentKey: text})
}

func (s *suite) remove(name string) {
	s.t.Helper()
	if err := s.admin.CoreV1().ConfigMaps(s.namespace).Delete(s.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *suite) removeSecret(name string) {
	s.t.Helper()
	if err := s.admin.CoreV1().Secrets(s.namespace).Delete(s.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// lines checks how often the log says something.
func (s *suite) lines(n int, part string) {
	s.t.Helper()
	if got := s.log.Lines(part); len(got) != n {
		s.t.Errorf("the log has %q %d times, want %d:\n%s", part, len(got), n, strings.Join(s.log.Lines(), "\n"))
	}
}

func lateChangedDeleted(s *suite) {
	source := s.source()
	first := s.next(source)
	if !errors.Is(first.Err, config.ErrNoDocument) {
		s.t.Errorf("without a document: %v", first.Err)
	}
	s.fault(first, "ConfigMap hotplate-config does not exist in namespace "+s.namespace,
		"create it there: kubectl --namespace "+s.namespace+" create configmap hotplate-config --from-file=config.yaml")
	s.document(withImage("a"))
	if got := s.next(source); image(got) != "a" || got.Hash == "" || got.Source != "ConfigMap "+s.namespace+"/hotplate-config" {
		s.t.Errorf("created late: image %q, hash %q, source %q, %v", image(got), got.Hash, got.Source, got.Err)
	}
	s.document(withImage("b"))
	if got := s.next(source); image(got) != "b" {
		s.t.Errorf("changed: image %q, %v", image(got), got.Err)
	}
	s.put("hotplate-config", map[string]string{"config.yml": withImage("c"), "ca.pem": ""})
	s.fault(s.next(source), "has no key config.yaml", "it has ca.pem, config.yml")
	s.remove("hotplate-config")
	s.fault(s.next(source), "ConfigMap hotplate-config does not exist")
	s.document(withImage("b"))
	if got := s.next(source); image(got) != "b" {
		s.t.Errorf("created again: image %q, %v", image(got), got.Err)
	}
}

func faulty(s *suite) {
	s.document(withImage("a"))
	source := s.source()
	if got := s.next(source); image(got) != "a" {
		s.t.Errorf("image %q, %v", image(got), got.Err)
	}
	s.document(withImage("a") + "credentials: hunter2\n")
	s.fault(s.next(source), "ConfigMap "+s.namespace+"/hotplate-config:3: credentials: is text; write a list")
	s.document(withImage("a"))
	if got := s.next(source); image(got) != "a" {
		s.t.Errorf("healed: image %q, %v", image(got), got.Err)
	}
}

// login is the password for harbor.example.com of a snapshot.
func login(snapshot config.Snapshot) string {
	l, _ := snapshot.Logins["robot"].Login("harbor.example.com")
	return string(l.Password)
}

func named(names string) string {
	return head + "certs: {bundles: [{name: corp, configMap: {name: corp-ca}}]}\ncredentials: [" + names + "]\n"
}

func namedObjects(s *suite) {
	one, two := certificate(s.t, "one"), certificate(s.t, "two")
	s.document(named("{name: robot, secret: robot}"))
	s.put("corp-ca", map[string]string{"ca.crt": one})
	source := s.source()
	s.fault(s.next(source), `login "robot": Secret robot does not exist in namespace `+s.namespace)
	s.putSecret("robot", map[string]string{"username": "robot", "password": "hunter2"})
	first := s.next(source)
	if login(first) != "hunter2" || first.Bundles["corp"].Len() != 1 {
		s.t.Fatalf("password %q, %d certificates, %v", login(first), first.Bundles["corp"].Len(), first.Err)
	}
	s.putSecret("robot", map[string]string{"username": "robot", "password": "hunter3"})
	if got := s.next(source); login(got) != "hunter3" || got.Hash != first.Hash {
		s.t.Errorf("password %q, %v, hash %s before and %s now", login(got), got.Err, first.Hash, got.Hash)
	}
	s.put("corp-ca", map[string]string{"ca.crt": one, "next.crt": two})
	if got := s.next(source); got.Bundles["corp"].Len() != 2 {
		s.t.Errorf("%d certificates, %v", got.Bundles["corp"].Len(), got.Err)
	}
	s.removeSecret("robot")
	s.fault(s.next(source), "Secret robot does not exist")
	s.document(named(""))
	if got := s.next(source); got.Err != nil {
		s.t.Errorf("nothing is missing any more, and yet %v", got.Err)
	}
	s.putSecret("robot", map[string]string{"username": "robot", "password": "hunter4"})
	s.none(source, "a Secret that is not named any more has changed")
	if log := strings.Join(s.log.Lines(), "\n"); strings.Contains(log, "hunter") {
		s.t.Errorf("the log has a secret:\n%s", log)
	}
}

func together(s *suite) {
	s.document(withImage("a"))
	source := s.source()
	s.next(source)
	s.document(named("{name: robot, secret: robot}"))
	s.put("corp-ca", map[string]string{"ca.crt": certificate(s.t, "one")})
	s.putSecret("robot", map[string]string{"username": "robot", "password": "hunter2"})
	if got := s.next(source); got.Err != nil || login(got) != "hunter2" {
		s.t.Errorf("a half change is delivered: %v", got.Err)
	}
	s.none(source, "all was seen")
}

func unrelated(s *suite) {
	s.document(withImage("a"))
	source := s.source()
	s.next(source)
	s.put("other", map[string]string{config.DocumentKey: withImage("b")})
	s.putSecret("other", map[string]string{"password": "hunter2"})
	s.document("# Nothing new.\n" + withImage("a"))
	if got := s.next(source); image(got) != "a" { // the document itself is another text
		s.t.Errorf("image %q, %v", image(got), got.Err)
	}
	s.none(source, "other objects have changed")
	if _, err := os.Stat(filepath.Join(s.runDir, answerName)); err != nil {
		s.t.Error(err)
	}
	kept, err := loadAnswer(s.runDir, s.namespace)
	if err != nil {
		s.t.Fatal(err)
	}
	if diff := cmp.Diff([]ref{{configMap, "hotplate-config"}}, kept.refs(), cmp.AllowUnexported(ref{})); diff != "" {
		s.t.Errorf("kept (-want +got):\n%s", diff)
	}
}

func awayAndBack(s *suite) {
	s.document(withImage("a"))
	source := s.source()
	s.next(source)
	s.away(true)
	s.noneUntil(source, "the Kubernetes API does not answer; what it said last stays in force")
	s.none(source, "the API is away")
	s.away(false)
	s.noneUntil(source, "the Kubernetes API answers again")
	s.none(source, "the API is back")
	s.lines(1, "the Kubernetes API does not answer; what it said last stays in force")
	s.lines(1, "the Kubernetes API answers again")
	s.away(true)
	s.none(source, "the API is away again")
	s.away(false)
	s.document(withImage("b"))
	if got := s.next(source); image(got) != "b" {
		s.t.Errorf("image %q, %v", image(got), got.Err)
	}
}

func awayAtStart(s *suite) {
	s.put("corp-ca", map[string]string{"ca.crt": certificate(s.t, "one")})
	s.putSecret("robot", map[string]string{"username": "robot", "password": "hunter2"})
	s.document(named("{name: robot, secret: robot}"))
	before := s.source()
	s.next(before)
	s.close(before)
	info, err := os.Stat(filepath.Join(s.runDir, answerName))
	if err != nil || info.Mode() != 0o600 {
		s.t.Fatalf("kept as %v, %v", info, err)
	}
	s.away(true)
	source := s.source()
	if got := s.next(source); login(got) != "hunter2" || got.Bundles["corp"].Len() != 1 {
		s.t.Errorf("from before: password %q, %d certificates, %v", login(got), got.Bundles["corp"].Len(), got.Err)
	}
	s.lines(1, "using what the Kubernetes API said before")
	s.away(false)
	s.none(source, "the API says what it said before")
	s.putSecret("robot", map[string]string{"username": "robot", "password": "hunter3"})
	if got := s.next(source); login(got) != "hunter3" {
		s.t.Errorf("password %q, %v", login(got), got.Err)
	}
}

func awayAtFirstStart(s *suite) {
	s.document(withImage("a"))
	s.away(true)
	source := s.source()
	s.fault(s.next(source), "the Kubernetes API does not answer: ")
	s.none(source, "the API is away still")
	s.away(false)
	if got := s.next(source); image(got) != "a" {
		s.t.Errorf("image %q, %v", image(got), got.Err)
	}
}

// An agent that starts with a faulty document falls back to its last good one, whose objects must be found.
func lastGoodObjects(s *suite) {
	s.put("corp-ca", map[string]string{"ca.crt": certificate(s.t, "one")})
	s.putSecret("robot", map[string]string{"username": "robot", "password": "hunter2"})
	good := named("{name: robot, secret: robot}")
	check := func(how string, source *Source) {
		s.t.Helper()
		got := s.next(source)
		s.fault(got, "credentials")
		if last := config.Read("last", []byte(good), got.Objects); last.Err != nil || login(last) != "hunter2" {
			s.t.Errorf("%s: the last good document cannot be used: %v", how, last.Err)
		}
		last := config.Read("last", []byte(named("{name: robot, secret: absent}")), got.Objects)
		s.fault(last, "Secret absent")
		s.close(source)
	}
	s.document("credentials: hunter2\n")
	check("for the first time", s.source())
	s.document(good)
	before := s.source()
	s.next(before)
	s.document("credentials: hunter2\n")
	s.next(before)
	s.close(before)
	s.away(true)
	check("while the API is away", s.source())
	s.away(false)
}

func announcement(s *suite) {
	ca := certificate(s.t, "ca")
	finder := NewFinder(s.agent, s.namespace, s.log.Logger())
	s.t.Cleanup(func() {
		if err := finder.Close(); err != nil {
			s.t.Errorf("close: %v", err)
		}
	})
	if _, err := finder.Coordinator(); !errors.Is(err, ErrNoCoordinator) {
		s.t.Errorf("before: %v", err)
	}
	want := Coordinator{URL: "https://192.0.2.7:8443", CA: ca}
	for name, test := range map[string]struct {
		data map[string]string
		want string // in the error; none if it is good
	}{
		"good":        {map[string]string{"url": want.URL, "ca.crt": ca}, ""},
		"not https":   {map[string]string{"url": "http://192.0.2.7:8443", "ca.crt": ca}, "url is not https://host:port"},
		"a user":      {map[string]string{"url": "https://a:hunter2@192.0.2.7", "ca.crt": ca}, "url is not https://host:port"},
		"no CA":       {map[string]string{"url": want.URL, "ca.crt": "x"}, "ca.crt holds no certificate"},
		"a long CA":   {map[string]string{"url": want.URL, "ca.crt": strings.Repeat(ca, 1000)}, "longer than"},
		"another one": {map[string]string{"url": want.URL, "ca.crt": ca}, ""},
	} {
		s.put(report.CoordinatorName, test.data)
		var got Coordinator
		var err error
		for end := time.Now().Add(s.patience); time.Now().Before(end); {
			got, err = finder.Coordinator()
			if err == nil && test.want == "" || err != nil && test.want != "" && strings.Contains(err.Error(), test.want) {
				break
			}
			select {
			case <-finder.Moved():
			case <-time.After(s.patience):
			}
		}
		if test.want == "" && (err != nil || got != want) {
			s.t.Errorf("%s: %+v, %v", name, got, err)
		}
		if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			s.t.Errorf("%s: %v", name, err)
		}
	}
	s.remove(report.CoordinatorName)
	for end := time.Now().Add(s.patience); time.Now().Before(end); {
		if _, err := finder.Coordinator(); errors.Is(err, ErrNoCoordinator) {
			return
		}
		select {
		case <-finder.Moved():
		case <-time.After(s.patience):
		}
	}
	s.t.Error("it is said that there is a coordinator still")
}
