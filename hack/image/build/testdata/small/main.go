// Command small is a program with a module in it, to make images of.
package main

import (
	"fmt"

	"github.com/opencontainers/go-digest"
)

// version is set by the linker.
var version = "devel"

func main() { fmt.Println("small", version, digest.SHA256) }
