// Command image builds the container image of hotplate, for amd64 and arm64, without a container engine: the programs,
// statically linked, and CA roots, on an empty base. It runs at the root of the repository.
//
//	go run ./hack/image                                        into bin/image; prints the digest
//	go run ./hack/image -push registry.example.com/hotplate:v1.2.3 [-ca FILE | -insecure]
//	go run ./hack/image -expect sha256:...                     fails if the image has another digest
//
// Credentials for the registry are those of `docker login`. What is in bin/image, and how it comes there, says package
// build beside this one, which other programs and tests call.
//
// # Is an image what its source says?
//
// The image depends on the commit, the version, and the version of Go, and on nothing of the machine that builds it. So
// whoever doubts an image builds it again:
//
//  1. Read the labels org.opencontainers.image.revision and .version of the image (`crane config`, `skopeo inspect`), and
//     with which Go it was built: the provenance has it at internalParameters.go, and so has `go version` of a program.
//  2. git clone https://github.com/hotplate-dev/hotplate && cd hotplate && git checkout REVISION
//  3. GOTOOLCHAIN=go1.26.8 go run ./hack/image -version VERSION -expect DIGEST
//
// DIGEST is that of the index, which an image reference by digest has. If they differ although revision, version and Go
// are right, then the image is not what its source says. The version must be given because git knows it only from tags,
// which may have changed. Where there is no git, -revision and SOURCE_DATE_EPOCH say what it would: the commit, and its
// time in seconds since 1970.
//
// An image of changes that are not committed can be built, for trying them: its provenance says that they are there, and
// names no digest of the source.
package main
