package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"
)

// DocumentKey is the key of the ConfigMap that holds a document.
const DocumentKey = "config.yaml"

// MaxDocument bounds a document, in bytes. A ConfigMap cannot hold more either.
const MaxDocument = 1 << 20

// Decode reads one document, sets what it leaves out to the defaults, and validates it. The name is the file's, for
// messages. An error is of type Faults and holds everything that is wrong, not the first thing only; where the text is
// not YAML at all, it is that alone.
//
// The document is untrusted: it is bounded, and anchors and aliases, with which a short text can stand for a long one,
// are refused.
func Decode(name string, data []byte) (*Config, error) {
	root, fault := parse(data)
	if fault != nil {
		return nil, Faults{*fault}.report(name)
	}
	cfg := &Config{}
	w := newWalker(root)
	w.value("", root, cfg)
	cfg.Default()
	faults := w.faults
	for _, f := range cfg.validate(w) {
		f.Line = w.line(f.Path)
		faults = append(faults, f)
	}
	if err := faults.report(name); err != nil {
		return nil, err
	}
	return cfg, nil
}

// parse reads the one document that data holds and returns the map at its root.
func parse(data []byte) (*yaml.Node, *Fault) {
	if len(data) > MaxDocument {
		return nil, &Fault{Line: 1, Message: fmt.Sprintf("the document is longer than %d bytes; "+
			"keep certificates in files and name those", MaxDocument)}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var doc, next yaml.Node
	err := decoder.Decode(&doc)
	switch {
	case errors.Is(err, io.EOF) || err == nil && len(doc.Content) == 1 && isNull(doc.Content[0]):
		return nil, &Fault{Line: 1, Message: "the document is empty; begin it with apiVersion: " + APIVersion}
	case err != nil:
		return nil, syntaxFault(data, err)
	}
	switch err := decoder.Decode(&next); {
	case err == nil:
		return nil, &Fault{Line: next.Line, Message: "a second document begins here; keep one document in the file"}
	case !errors.Is(err, io.EOF):
		return nil, syntaxFault(data, err)
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, &Fault{Line: root.Line, Message: fmt.Sprintf("the document is %s; write fields, beginning with "+
			"apiVersion: %s", describe(root), APIVersion)}
	}
	return root, nil
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// describe says in words what kind of value a node is.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a map"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		switch n.ShortTag() {
		case "!!str":
			return "text"
		case "!!int", "!!float":
			return "a number"
		case "!!bool":
			return "true or false"
		case "!!null":
			return "empty"
		case "!!timestamp":
			return "a date"
		}
	}
	return "of an unknown kind"
}
