package link

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/hotplate-dev/hotplate/agent/report"
)

// maxMessage bounds each message for people in a report, in bytes; shortMessage where the whole would be too long otherwise.
const (
	maxMessage   = 2 << 10
	shortMessage = 128
)

// fit is r in JSON, at most report.MaxReport bytes of it: with its messages cut, then without layers, then with messages cut to
// almost nothing. r itself is not changed.
func fit(r report.NodeReport) ([]byte, error) {
	for _, attempt := range []struct {
		most   int
		layers bool
	}{{maxMessage, true}, {maxMessage, false}, {shortMessage, false}} {
		text, err := json.Marshal(cutReport(r, attempt.most, attempt.layers))
		if err != nil {
			return nil, fmt.Errorf("write the report: %w", err)
		}
		if len(text) <= report.MaxReport {
			return text, nil
		}
	}
	return nil, fmt.Errorf("the report about %d images and %d registries is longer than the %d bytes that the coordinator reads",
		len(r.Images), len(r.Registries), report.MaxReport)
}

// cutReport is r with messages of at most most bytes.
func cutReport(r report.NodeReport, most int, layers bool) report.NodeReport {
	r.Config.Rejected = cutAll(r.Config.Rejected, most)
	r.Conditions = slices.Clone(r.Conditions)
	for i := range r.Conditions {
		r.Conditions[i].Message = cut(r.Conditions[i].Message, most)
	}
	r.Registries = slices.Clone(r.Registries)
	for i := range r.Registries {
		reg := &r.Registries[i]
		reg.Message = cut(reg.Message, most)
		reg.Mirrors = slices.Clone(reg.Mirrors)
		for j := range reg.Mirrors {
			reg.Mirrors[j].Message = cut(reg.Mirrors[j].Message, most)
		}
	}
	r.Images = slices.Clone(r.Images)
	for i := range r.Images {
		img := &r.Images[i]
		img.Message, img.WayReason = cut(img.Message, most), cut(img.WayReason, most)
		img.Advice = cutAll(img.Advice, most)
		if !layers {
			img.Layers = nil
		}
	}
	r.Unwanted = slices.Clone(r.Unwanted)
	for i := range r.Unwanted {
		r.Unwanted[i].Message = cut(r.Unwanted[i].Message, most)
	}
	r.Restart = cutRestart(r.Restart, most)
	return r
}

func cutRestart(r report.Restart, most int) report.Restart {
	r.Checks = slices.Clone(r.Checks)
	for i := range r.Checks {
		r.Checks[i].Detail = cut(r.Checks[i].Detail, most)
	}
	r.Records = slices.Clone(r.Records)
	for i := range r.Records {
		r.Records[i].Reason = cut(r.Records[i].Reason, most)
	}
	return r
}

// cutAll bounds how many lines there are, too.
func cutAll(lines []string, most int) []string {
	const maxLines = 20
	if len(lines) > maxLines {
		lines = append(slices.Clone(lines[:maxLines]), fmt.Sprintf("and %d more", len(lines)-maxLines))
	}
	out := slices.Clone(lines)
	for i := range out {
		out[i] = cut(out[i], most)
	}
	return out
}

func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
