package coordinator

import (
	"context"
	"fmt"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/hotplate-dev/hotplate/agent/report"
)

// What the API server adds to the identity of a token that is bound to a pod (k8s.io/apiserver/pkg/authentication/serviceaccount,
// v0.36). The node is there from Kubernetes 1.32 on by default.
const (
	podNameExtra   = "authentication.kubernetes.io/pod-name"
	podUIDExtra    = "authentication.kubernetes.io/pod-uid"
	nodeNameExtra  = "authentication.kubernetes.io/node-name"
	accountsPrefix = "system:serviceaccount:"
)

// tokenReviewer asks the API server.
type tokenReviewer struct{ client kubernetes.Interface }

var _ Reviewer = tokenReviewer{}

// Review implements Reviewer.
func (r tokenReviewer) Review(ctx context.Context, token string) (Identity, error) {
	is, err := r.client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{report.CoordinatorName}}}, metav1.CreateOptions{})
	if err != nil {
		return Identity{}, fmt.Errorf("review a token: %w", err)
	}
	// An API server that knows no audiences would leave them out, and take any token of the cluster.
	if !is.Status.Authenticated || !slices.Contains(is.Status.Audiences, report.CoordinatorName) {
		return Identity{}, fmt.Errorf("%w: the API server does not know the token, or it is not for the audience %s", ErrRefused, report.CoordinatorName)
	}
	var id Identity
	if account, ok := strings.CutPrefix(is.Status.User.Username, accountsPrefix); ok {
		id.Namespace, id.ServiceAccount, _ = strings.Cut(account, ":")
	}
	first := func(key string) string {
		if v := is.Status.User.Extra[key]; len(v) == 1 {
			return v[0]
		}
		return ""
	}
	id.Pod, id.PodUID, id.Node = first(podNameExtra), first(podUIDExtra), first(nodeNameExtra)
	return id, nil
}
