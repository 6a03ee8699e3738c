// Package coordinator is the cluster's side of hotplate: it hears what every node reports, tells each what it should hold, and
// marks those that do.
//
// Nodes state facts, only the coordinator concludes. It keeps nothing that it could not get again: what is wanted comes from
// the config, from annotations of Nodes and from preheat requests (Intent, wanted); what is there from reports (Fleet); what was
// concluded stands on the Node (marks). A replica that becomes the leader knows all of it half a minute later, when every agent
// has reported once; until then it leaves alone what it finds written.
//
// # One report
//
//  1. The token of the request says which node it is from (Authenticator).
//  2. The Fleet takes it in place of the one before.
//  3. The answer is the node's Directive: what it should hold, by digest; whether it may fetch what is missing (pullers) and
//     restart containerd (rollout); when to report again.
//  4. What has become of the node is concluded, and compared with what its Node object says. Only a difference is written.
//
// # Where things are
//
//   - intent.go, wanted.go: what is wanted of a node.
//   - fleet.go, conclude.go: what nodes say, and what that comes to.
//   - pullers.go: how many nodes fetch at once.
//   - rollout.go: which node may restart containerd.
//   - release.go: all nodes become as they were before hotplate.
//   - marks.go: what a Node should say.
//   - authority.go: the CA and the certificates that it signs.
//
// These are values and functions of values; nothing in them asks an API or a clock of its own. Around them:
//
//   - coordinator.go, restart.go: [Coordinator], which puts them together into answers.
//   - resolve.go: [Resolver], what tags mean.
//   - auth.go, review.go, serve.go: whose report it is, and its way in.
//   - requests.go: preheat requests. view.go: [View], Nodes and Pods. marker.go: [Marker], writes on Nodes. keeper.go: [Keeper], writes in the own namespace.
//   - lead.go, status.go: [Server], one replica, and what it tells people.
//
// # What a crash leaves
//
// The Lease runs out in 15 seconds, and another replica leads. Marks on Nodes stay as they were and are compared with what the
// next leader concludes. A leave to restart that was given is in the ConfigMap hotplate-rollout before the node hears of it.
// Places to pull are not kept: nodes that fetch say so and go on.
package coordinator
