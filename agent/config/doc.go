// Package config is the document that tells hotplate what a node should hold.
package config
