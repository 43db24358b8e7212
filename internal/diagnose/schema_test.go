package diagnose

import (
	"bytes"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

func TestJSONMatchesSchema(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile("../../docs/schema/check.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, sc := range scenarios {
		var b bytes.Buffer
		if err := Run(sc.in).WriteJSON(&b); err != nil {
			t.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(&b)
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(doc); err != nil {
			t.Errorf("%s: %v", sc.name, err)
		}
	}
}

// The schema must be able to refuse, or the test above proves nothing.
func TestSchemaRefuses(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile("../../docs/schema/check.json")
	if err != nil {
		t.Fatal(err)
	}
	r := Run(scenarios[1].in)
	r.Verdict.Cause = "bad luck"
	var b bytes.Buffer
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(&b)
	if err != nil {
		t.Fatal(err)
	}
	if schema.Validate(doc) == nil {
		t.Error("a cause that the schema does not know was accepted")
	}
}
