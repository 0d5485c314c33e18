package config

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const oneSFU = `
global: {well_known_client_name: "https://example.com/"}
future_server:
  matrix_rtc:
    livekit:
    - {url: "wss://rtc.example.com/", api_key: K, api_secret: S}
`

func announced(t *testing.T, list []map[string]any) string {
	t.Helper()
	text, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestAnnounced: the transports for each configuration. A transport of type m.livekit promises delegated leaves.
func TestAnnounced(t *testing.T) {
	section := func(s string) string { return "future_server:\n  matrix_rtc:\n    " + s + "\n" }
	const (
		elsewhere = `transports: [{type: livekit, livekit_service_url: "https://jwt.example.org"}]`
		ours      = `{"type":"m.livekit","url":"wss://rtc.example.com"}`
		legacy    = `{"livekit_service_url":"https://example.com/_matrix/livekit/jwt","type":"livekit"}`
		theirs    = `{"livekit_service_url":"https://jwt.example.org","type":"livekit"}`
	)
	with := func(more string) string { return strings.Replace(oneSFU, "livekit:", more+"\n    livekit:", 1) }
	for name, c := range map[string]struct {
		yaml, want string
		delegates  bool
	}{
		"nothing":           {"", `null`, false},
		"3.5 an empty list": {section("transports: []"), `null`, false},
		"switched off":      {section("enabled: false\n    transports: [{type: x}]"), `null`, false},
		"2.7 our own":       {oneSFU, `[` + ours + `,` + legacy + `]`, true},
		"no legacy API":     {strings.Replace(oneSFU, "S}", `S, service_url: ""}`, 1), `[` + ours + `]`, true},
		"2.4 verbatim": {section(`transports: [{type: x, n: {a: [1]}}, {type: livekit, livekit_service_url: "https://h/", url: "wss://h"}]`),
			`[{"n":{"a":[1]},"type":"x"},{"livekit_service_url":"https://h/","type":"livekit","url":"wss://h"}]`, false},
		"7.2 the operator's own element wins": {with(`transports: [{type: m.livekit, url: "wss://rtc.example.com", x: 1}]`),
			`[{"type":"m.livekit","url":"wss://rtc.example.com","x":1},` + legacy + `]`, true},
		"several": {oneSFU + `    - {url: "ws://127.0.0.1:1", api_key: K, api_secret: S}`,
			`[` + ours + `,` + legacy + `,{"type":"m.livekit","url":"ws://127.0.0.1:1"},` +
				`{"livekit_service_url":"https://example.com/_matrix/livekit/jwt/2","type":"livekit"}]`, true},
		"8.1 a service of somebody else": {with(elsewhere), `[` + theirs + `,` + legacy + `]`, false},
		"8.1 a service that is trusted":  {with("trusted_delegation: true\n    " + elsewhere), `[` + theirs + `,` + ours + `,` + legacy + `]`, true},
		"8.1 our service, named by the operator": {
			with(`transports: [{type: livekit, livekit_service_url: "https://example.com/_matrix/livekit/jwt/"}]`),
			`[{"livekit_service_url":"https://example.com/_matrix/livekit/jwt/","type":"livekit"},` + ours + `,` + legacy + `]`, true},
	} {
		t.Run(name, func(t *testing.T) {
			f, _, err := load(t, c.yaml)
			if err != nil {
				t.Fatal(err)
			}
			list := f.MatrixRTC.Announced()
			if got := announced(t, list); got != c.want || f.MatrixRTC.Delegates() != c.delegates {
				t.Errorf("delegates %v:\n got %s\nwant %s", f.MatrixRTC.Delegates(), got, c.want)
			}
			for _, transport := range list { // 2.6: today's clients would reject the whole answer otherwise
				if transport["type"] == "livekit" && transport["livekit_service_url"] == nil {
					t.Errorf("%v has no livekit_service_url", transport)
				}
			}
		})
	}
}

func TestFoci(t *testing.T) {
	for yaml, want := range map[string]string{
		oneSFU: `[{"livekit_service_url":"https://example.com/_matrix/livekit/jwt","type":"livekit"}]`,
		strings.Replace(oneSFU, "livekit:", "well_known: false\n    livekit:", 1):                 `null`,
		`future_server: {matrix_rtc: {transports: [{type: livekit, url: "wss://h"}, {type: x}]}}`: `null`,
	} {
		f, _, err := load(t, yaml)
		if err != nil {
			t.Fatal(err)
		}
		if got := announced(t, f.MatrixRTC.Foci()); got != want {
			t.Errorf("%s:\n got %s\nwant %s", yaml, got, want)
		}
	}
}

func TestLiveKitSettings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, _, err := load(t, `
future_server:
  matrix_rtc:
    public: true
    well_known_extra: {org.example: {a: 1}}
    livekit:
    - url: wss://a.example
      api_url: http://127.0.0.1:7880/
      api_key: K
      api_secret_file: "`+file+`"
      service_url: https://a.example/jwt/
      remote_publish: [b.example]
    - {url: wss://b.example, api_key: K, api_secret: S, service_url: "", remote_publish: no}
`)
	if err != nil {
		t.Fatal(err)
	}
	a, b := f.MatrixRTC.LiveKit[0], f.MatrixRTC.LiveKit[1]
	if a.APISecret != "from a file" || a.APIURL != "http://127.0.0.1:7880" || a.ServiceURL != "https://a.example/jwt" || b.ServiceURL != "" {
		t.Errorf("%+v %+v", a, b)
	}
	if !a.RemotePublish.Allows("b.example") || a.RemotePublish.Allows("c.example") || b.RemotePublish.Allows("b.example") {
		t.Errorf("remote_publish %+v %+v", a.RemotePublish, b.RemotePublish)
	}
	if !f.MatrixRTC.Public || f.MatrixRTC.WellKnownExtra["org.example"] == nil || !f.MatrixRTC.Issues() {
		t.Errorf("%+v", f.MatrixRTC)
	}
}

func TestMatrixRTCNamesKeyAndLine(t *testing.T) {
	const head = "future_server:\n  matrix_rtc:\n    "
	sfu := func(more string) string { return head + "livekit:\n    - {" + more + "}" }
	for _, c := range []struct{ yaml, want string }{
		{head + "transports: {}", "line 3: future_server.matrix_rtc.transports: should be a list"},
		{head + "transports:\n    - x", "line 4: future_server.matrix_rtc.transports[0]: should hold keys and values"},
		{head + "transports:\n    - {a: b}", "line 4: future_server.matrix_rtc.transports[0].type: is missing"},
		{head + "transports:\n    - {type: 1}", "line 4: future_server.matrix_rtc.transports[0].type: is missing"},
		{head + "transports:\n    - {type: livekit}", "line 4: future_server.matrix_rtc.transports[0]: has no url and no livekit_service_url"},
		{head + "transports:\n    - {type: m.livekit}", "line 4: future_server.matrix_rtc.transports[0]: has no url"},
		{head + "transports:\n    - {type: livekit, url: \"https://h\"}", "line 4: future_server.matrix_rtc.transports[0].url: \"https://h\" is no URL as in wss://"},
		{head + "transports:\n    - {type: livekit, livekit_service_url: [h]}", "line 4: future_server.matrix_rtc.transports[0].livekit_service_url: should be a single value"},
		{head + "well_known_extra: 1", "line 3: future_server.matrix_rtc.well_known_extra: should hold keys and values"},
		{head + "livekit: {}", "line 3: future_server.matrix_rtc.livekit: should be a list"},
		{sfu(`api_key: K, api_secret: S, service_url: ""`), "line 4: future_server.matrix_rtc.livekit[0].url: is missing"},
		{sfu(`url: "wss://h", api_secret: S, service_url: ""`), "line 4: future_server.matrix_rtc.livekit[0].api_key: is missing"},
		{sfu(`url: "wss://h", api_key: K, service_url: ""`), "line 4: future_server.matrix_rtc.livekit[0].api_secret: is missing"},
		{sfu(`url: "wss://h", api_key: K, api_secret_file: /nowhere, service_url: ""`), "line 4: future_server.matrix_rtc.livekit[0].api_secret_file: open /nowhere"},
		{sfu(`url: "wss://h", api_key: K, api_secret: S`), "line 4: future_server.matrix_rtc.livekit[0].service_url: is missing: say where"},
		{sfu(`url: "wss://h", api_key: K, api_secret: S, remote_publish: {}`), "line 4: future_server.matrix_rtc.livekit[0].remote_publish: should be true, false or a list"},
		{sfu(`url: "wss://h", secret: S`), "line 4: future_server.matrix_rtc.livekit[0].secret: unknown key"},
		{oneSFU + `    - {url: "wss://rtc.example.com", api_key: K, api_secret: S}`, `line 7: future_server.matrix_rtc.livekit[1].url: "wss://rtc.example.com" stands here twice`},
	} {
		_, _, err := load(t, c.yaml)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\n got %v\nwant %s", c.yaml, err, c.want)
		}
	}
}
