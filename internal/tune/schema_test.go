package tune

import (
	"bytes"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

func TestPlanMatchesItsSchema(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile("../../docs/schema/plan.json")
	if err != nil {
		t.Fatal(err)
	}
	validate := func(p *Plan) error {
		var b bytes.Buffer
		if err := p.JSON(&b); err != nil {
			t.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(&b)
		if err != nil {
			t.Fatal(err)
		}
		return schema.Validate(doc)
	}
	withRules, err := New(ruled(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []*Plan{withRules, mustPlan(t, Options{}), mustPlan(t, Options{PeakNew: 50_000, Owners: claims{KeyMax: {{Who: "ufw", Where: "x"}}}})} {
		if err := validate(p); err != nil {
			t.Error(err)
		}
	}
	p := mustPlan(t, Options{})
	p.Items[0].Key = "kernel.core_pattern"
	if validate(p) == nil {
		t.Error("the schema accepts any key")
	}
}

func mustPlan(t *testing.T, o Options) *Plan {
	t.Helper()
	p, err := New(churning(), o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
