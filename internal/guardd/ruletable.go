package guardd

import "github.com/ctwarden/ctwarden/internal/kernel/guardtable"

// openRules opens our table of nftables in a namespace.
func openRules(ref string) (ruleTable, error) {
	t, err := guardtable.Open(ref)
	if err != nil {
		return nil, err
	}
	return t, nil
}
