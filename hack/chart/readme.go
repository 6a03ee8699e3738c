package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Between these lines of the README stands the table of values.
const (
	tableBegin = "<!-- values: written by go run ./hack/chart -->\n"
	tableEnd   = "<!-- end of values -->\n"
)

// fillReadme replaces the table of values in a README.
func fillReadme(old []byte, values []*value) ([]byte, error) {
	before, rest, ok := bytes.Cut(old, []byte(tableBegin))
	_, after, ended := bytes.Cut(rest, []byte(tableEnd))
	if !ok || !ended {
		return nil, fmt.Errorf("README.md has no lines %s and %s", strings.TrimSpace(tableBegin), strings.TrimSpace(tableEnd))
	}
	table, err := valuesTable(values)
	if err != nil {
		return nil, err
	}
	return bytes.Join([][]byte{before, []byte(tableBegin), table, []byte(tableEnd), after}, nil), nil
}

// valuesTable is one table for values by themselves, and one for each group.
func valuesTable(values []*value) ([]byte, error) {
	var out bytes.Buffer
	var alone, groups []*value
	for _, v := range values {
		if v.children == nil {
			alone = append(alone, v)
		} else {
			groups = append(groups, v)
		}
	}
	errs := []error{writeRows(&out, alone)}
	for _, g := range groups {
		fmt.Fprintf(&out, "\n### %s\n\n%s\n", g.path, g.doc)
		errs = append(errs, writeRows(&out, g.children))
	}
	out.WriteByte('\n')
	return out.Bytes(), errors.Join(errs...)
}

func writeRows(out *bytes.Buffer, values []*value) error {
	out.WriteString("\n| value | default | what |\n|---|---|---|\n")
	for _, v := range values {
		if v.children != nil {
			return fmt.Errorf("%s: a group in a group is one too deep for the table", v.path)
		}
		def, err := inline(v.node)
		if err != nil {
			return fmt.Errorf("%s: %w", v.path, err)
		}
		fmt.Fprintf(out, "| `%s` | `%s` | %s |\n", v.path, def, strings.ReplaceAll(v.doc, "|", `\|`))
	}
	return nil
}

// inline writes a default on one line, as a person would.
func inline(node *yaml.Node) (string, error) {
	flow := *node
	if flow.Kind == yaml.SequenceNode || flow.Kind == yaml.MappingNode {
		flow.Style = yaml.FlowStyle
	}
	text, err := yaml.Marshal(&flow)
	return strings.Join(strings.Fields(string(text)), " "), err
}
