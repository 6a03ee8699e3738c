// Package config is the document that tells hotplate what a node should hold, and the sources it comes from.
//
// Its steps:
//
//  1. Decode reads one YAML document against the types of this package and collects every fault: fields that do not
//     exist, fields written twice, values of the wrong kind, fields that are missing. It then sets the defaults and
//     validates what fields mean together. Every fault has a line, a path, and says what to write instead.
//  2. Hash names what a document says, whatever its comments and order.
//  3. LoadCerts and LoadCredentials read the files that the document names, and in a cluster the ConfigMaps and Secrets,
//     which come through the interface Objects. Secrets are of type Secret, which is never printed, logged or marshalled.
//  4. A FileSource does all of this again whenever the document or one of those files changes, and delivers a Snapshot.
//     File events are hints only: what was read decides whether there is something new, and a slow poll backs the
//     events up. A snapshot with an error is for reporting; the last good one stays in force, and keeping it is the
//     caller's part. In a cluster agent/kube has the source.
//
// The package writes nothing, so a crash leaves nothing. Reading is bounded: a document or file of more than 1 MiB is
// an error, and of very many faults the first are reported with the number of the others.
//
// The JSON schema in manifests/config.schema.json is made from the types and their comments by hack/schema.
package config
