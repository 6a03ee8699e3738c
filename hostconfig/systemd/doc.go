// Package systemd is what hotplate asks of the node's systemd over D-Bus.
package systemd
