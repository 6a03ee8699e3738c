package main

import "github.com/hotplate-dev/hotplate/cmd/internal/cli"

// version is set by the linker.
var version = "devel"

func main() { cli.Main(newCommand()) }
