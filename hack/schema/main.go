// Command schema writes the JSON schema of hotplate's config document, for editors, from the Go types and their
// comments. It runs at the root of the repository; with -verify it writes nothing and fails if the file is not what it
// would write.
//
// A crash leaves the file as it was or cut off; the next run writes it whole.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"

	"github.com/invopop/jsonschema"

	"github.com/hotplate-dev/hotplate/agent/config"
	"github.com/hotplate-dev/hotplate/hack/generated"
)

const (
	module  = "github.com/hotplate-dev/hotplate"
	file    = "manifests/config.schema.json"
	command = "go run ./hack/schema"
)

func main() {
	verify := flag.Bool("verify", false, "check the file and write nothing")
	flag.Parse()
	if err := run(*verify); err != nil {
		fmt.Fprintln(os.Stderr, "schema:", err)
		os.Exit(1)
	}
}

func run(verify bool) error {
	want, err := generate()
	if err != nil {
		return err
	}
	out := generated.File{Path: file, Data: want}
	if verify {
		return out.Verify(command)
	}
	return out.Write()
}

// generate makes the schema. It reads the comments in the sources, so it must run at the root of the repository.
func generate() ([]byte, error) {
	r := &jsonschema.Reflector{FieldNameTag: "yaml", Mapper: mapType, Anonymous: true, ExpandedStruct: true}
	if err := r.AddGoComments(module, "agent/config", jsonschema.WithFullComment()); err != nil {
		return nil, err
	}
	r.LookupComment = func(t reflect.Type, field string) string { return comment(r.CommentMap, t, field) }
	schema := r.Reflect(&config.Config{})
	schema.Title = "hotplate config"
	name, ok := schema.Properties.Get("apiVersion")
	if !ok {
		return nil, errors.New("the schema has no apiVersion")
	}
	name.Const = config.APIVersion
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(schema); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// comment is what the sources say about a type or a field. In a schema a field is known by its YAML name, and lines are
// not broken.
func comment(all map[string]string, t reflect.Type, field string) string {
	key := t.PkgPath() + "." + t.Name()
	if field == "" {
		return strings.Join(strings.Fields(all[key]), " ")
	}
	f, _ := t.FieldByName(field)
	name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return strings.Join(strings.Fields(rename(all[key+"."+field], field, name)), " ")
}

// rename puts the YAML name in the place of the Go name with which a comment begins.
func rename(comment, from, to string) string {
	if rest, ok := strings.CutPrefix(comment, from+" "); ok {
		return to + " " + rest
	}
	return comment
}

// mapType gives the schema of the types that are not what they look like.
func mapType(t reflect.Type) *jsonschema.Schema {
	text := func(pattern string, examples ...any) *jsonschema.Schema {
		return &jsonschema.Schema{Type: "string", Pattern: pattern, Examples: examples}
	}
	switch t {
	case reflect.TypeFor[config.Duration]():
		return text(`^([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h))*$`,
			"2s", "1m30s")
	case reflect.TypeFor[config.Bytes]():
		return &jsonschema.Schema{
			AnyOf: []*jsonschema.Schema{text(`^[0-9]+(Ki|Mi|Gi)?$`), {Type: "integer", Minimum: "1"}},
			// An integer is a number of bytes.
			Examples: []any{"256Mi", "1Gi"},
		}
	case reflect.TypeFor[config.Percent]():
		return text(`^([0-9]|[1-8][0-9]|90)%$`, "15%")
	case reflect.TypeFor[config.KeepLayers]():
		return &jsonschema.Schema{Type: "string", Enum: []any{config.KeepAuto, config.KeepAlways, config.KeepNever}}
	case reflect.TypeFor[config.Way]():
		return &jsonschema.Schema{Type: "string", Enum: []any{config.WayAuto, config.WayAPI}}
	case reflect.TypeFor[config.WhenUnwanted]():
		return &jsonschema.Schema{Type: "string", Enum: []any{config.Unpin, config.Delete}}
	case reflect.TypeFor[config.RestartPolicy]():
		return &jsonschema.Schema{Type: "string", Enum: []any{config.RestartWhenNeeded, config.RestartNever}}
	case reflect.TypeFor[config.Day]():
		schema := &jsonschema.Schema{Type: "string"}
		for _, day := range config.Days() {
			schema.Enum = append(schema.Enum, day)
		}
		return schema
	case reflect.TypeFor[config.TimeOfDay]():
		return text(`^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$`, "22:00", "04:30")
	case reflect.TypeFor[config.Secret]():
		return &jsonschema.Schema{Type: "string", WriteOnly: true}
	case reflect.TypeFor[config.Upstream]():
		return &jsonschema.Schema{Type: "string", Enum: []any{config.Allow, config.Deny}}
	case reflect.TypeFor[config.Capability]():
		return &jsonschema.Schema{Type: "string", Enum: []any{config.Pull, config.Resolve, config.Push, config.Referrers}}
	default:
		return nil
	}
}
