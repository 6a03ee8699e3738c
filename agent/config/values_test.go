package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

func TestDurationReadsGoNotation(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"2s": 2 * time.Second, "1m30s": 90 * time.Second, "500ms": time.Second / 2, "1h": time.Hour,
		"": 0, "2": 0, "0s": 0, "-1s": 0, "2 s": 0, "1d": 0, "9999999h": 0,
	} {
		var d Duration
		err := d.UnmarshalText([]byte(text))
		if (err == nil) != (want > 0) || time.Duration(d) != want {
			t.Errorf("%q is read as %v, %v; want %v", text, d, err, want)
		}
	}
}

func TestBytesReadsAndWritesUnits(t *testing.T) {
	for text, want := range map[string]struct {
		bytes   Bytes
		written string
	}{
		"256Mi":               {256 * Mi, "256Mi"},
		"1024Mi":              {Gi, "1Gi"},
		"1Ki":                 {1024, "1Ki"},
		"1025":                {1025, "1025"},
		"9223372036854775807": {1<<63 - 1, "9223372036854775807"},
		"8589934591Gi":        {8589934591 * Gi, "8589934591Gi"},
	} {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err != nil || b != want.bytes || b.String() != want.written {
			t.Errorf("%q is read as %d and written %s, %v; want %d and %s", text, int64(b), b, err, want.bytes, want.written)
		}
	}
	for _, text := range []string{"", "0", "-1", "+1", "1.5Gi", "256MB", "256M", "Mi", " 1Mi", "1 Mi", "1KiKi", "0Mi",
		"9223372036854775808", "8589934592Gi", "1e9", "0x10", "1_000"} {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is read as %d; want an error", text, int64(b))
		}
	}
}

func TestPercentReadsAndWritesItsSign(t *testing.T) {
	for text, want := range map[string]Percent{"0%": 0, "15%": 15, "90%": 90} {
		var p Percent
		if err := p.UnmarshalText([]byte(text)); err != nil || p != want || p.String() != text {
			t.Errorf("%q is read as %d and written %s, %v; want %d", text, int(p), p, err, int(want))
		}
	}
	for _, text := range []string{"", "%", "15", "91%", "-1%", "1.5%", "15 %", "+1%", "300%"} {
		var p Percent
		if err := p.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is read as %d; want an error", text, int(p))
		}
	}
	if got := Percent(15).Share(); got != 0.15 {
		t.Errorf("15%% is a share of %v", got)
	}
}

func TestSecretIsShownNowhere(t *testing.T) {
	secret := Secret("hunter2")
	holder := struct {
		Key    Secret            `json:"key" yaml:"key"`
		ByName map[string]Secret `json:"byName" yaml:"byName"`
		Login  Login             `json:"login" yaml:"login"`
		One    Logins            `json:"one" yaml:"one"`
		Many   Logins            `json:"many" yaml:"many"`
	}{
		secret,
		map[string]Secret{"a": secret},
		Login{"robot", secret},
		Logins{single: &Login{"robot", secret}},
		Logins{docker: DockerConfig{
			exact:    map[string]Login{"a": {"robot", secret}},
			patterns: []pattern{{"*", Login{"robot", secret}}},
		}},
	}
	var logged strings.Builder
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "secret", secret, "holder", holder)
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "secret", secret, "holder", holder)
	shown := map[string]string{
		"slog":    logged.String(),
		"String":  secret.String(),
		"hex":     fmt.Sprintf("%x", secret),
		"decimal": fmt.Sprintf("%d %v", []any{secret}, secret),
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%t"} {
		shown[verb] = fmt.Sprintf(verb, secret) + fmt.Sprintf(verb, holder) + fmt.Sprintf(verb, &holder)
	}
	asJSON, err := json.Marshal(holder)
	if err != nil {
		t.Fatal(err)
	}
	asYAML, err := yaml.Marshal(holder)
	if err != nil {
		t.Fatal(err)
	}
	shown["JSON"], shown["YAML"] = string(asJSON), string(asYAML)
	for how, text := range shown {
		if strings.Contains(text, "hunter2") || strings.Contains(text, fmt.Sprintf("%x", "hunter2")) {
			t.Errorf("%s shows the secret: %s", how, text)
		}
		if !strings.Contains(text, redacted) {
			t.Errorf("%s does not say that something is hidden: %s", how, text)
		}
	}
}
