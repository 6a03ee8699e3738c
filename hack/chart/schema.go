package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"

	"github.com/invopop/jsonschema"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	configSchema = "manifests/config.schema.json"
	refPrefix    = "#/$defs/"
	// absolutePath is empty, or an absolute path without "." and "..", and without what YAML or a mount would take for something
	// else.
	absolutePath = `^(/\.?[A-Za-z0-9_-][A-Za-z0-9._-]*)*$`
)

type object = map[string]any

// makeSchema makes values.schema.json.
func makeSchema(values []*value) ([]byte, error) {
	properties, err := schemaOf(values)
	if err != nil {
		return nil, err
	}
	// helm gives this to a chart that is part of another one.
	properties["global"] = object{"type": "object", "description": "Values of a chart that this one is part of. Not used."}
	defs := ownTypes()
	for _, add := range []func(object) error{addKubernetes, addConfig} {
		if err := add(defs); err != nil {
			return nil, err
		}
	}
	schema := object{
		"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Values of the chart hotplate", "type": "object",
		"properties": properties, "additionalProperties": false, "$defs": defs,
	}
	if err := checkRefs(schema, defs); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err = encoder.Encode(schema)
	return out.Bytes(), err
}

func schemaOf(values []*value) (object, error) {
	properties := object{}
	var errs []error
	for _, v := range values {
		p, err := v.toSchema()
		errs = append(errs, err)
		properties[v.key] = p
	}
	return properties, errors.Join(errs...)
}

func (v *value) toSchema() (object, error) {
	out := object{"description": v.doc}
	for key, is := range v.schema {
		out[key] = is
	}
	if v.children != nil {
		properties, err := schemaOf(v.children)
		out["type"], out["properties"], out["additionalProperties"] = "object", properties, false
		return out, err
	}
	var def any
	if err := v.node.Decode(&def); err != nil {
		return nil, fmt.Errorf("%s: %w", v.path, err)
	}
	out["default"] = def
	for _, key := range []string{"$ref", "anyOf", "type"} {
		if _, said := v.schema[key]; said {
			return out, nil
		}
	}
	kinds := map[string]string{"!!str": "string", "!!int": "integer", "!!bool": "boolean", "!!map": "object", "!!seq": "array"}
	kind := kinds[v.node.ShortTag()]
	if out["type"] = kind; kind == "" {
		return nil, fmt.Errorf("%s: its default %s does not show its type: say it by @schema", v.path, v.node.ShortTag())
	}
	for kind, needs := range map[string]string{"array": "items", "object": "additionalProperties"} {
		if _, said := v.schema[needs]; out["type"] == kind && !said {
			return nil, fmt.Errorf("%s: its default does not show what it holds: say %s by @schema", v.path, needs)
		}
	}
	return out, nil
}

// ownTypes are types of the chart's own.
func ownTypes() object {
	path := object{"type": "string", "pattern": absolutePath}
	full := object{"$ref": refPrefix + "path", "minLength": 2}
	return object{
		"path": path,
		"hostPath": object{"type": "object", "additionalProperties": false, "required": []string{"path"}, "properties": object{
			"path":     full,
			"readOnly": object{"type": "boolean", "default": true},
		}},
		"taint": object{"type": "object", "additionalProperties": false, "required": []string{"key"}, "properties": object{
			"key":    object{"type": "string", "minLength": 1},
			"value":  object{"type": "string"},
			"effect": object{"enum": []string{"NoSchedule", "PreferNoSchedule", "NoExecute"}},
		}},
	}
}

// addKubernetes adds the types of Kubernetes that values have.
func addKubernetes(defs object) error {
	r := &jsonschema.Reflector{Anonymous: true, Mapper: func(t reflect.Type) *jsonschema.Schema {
		switch t {
		case reflect.TypeFor[resource.Quantity]():
			return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{
				{Type: "string", Pattern: `^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$`}, {Type: "number"}}}
		case reflect.TypeFor[intstr.IntOrString]():
			return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{{Type: "string"}, {Type: "integer"}}}
		}
		return nil
	}}
	for _, example := range []any{
		corev1.Affinity{}, corev1.AppArmorProfile{}, corev1.LocalObjectReference{}, corev1.ResourceRequirements{},
		corev1.SELinuxOptions{}, corev1.Toleration{}, networkingv1.NetworkPolicyPeer{}, networkingv1.NetworkPolicyEgressRule{},
	} {
		text, err := json.Marshal(r.Reflect(example))
		if err != nil {
			return err
		}
		var s struct {
			Defs map[string]object `json:"$defs"`
		}
		if err := json.Unmarshal(text, &s); err != nil {
			return err
		}
		for name, def := range s.Defs {
			defs[name] = def
		}
	}
	// Empty means none.
	delete(defs["AppArmorProfile"].(object), "required")
	return nil
}

// addConfig adds the document of the config.
func addConfig(defs object) error {
	text, err := os.ReadFile(configSchema)
	if err != nil {
		return err
	}
	// Names of its own types begin with "config.".
	text = bytes.ReplaceAll(text, []byte(refPrefix), []byte(refPrefix+"config."))
	var doc object
	if err := json.Unmarshal(text, &doc); err != nil {
		return fmt.Errorf("read %s: %w", configSchema, err)
	}
	types, ok := doc["$defs"].(object)
	if !ok {
		return fmt.Errorf("%s has no $defs", configSchema)
	}
	for name, def := range types {
		defs["config."+name] = def
	}
	for _, key := range []string{"$defs", "$schema", "$id"} {
		delete(doc, key)
	}
	defs["config"] = doc
	return nil
}

// checkRefs returns an error for a type that there is not.
func checkRefs(in any, defs object) error {
	switch in := in.(type) {
	case object:
		var errs []error
		for key, is := range in {
			if ref, ok := is.(string); ok && key == "$ref" {
				if _, ok := defs[strings.TrimPrefix(ref, refPrefix)]; !ok {
					errs = append(errs, fmt.Errorf("there is no type %s", ref))
				}
			}
			errs = append(errs, checkRefs(is, defs))
		}
		return errors.Join(errs...)
	case []any:
		var errs []error
		for _, is := range in {
			errs = append(errs, checkRefs(is, defs))
		}
		return errors.Join(errs...)
	}
	return nil
}
