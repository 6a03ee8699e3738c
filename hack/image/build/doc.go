// Package build makes hotplate's container image with the go command and go-containerregistry.
//
// [Image] does this:
//
//  1. The CA roots are read from a Go module that has Mozilla's as data, which go.mod pins: neither the machine nor the day
//     changes them. Roots that Mozilla trusts with a condition are left out, for a PEM file cannot say it.
//  2. For each platform the programs are compiled, with an environment of our own where it matters, and checked: what is
//     in them about their making must be what was asked for, and they must be static, so that an empty base is enough.
//  3. Each program becomes a layer, and so do the roots. Everything in them is root's, not writable by others, and has
//     the time of the commit. Layers are gzip, which every registry takes.
//  4. An image for each platform and an index of them, with labels and annotations that say what it is.
//  5. SBOM and provenance, from what is known by then: the programs say themselves of which modules they are.
//  6. All is written into a new directory, which takes the place of the old one at the end.
//
// A layer for each program, because containerd fetches and unpacks layers side by side, and because a layer's digest then
// says which program changed. The roots come first: they change a few times a year, so upgrades find them there. The programs
// change with every version, for it is in them; so there is nothing to gain from a finer cut.
//
// # What is there in the end
//
//	oci/                            the image, as an OCI image layout with one index
//	digest                          of the index
//	sbom-linux-amd64.spdx.json      SPDX 2.3, for each platform
//	provenance.intoto.json          in-toto statement with SLSA provenance 1.0, not signed
//
// All of these are the same, byte for byte, when the same source is built again with the same version of Go; who builds is
// named in the provenance alone. Signing is up to who publishes: `cosign sign`, and `cosign attest` with these files.
//
// # A crash
//
// leaves a directory .image-* beside the result and the result as it was, or, in the moment when they change places, no
// result. Nothing reads such directories; remove them.
package build
