package rtc_test

import (
	"testing"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// TestClientNeeds follows sections 5 to 7 of what clients need of a homeserver for calls.
func TestClientNeeds(t *testing.T) {
	s := rig.New(t, rig.Config{Set: map[string]any{"user_api.push_gateway_disable_tls_validation": true}})
	t.Run("5.4 rules", func(t *testing.T) { testRules(t, s) })
	t.Run("5.5 ringing", func(t *testing.T) { testRinging(t, s) })
	t.Run("5.3 accounts from before", func(t *testing.T) { testStoredRules(t, s) }) // restarts the server
}
