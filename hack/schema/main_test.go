package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	validator "github.com/santhosh-tekuri/jsonschema/v5"
	"go.yaml.in/yaml/v3"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/hack/generated"
)

// atRoot runs the rest of the test where the program runs.
func atRoot(t *testing.T) {
	t.Helper()
	t.Chdir("../..")
}

func TestSchemaIsUpToDate(t *testing.T) {
	atRoot(t)
	want, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	if err := (generated.File{Path: file, Data: want}).Verify(command); err != nil {
		t.Error(err)
	}
}

// Every field of the types is in the schema, with a description, and is required if the decoder requires it.
func TestSchemaHasEveryField(t *testing.T) {
	atRoot(t)
	var schema struct {
		definition
		Defs map[string]definition `json:"$defs"`
	}
	if err := json.Unmarshal(read(t, file), &schema); err != nil {
		t.Fatal(err)
	}
	seen := map[reflect.Type]bool{}
	var visit func(reflect.Type)
	visit = func(typ reflect.Type) {
		for typ.Kind() == reflect.Slice || typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || seen[typ] {
			return
		}
		seen[typ] = true
		d, ok := schema.Defs[typ.Name()]
		if typ == reflect.TypeFor[config.Config]() {
			d, ok = schema.definition, true
		}
		if !ok {
			t.Errorf("the schema has no %s", typ)
			return
		}
		d.check(t, typ)
		for _, f := range reflect.VisibleFields(typ) {
			visit(f.Type)
		}
	}
	visit(reflect.TypeFor[config.Config]())
	if len(seen) < 10 {
		t.Errorf("only %d types were seen", len(seen))
	}
}

type definition struct {
	Properties map[string]struct {
		Description string `json:"description"`
	} `json:"properties"`
	Required             []string `json:"required"`
	AdditionalProperties *bool    `json:"additionalProperties"`
}

func (d definition) check(t *testing.T, typ reflect.Type) {
	t.Helper()
	if d.AdditionalProperties == nil || *d.AdditionalProperties {
		t.Errorf("%s: unknown fields are allowed", typ)
	}
	required := map[string]bool{}
	for _, name := range d.Required {
		required[name] = true
	}
	fields := 0
	for _, f := range reflect.VisibleFields(typ) {
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if f.Anonymous {
			continue
		}
		fields++
		property, ok := d.Properties[name]
		if !ok || property.Description == "" {
			t.Errorf("%s: the schema has no %s, or it has no description", typ, name)
		}
		if want := options != "omitempty"; required[name] != want {
			t.Errorf("%s: %s is required: %v; want %v", typ, name, !want, want)
		}
	}
	if len(d.Properties) != fields {
		t.Errorf("%s: the schema has %d fields; want %d", typ, len(d.Properties), fields)
	}
}

func TestSchemaTakesWhatDecodes(t *testing.T) {
	atRoot(t)
	schema := compile(t)
	documents := glob(t, "manifests/examples/*.yaml")
	documents = append(documents, glob(t, "agent/config/testdata/valid-*.yaml")...)
	for _, document := range documents {
		t.Run(filepath.Base(document), func(t *testing.T) {
			data := read(t, document)
			if _, err := config.Decode(document, data); err != nil {
				t.Errorf("the decoder: %v", err)
			}
			if err := schema.Validate(parse(t, data)); err != nil {
				t.Errorf("the schema: %#v", err)
			}
		})
	}
}

func TestSchemaRefusesWhatHasTheWrongShape(t *testing.T) {
	atRoot(t)
	schema := compile(t)
	for _, name := range []string{"unknown-fields", "types", "missing", "list", "prefetch", "sizes"} {
		data := read(t, "agent/config/testdata/invalid-"+name+".yaml")
		if err := schema.Validate(parse(t, data)); err == nil {
			t.Errorf("invalid-%s.yaml: the schema takes it", name)
		}
	}
}

func compile(t *testing.T) *validator.Schema {
	t.Helper()
	c := validator.NewCompiler()
	if err := c.AddResource("config.json", bytes.NewReader(read(t, file))); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("config.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// parse reads YAML into what encoding/json would make of the same document.
func parse(t *testing.T, data []byte) any {
	t.Helper()
	var v any
	if err := yaml.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	v = nil
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s: no files: %v", pattern, err)
	}
	return paths
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
