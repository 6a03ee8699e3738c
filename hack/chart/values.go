package main

import (
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// value is one value of the chart, or a group of them.
type value struct {
	// path is its name with those of its groups, as in image.tag.
	path, key string
	doc       string
	// schema is what the @schema lines say.
	schema map[string]any
	node   *yaml.Node
	// children are the values of a group; none for a value.
	children []*value
}

// parseValues reads values.yaml. The error names every value without documentation.
func parseValues(text []byte) ([]*value, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("read values: %w", err)
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, errors.New("read values: they are not a map")
	}
	return parseGroup("", doc.Content[0])
}

func parseGroup(path string, group *yaml.Node) (all []*value, err error) {
	var errs []error
	for i := 0; i < len(group.Content); i += 2 {
		v, err := parseValue(path, group.Content[i], group.Content[i+1])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, v)
	}
	return all, errors.Join(errs...)
}

func parseValue(path string, key, node *yaml.Node) (*value, error) {
	v := &value{path: strings.TrimPrefix(path+"."+key.Value, "."), key: key.Value, node: node, schema: map[string]any{}}
	var words []string
	for line := range strings.Lines(key.HeadComment) {
		line = strings.TrimSpace(strings.TrimPrefix(line, "#"))
		if text, ok := strings.CutPrefix(line, "@schema "); ok {
			if err := yaml.Unmarshal([]byte(text), &v.schema); err != nil {
				return nil, fmt.Errorf("%s: @schema: %w", v.path, err)
			}
			continue
		}
		words = append(words, strings.Fields(line)...)
	}
	if v.doc = strings.Join(words, " "); v.doc == "" {
		return nil, fmt.Errorf("%s is not documented: write a comment above it", v.path)
	}
	if !v.isGroup() {
		return v, nil
	}
	var err error
	v.children, err = parseGroup(v.path, node)
	return v, err
}

// isGroup tells whether what is below are values of their own, and not the default of this one.
func (v *value) isGroup() bool {
	_, refers := v.schema["$ref"]
	_, free := v.schema["additionalProperties"]
	return v.node.Kind == yaml.MappingNode && len(v.node.Content) > 0 && !refers && !free
}
