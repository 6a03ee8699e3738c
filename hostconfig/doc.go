// Package hostconfig knows what containerd makes of a hosts directory (certs.d), and what the directory should hold.
package hostconfig
