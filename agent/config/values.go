package config

import "time"

// Duration is a time span in Go's notation, such as 2s or 1m30s.
type Duration time.Duration

// Bytes is a number of bytes, written plainly or with Ki, Mi or Gi.
type Bytes int64

// Secret is a value that is never printed, logged or marshalled.
type Secret string

// String hides the value.
func (Secret) String() string { return "[redacted]" }
