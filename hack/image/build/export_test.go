package build

import "runtime/debug"

// CheckStatic is checkStatic for an architecture by its Go name.
func CheckStatic(file, arch string) error { return checkStatic(file, machines[arch]) }

// Check is check.
func Check(file, pkg, arch string) (*debug.BuildInfo, error) { return check(file, pkg, arch) }

// Environment is environment.
func Environment(arch string) []string { return environment(arch) }

// SpdxID is spdxID.
func SpdxID(name string) string { return spdxID(name) }
