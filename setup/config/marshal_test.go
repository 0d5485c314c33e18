package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/setup/config"
	yaml2 "gopkg.in/yaml.v2"
)

func TestMarshalIsReadBack(t *testing.T) {
	var d config.Dendrite
	d.Defaults(config.DefaultOpts{Generate: true, SingleDatabase: true})
	d.Global.ServerName = "example.com"
	var f FutureServer
	f.Defaults()
	for _, c := range []struct {
		change func()
		n      Networks
	}{
		{func() {}, Networks{Deny: PrivateNetworks()}},
		{func() { f.MaxTimeout, f.SQLiteWAL, f.Database.ConnectionString = Day, true, "file:x.db" },
			Networks{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Deny: []netip.Prefix{}}},
	} {
		c.change()
		data, err := Marshal(&d, &f, c.n)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "dendrite.yaml")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		gotF, gotN, err := Load(path)
		if err != nil {
			t.Fatalf("%v\n%s", err, data)
		}
		if f.TrustedProxies = gotF.TrustedProxies; len(f.TrustedProxies) > 0 || !reflect.DeepEqual(*gotF, f) {
			t.Errorf("got %+v, want %+v", *gotF, f)
		}
		if !reflect.DeepEqual(gotN, c.n) {
			t.Errorf("got %v, want %v", gotN, c.n)
		}
		var gotD config.Dendrite
		if err := yaml2.Unmarshal(data, &gotD); err != nil || gotD.Global.ServerName != "example.com" || gotD.Global.KeyValidityPeriod != d.Global.KeyValidityPeriod {
			t.Errorf("Dendrite reads %+v, %v", gotD.Global, err)
		}
	}
}

func TestDurationsAreForPeople(t *testing.T) {
	var d config.Dendrite
	d.Defaults(config.DefaultOpts{Generate: true, SingleDatabase: true})
	var f FutureServer
	f.Defaults()
	f.MaxTimeout, f.DelayedEvents.MaxDelay, f.RestartGrace, f.Retention = 49*Day, Day+90*time.Minute, 0, 2*week
	f.MatrixRTC.WellKnownExtra = map[string]any{"org.example": "168h0m0s"}
	data, err := Marshal(&d, &f, Networks{Deny: PrivateNetworks()})
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"max_timeout: 49d", "max_delay: 1d1h30m", "restart_grace: 0s", "retention: 14d", "unhealthy_after: 30s", "org.example: 168h0m0s",
	} {
		if !strings.Contains(string(data), line+"\n") {
			t.Errorf("no %q in\n%s", line, data)
		}
	}
}
