package guard

import "fmt"

// outcome says in words what became of an action.
func outcome(res *Result) string {
	a := &res.Action
	switch {
	case res.Err != nil:
		return "failed: " + res.Err.Error()
	case res.Foreign:
		return "left alone: somebody else has written it"
	case a.Kind == KindMax || a.Kind == KindBuckets:
		return fmt.Sprintf("%d stands now", res.Got)
	case a.Kind == KindThin && a.Undo:
		return fmt.Sprintf("%d entries have their timeouts back", res.Changed)
	case a.Kind == KindThin && a.Thin.Over:
		return fmt.Sprintf("%d entries go", res.Changed)
	case a.Kind == KindThin:
		return fmt.Sprintf("%d of %d chosen were silent and got %d s; %d came back to life, %d went; %d were protected",
			res.Changed, res.Selected, a.Thin.Seconds, res.Survived, max(res.Changed-res.Survived, 0), res.Spared)
	}
	return "done"
}
