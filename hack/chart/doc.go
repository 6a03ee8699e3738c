// Command chart writes what follows from manifests/chart/values.yaml and from the templates beside it. It runs at the root of the
// repository; with -verify it writes nothing and fails if a file is not what it would write.
//
//   - manifests/chart/values.schema.json, against which helm checks values. A type follows from the default; what that does not
//     show stands in a line `# @schema {…}`. Kubernetes' own types come from k8s.io/api, that of config from
//     manifests/config.schema.json, so that a misspelled name is refused however deep it is.
//   - the table of values in manifests/chart/README.md.
//   - manifests/alerts/hotplate.yaml, a copy of the chart's alerts.
//   - manifests/install.yaml, rendered by helm with the default values, for those without helm. helm is built first if it is not
//     in the cache (hack/tools).
//
// A value is documented once, by the comment above it; one without is an error. There are tools for this (helm-docs,
// helm-values-schema-json, helm-schema); none of them makes both files from one comment, and none knows our config.
//
// A crash leaves a file cut off; the next run writes it whole.
package main
