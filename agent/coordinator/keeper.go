package coordinator

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/hotplate-dev/hotplate/agent/report"
)

// The objects in the coordinator's own namespace.
const (
	// RolloutName is the ConfigMap that holds the Rollout, as JSON in RolloutKey, and what people say of it.
	RolloutName = "hotplate-rollout"
	RolloutKey  = "rollout.json"
	// PauseAnnotation on it says why nobody may restart containerd; ResumeAnnotation when, as RFC 3339, a person let a rollout
	// go on that had stopped by itself.
	PauseAnnotation  = "hotplate.dev/pause"
	ResumeAnnotation = "hotplate.dev/resume"
	// ReleaseAnnotation on it, with any value, asks that every node becomes as it was before hotplate; ReleaseKey then holds a
	// Release.
	ReleaseAnnotation = "hotplate.dev/release"
	ReleaseKey        = "release.json"
	// apiTimeout bounds one request to the API.
	apiTimeout = 15 * time.Second
)

// KeeperConfig is what a Keeper needs. All fields but TLSSecret are required.
type KeeperConfig struct {
	ConfigMaps corev1client.ConfigMapInterface
	Secrets    corev1client.SecretInterface
	// TLSSecret is a Secret of type kubernetes.io/tls with ca.crt beside, which somebody else keeps; empty where the coordinator
	// makes its own.
	TLSSecret string
	// URL is where this replica answers.
	URL string
	Log *slog.Logger
}

// Keeper keeps what a leader has in the API: its certificates, where it is, and the Rollout. It is safe for concurrent use.
type Keeper struct {
	cfg     KeeperConfig
	serving atomic.Pointer[tls.Certificate]

	mu        sync.Mutex // guards what follows
	authority authority
	rollout   *corev1.ConfigMap
	said      Said
	known     bool // kept is what is in rollout, read or written last
	kept      string
}

// errOvertaken means that somebody else has written the Rollout since this leader has: another one leads, or a person has edited it.
var errOvertaken = errors.New("somebody else has written it")

// NewKeeper returns a Keeper that has no certificate yet.
func NewKeeper(cfg KeeperConfig) (*Keeper, error) {
	if cfg.ConfigMaps == nil || cfg.Secrets == nil || cfg.URL == "" || cfg.Log == nil {
		return nil, errors.New("keeper: ConfigMaps, Secrets, URL and Log are required")
	}
	return &Keeper{cfg: cfg}, nil
}

// Certificate is what the server serves with now.
func (k *Keeper) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := k.serving.Load(); c != nil {
		return c, nil
	}
	return nil, errors.New("there is no certificate yet")
}

// Lead makes this replica the one that agents ask. It is repeated, so that certificates are renewed in time.
func (k *Keeper) Lead(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	renew := k.own
	if k.cfg.TLSSecret != "" {
		renew = k.given
	}
	roots, err := renew(ctx)
	if err != nil {
		return err
	}
	return k.announce(ctx, roots)
}

// own serves with a certificate of a CA of this replica's own, which it makes or renews, and returns what agents are to trust. The
// CA's key is nowhere but in this process: agents may read every Secret of the namespace, and whoever leads next says where it
// is and whom to trust in one.
func (k *Keeper) own(context.Context) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	a, changed, err := k.authority.renew(now)
	if err != nil {
		return nil, err
	}
	k.authority = a
	if changed {
		k.cfg.Log.Info("the coordinator's CA is new", "until", a.now.cert.NotAfter)
	}
	serving := k.serving.Load()
	if by := a.signer(now).cert; serving == nil || due(serving.Leaf, now) || serving.Leaf.CheckSignatureFrom(by) != nil {
		if serving, err = a.sign(now); err != nil {
			return nil, err
		}
		k.serving.Store(serving)
	}
	return a.announced(), nil
}

// given serves with the certificate of a Secret that somebody else keeps.
func (k *Keeper) given(ctx context.Context) ([]byte, error) {
	secret, err := k.cfg.Secrets.Get(ctx, k.cfg.TLSSecret, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read Secret %s: %w", k.cfg.TLSSecret, err)
	}
	pair, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return nil, fmt.Errorf("the Secret %s holds no certificate with its key in tls.crt and tls.key", k.cfg.TLSSecret)
	}
	if err := pair.Leaf.VerifyHostname(report.CoordinatorName); err != nil {
		return nil, fmt.Errorf("the certificate in Secret %s is not for the name %s: %w", k.cfg.TLSSecret, report.CoordinatorName, err)
	}
	roots := secret.Data[corev1.ServiceAccountRootCAKey]
	if len(roots) == 0 {
		return nil, fmt.Errorf("the Secret %s has no ca.crt, by which agents could verify the coordinator", k.cfg.TLSSecret)
	}
	k.serving.Store(&pair)
	return roots, nil
}

// announce says where the leader is.
func (k *Keeper) announce(ctx context.Context, roots []byte) error {
	want := map[string]string{report.URLKey: k.cfg.URL, report.CAKey: string(roots)}
	is, err := k.cfg.ConfigMaps.Get(ctx, report.CoordinatorName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = k.cfg.ConfigMaps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: report.CoordinatorName}, Data: want},
			metav1.CreateOptions{FieldManager: FieldManager})
	case err == nil && (is.Data[report.URLKey] != want[report.URLKey] || is.Data[report.CAKey] != want[report.CAKey]):
		is = is.DeepCopy()
		is.Data = want
		_, err = k.cfg.ConfigMaps.Update(ctx, is, metav1.UpdateOptions{FieldManager: FieldManager})
	}
	if err != nil {
		return fmt.Errorf("announce the coordinator in ConfigMap %s: %w", report.CoordinatorName, err)
	}
	return nil
}

// Said is what people say of the rollout.
type Said struct {
	// Pause says why nobody may restart; empty if they may.
	Pause string
	// Resume is when a person let a rollout go on; zero if never.
	Resume time.Time
	// Release is not empty when every node is to become as it was before hotplate, and Released how far they are; nil if nobody
	// has looked yet.
	Release  string
	Released *Release
}

// Rollout reads the Rollout and what people say of it.
func (k *Keeper) Rollout(ctx context.Context) (Rollout, Said, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	k.mu.Lock()
	defer k.mu.Unlock()
	is, err := k.cfg.ConfigMaps.Get(ctx, RolloutName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		k.rollout, k.known = nil, false
		// Whoever asks for a release and then deletes everything does not want the nodes to be taken again.
		return Rollout{}, Said{Release: k.said.Release}, nil
	}
	if err != nil {
		return Rollout{}, Said{}, fmt.Errorf("read ConfigMap %s: %w", RolloutName, err)
	}
	text := is.Data[RolloutKey]
	if k.known && text != k.kept {
		return Rollout{}, Said{}, fmt.Errorf("read ConfigMap %s, key %s: %w", RolloutName, RolloutKey, errOvertaken)
	}
	k.rollout, k.known, k.kept = is, true, text
	r, err := ParseRollout(is)
	if err != nil {
		return r, Said{}, err
	}
	k.said = said(is, k.cfg.Log)
	return r, k.said, nil
}

// ParseRollout reads the Rollout in the ConfigMap RolloutName; an empty one where it holds none.
func ParseRollout(is *corev1.ConfigMap) (r Rollout, err error) {
	if text := is.Data[RolloutKey]; text != "" {
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			return r, fmt.Errorf("read ConfigMap %s, key %s: %w: correct it, or delete the key when no node is restarting",
				RolloutName, RolloutKey, err)
		}
	}
	return r, nil
}

func said(is *corev1.ConfigMap, log *slog.Logger) Said {
	s := Said{Pause: is.Annotations[PauseAnnotation], Release: is.Annotations[ReleaseAnnotation]}
	if r := new(Release); json.Unmarshal([]byte(is.Data[ReleaseKey]), r) == nil {
		s.Released = r // what cannot be read is written anew
	}
	if text := is.Annotations[ResumeAnnotation]; text != "" {
		var err error
		if s.Resume, err = time.Parse(time.RFC3339, text); err != nil {
			log.Warn("annotation is not a time", "configMap", RolloutName, "annotation", ResumeAnnotation, "err", err)
		}
	}
	return s
}

// Keep makes a Rollout durable. It fails when somebody else has written it since it was read: another leader.
func (k *Keeper) Keep(ctx context.Context, r Rollout) error { return k.write(ctx, RolloutKey, r) }

// KeepRelease makes a Release durable, unless the ConfigMap by which it was asked for is gone.
func (k *Keeper) KeepRelease(ctx context.Context, r Release) error {
	k.mu.Lock()
	there := k.rollout != nil
	k.mu.Unlock()
	if !there {
		return nil
	}
	return k.write(ctx, ReleaseKey, r)
}

func (k *Keeper) write(ctx context.Context, key string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	var is *corev1.ConfigMap
	if k.rollout == nil {
		is, err = k.cfg.ConfigMaps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: RolloutName},
			Data: map[string]string{key: string(text)}}, metav1.CreateOptions{FieldManager: FieldManager})
	} else {
		next := k.rollout.DeepCopy()
		if next.Data == nil {
			next.Data = map[string]string{}
		}
		next.Data[key] = string(text)
		is, err = k.cfg.ConfigMaps.Update(ctx, next, metav1.UpdateOptions{FieldManager: FieldManager})
	}
	if err != nil {
		return fmt.Errorf("keep %s in ConfigMap %s: %w", key, RolloutName, err)
	}
	k.rollout = is
	if key == RolloutKey {
		k.known, k.kept = true, string(text)
	}
	return nil
}
