package nft

import (
	"context"
	"strings"
)

// Attributes of a hook, enum nfnl_hook_attributes.
const (
	hookGet      = 0 // NFNL_MSG_HOOK_GET
	hookNum      = 1
	hookFunction = 4
)

// readHooks tells whether tracking is hooked into packets that come in or are
// made here (NFNL_SUBSYS_HOOK, 5.14 and later where it is built).
func readHooks(ctx context.Context) (tracking bool, err error) {
	s, err := dial()
	if err != nil {
		return false, err
	}
	defer s.close()
	const preRouting, localOut = 0, 3
	for _, family := range []uint8{family4, family6} {
		for _, hook := range []uint32{preRouting, localOut} {
			found := false
			err := s.dump(ctx, subsysHook, hookGet, family, appendU32(nil, hookNum, hook),
				func() { found = false },
				func(_ uint8, a attrs) { found = found || isTrackingHook(a.text(hookFunction)) })
			if err != nil {
				return false, err
			}
			tracking = tracking || found
		}
	}
	return tracking, nil
}

// isTrackingHook knows ipv4_conntrack_in, ipv6_conntrack_local and the like.
func isTrackingHook(function string) bool {
	return strings.HasPrefix(function, "ipv4_conntrack_") || strings.HasPrefix(function, "ipv6_conntrack_")
}
