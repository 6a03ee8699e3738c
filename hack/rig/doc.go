// Package rig starts real parts.
package rig
