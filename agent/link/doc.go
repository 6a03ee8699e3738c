// Package link is the agent's side of its talk with the coordinator: what a node is goes there, what it should do comes back.
//
// Its steps, again and again until Run's context ends:
//
//  1. Find where the coordinator is and what its certificate is verified against: that is announced, and may change at any time.
//     The name to verify is always report.CoordinatorName, whatever the address.
//  2. Post the NodeReport, compressed, with the token of this pod, which is read anew each time because the kubelet changes it.
//     Long messages are cut, and layers are left out where the whole would be longer than report.MaxReport.
//  3. Hand over the Directive that is the answer.
//  4. Wait: for the time that the Directive names, or else five seconds while the node is at work and thirty while it is not;
//     less if something has changed, but at least a second. Where there was no answer: longer and longer, up to thirty
//     seconds, unless the coordinator is said to be somewhere else: there every node has to connect anew, and comes within ten
//     seconds. Waits are random by a fifth at least, so that nodes do not ask in step.
//
// Each report has a connection of its own, which resumes the TLS session.
//
// It logs once that there is no answer, and once that there is again. Nothing is kept here: what a Directive says must
// survive a restart is for the agent to keep. A crash leaves nothing.
package link
