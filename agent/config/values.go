package config

import (
	"fmt"
	"io"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a time span in Go's notation, such as 2s or 1m30s. In a document it must be positive.
type Duration time.Duration

// UnmarshalText reads Go's notation. The error is a fault's message: what is wrong, and what to write instead.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%s is not a time span; write a number and its unit, such as 2s or 1m30s", quote(string(text)))
	}
	if parsed <= 0 {
		return fmt.Errorf("%s is not positive; write a time span such as 2s, or leave it out for the default",
			quote(string(text)))
	}
	*d = Duration(parsed)
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String is the time span in Go's notation.
func (d Duration) String() string { return time.Duration(d).String() }

// Bytes is a number of bytes, written plainly or with Ki, Mi or Gi. In a document it must be positive.
type Bytes int64

// The units of Bytes.
const (
	Ki Bytes = 1 << 10
	Mi Bytes = 1 << 20
	Gi Bytes = 1 << 30
)

// UnmarshalText reads a whole number with or without a unit. The error is a fault's message.
func (b *Bytes) UnmarshalText(text []byte) error {
	digits, unit := string(text), Bytes(1)
	for suffix, u := range map[string]Bytes{"Ki": Ki, "Mi": Mi, "Gi": Gi} {
		if rest, ok := strings.CutSuffix(digits, suffix); ok {
			digits, unit = rest, u
			break
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || n > uint64(math.MaxInt64/unit) {
		return fmt.Errorf("%s is not a number of bytes; write a whole number, plainly or with Ki, Mi or Gi, such as 256Mi",
			quote(string(text)))
	}
	if n == 0 {
		return fmt.Errorf("%s is not positive; write a size such as 256Mi, or leave it out for the default",
			quote(string(text)))
	}
	*b = Bytes(n) * unit
	return nil
}

// MarshalText writes what UnmarshalText reads, in the largest unit that is exact.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// String is the number of bytes in the largest unit that is exact.
func (b Bytes) String() string {
	switch {
	case b != 0 && b%Gi == 0:
		return strconv.FormatInt(int64(b/Gi), 10) + "Gi"
	case b != 0 && b%Mi == 0:
		return strconv.FormatInt(int64(b/Mi), 10) + "Mi"
	case b != 0 && b%Ki == 0:
		return strconv.FormatInt(int64(b/Ki), 10) + "Ki"
	default:
		return strconv.FormatInt(int64(b), 10)
	}
}

// Percent is a whole percentage, written with its sign, from 0% to 90%.
type Percent int

const maxPercent = 90

// UnmarshalText reads a percentage. The error is a fault's message.
func (p *Percent) UnmarshalText(text []byte) error {
	digits, ok := strings.CutSuffix(string(text), "%")
	n, err := strconv.ParseUint(digits, 10, 8)
	if !ok || err != nil || n > maxPercent {
		return fmt.Errorf("%s is not a percentage from 0%% to %d%%; write one such as 15%%", quote(string(text)), maxPercent)
	}
	*p = Percent(n)
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (p Percent) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// String is the percentage with its sign.
func (p Percent) String() string { return strconv.Itoa(int(p)) + "%" }

// Share is the percentage as a number from 0 to 0.9.
func (p Percent) Share() float64 { return float64(p) / 100 }

// Secret is a value that is never printed, logged or marshalled. To use it, convert it: string(s). It is for exported
// fields: fmt prints what unexported ones hold without asking.
type Secret string

const redacted = "[redacted]"

// String hides the value.
func (Secret) String() string { return redacted }

// GoString hides the value from %#v.
func (Secret) GoString() string { return redacted }

// Format hides the value from every verb but %p, which fmt keeps to itself: String is asked only for verbs that suit
// text, so that %d would print the value.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue hides the value from slog.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText hides the value from encoders that know nothing better.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON hides the value.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalYAML hides the value.
func (Secret) MarshalYAML() (any, error) { return redacted, nil }

// quote shows a value of the document in a message: control characters escaped, and cut off where it is long.
func quote(s string) string {
	const most = 64
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return strconv.Quote(s)
}
