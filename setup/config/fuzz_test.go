package config

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzLoad loads arbitrary text as dendrite.yaml. Accepted values must be within their bounds.
func FuzzLoad(f *testing.F) {
	for _, text := range []string{
		"future_server:\n  max_timeout: 49d\n  rate_limits:\n    token:\n      per_second: 1\n", "future_server: &a\n  enabled: *a\n",
		"federation_api:\n  allow_networks: [127.0.0.0/8, ::1/128]\n", "- 1\n", "future_server:\n  retention: -1h\n",
	} {
		f.Add([]byte(text))
	}
	path := filepath.Join(f.TempDir(), "dendrite.yaml")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		c, _, err := Load(path)
		if err != nil {
			return
		}
		if c.MaxTimeout < shortestTimeout || c.MaxTimeout > longestTimeout || c.Retention < shortestRetention || c.Retention > longestRetention ||
			c.RestartGrace < 0 || c.RestartGrace > longestGrace || c.MaxFuturesPerUser < 1 || c.HighWaterSlack < shortestSlack {
			t.Errorf("accepted: %+v", c)
		}
	})
}
