package front

import (
	"bytes"
	"encoding/json"
	"image"
	"image/color"
	"image/png"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// Device keys that the specification does not allow are neither stored nor passed on.
func TestDeviceKeys(t *testing.T) {
	server := rig.New(t, rig.Config{})
	alice, bob := server.Register(t, "alice"), server.Register(t, "bob")
	type object = map[string]any
	good := object{
		"user_id": alice.ID, "device_id": alice.DeviceID, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2"},
		"keys":       object{"ed25519:" + alice.DeviceID: "x", "curve25519:" + alice.DeviceID: "y"},
		"signatures": object{alice.ID: object{"ed25519:" + alice.DeviceID: "z"}},
	}
	upload := func(keys any) rig.Response {
		return alice.Do(http.MethodPost, rig.Path("keys", "upload"), nil, object{"device_keys": keys})
	}
	for name, change := range map[string]object{
		"no algorithms":           {"algorithms": nil},
		"algorithms a string":     {"algorithms": "x"},
		"algorithms numbers":      {"algorithms": []int{1}},
		"algorithms null":         {"algorithms": []any{nil}},
		"no keys":                 {"keys": nil},
		"keys a list":             {"keys": []int{}},
		"a key an object":         {"keys": object{"ed25519:x": object{"a": 1}}},
		"a key null":              {"keys": object{"ed25519:x": nil}},
		"no signatures":           {"signatures": nil},
		"signatures a number":     {"signatures": 7},
		"a user's signatures 5":   {"signatures": object{alice.ID: 5}},
		"a user's signatures nil": {"signatures": object{alice.ID: nil}},
		"a signature a number":    {"signatures": object{alice.ID: object{"ed25519:x": 5}}},
		"somebody else's":         {"user_id": bob.ID},
		"another device's":        {"device_id": "X"},
		"a device's number":       {"device_id": 1},
	} {
		keys := maps.Clone(good)
		maps.Copy(keys, change)
		if r := upload(keys); r.Status != http.StatusBadRequest || r.ErrCode() != "M_BAD_JSON" {
			t.Errorf("%s: %d %s", name, r.Status, r.Body)
		}
	}
	for _, keys := range []any{"x", 1, []int{}, object{}} {
		if r := upload(keys); r.Status != http.StatusBadRequest || r.ErrCode() != "M_BAD_JSON" {
			t.Errorf("%v: %d %s", keys, r.Status, r.Body)
		}
	}
	for _, keys := range []any{nil, good} {
		if r := upload(keys); r.Status != http.StatusOK {
			t.Errorf("%v: %d %s", keys, r.Status, r.Body)
		}
	}
	r := bob.Do(http.MethodPost, rig.Path("keys", "query"), nil, object{"device_keys": object{alice.ID: []string{}}})
	want, err := json.Marshal(good["keys"])
	if err != nil {
		t.Fatal(err)
	}
	if len(r.JSON.Get("device_keys."+escape(alice.ID)).Map()) != 1 || !strings.Contains(strings.ReplaceAll(string(r.Body), " ", ""), string(want)) {
		t.Errorf("served: %s", r.Body)
	}
}

func escape(key string) string { return strings.ReplaceAll(key, ".", `\.`) }

func TestOpenIDTokenSaysHowLong(t *testing.T) {
	server := rig.New(t, rig.Config{})
	alice := server.Register(t, "alice")
	r := alice.Do(http.MethodPost, rig.Path("user", alice.ID, "openid", "request_token"), nil, map[string]any{})
	if got := r.JSON.Get("expires_in").Int(); got < 3500 || got > 3600 {
		t.Errorf("%s", r.Body)
	}
}

// If a pusher or a gateway's redirect leads to this network, the server connects only if the operator allows it.
func TestPushGatewaysOfThisNetwork(t *testing.T) {
	var calls atomic.Int64
	called := make(chan struct{}, 100)
	gateway := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		called <- struct{}{}
		w.Write([]byte(`{"rejected":[]}`)) //nolint:errcheck // the client may be gone
	}))
	defer gateway.Close()
	notify := func(networks []any) (log string) {
		server := rig.New(t, rig.Config{Set: map[string]any{
			"federation_api.allow_networks": networks, "user_api.push_gateway_disable_tls_validation": true,
		}})
		alice, bob := server.Register(t, "alice"), server.Register(t, "bob")
		room := alice.CreateRoom(nil)
		bob.Join(room)
		r := bob.Do(http.MethodPost, rig.Path("pushers", "set"), nil, map[string]any{
			"app_id": "a", "pushkey": "k", "kind": "http", "app_display_name": "a", "device_display_name": "d", "lang": "en",
			"data": map[string]any{"url": gateway.URL + "/_matrix/push/v1/notify"},
		})
		if r.Status != http.StatusOK {
			t.Fatalf("%d %s", r.Status, r.Body)
		}
		alice.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "hello bob"})
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
			select {
			case <-called:
				return server.Log()
			case <-time.After(50 * time.Millisecond):
			}
			if log = server.Log(); strings.Contains(log, "deny_networks denies") {
				return log
			}
		}
		t.Fatal("nobody was notified, and nothing refused")
		return ""
	}
	if notify([]any{}); calls.Load() > 0 {
		t.Error("the gateway was called")
	}
	if notify([]any{"127.0.0.0/8"}); calls.Load() == 0 {
		t.Error("the gateway was not called although its network is allowed")
	}
}

// A quick start creates thumbnails.
func TestThumbnails(t *testing.T) {
	picture := image.NewRGBA(image.Rect(0, 0, 800, 600))
	for i := range 800 * 600 {
		picture.Set(i%800, i/800, color.RGBA{uint8(rand.Uint32()), uint8(i), uint8(i / 800), 255})
	}
	var original bytes.Buffer
	if err := png.Encode(&original, picture); err != nil {
		t.Fatal(err)
	}
	server := rig.New(t, rig.Config{})
	alice := server.Register(t, "alice")
	r := alice.Do(http.MethodPost, "/_matrix/media/v3/upload", nil, original.Bytes())
	media := strings.TrimPrefix(r.JSON.Get("content_uri").String(), "mxc://")
	small := url.Values{"width": {"96"}, "height": {"96"}, "method": {"crop"}}
	r = alice.Do(http.MethodGet, "/_matrix/client/v1/media/thumbnail/"+media, small, nil)
	got, _, err := image.DecodeConfig(bytes.NewReader(r.Body))
	if r.Status != http.StatusOK || err != nil || got.Width != 96 || got.Height != 96 {
		t.Errorf("%d, %d bytes of %d, %dx%d, %v", r.Status, len(r.Body), original.Len(), got.Width, got.Height, err)
	}
}

// Pages of all origins may read authenticated media, and the errors.
func TestMediaAreForBrowsersToo(t *testing.T) {
	server := rig.New(t, rig.Config{})
	alice := server.Register(t, "alice")
	r := alice.Do(http.MethodPost, "/_matrix/media/v3/upload", nil, "text")
	path := "/_matrix/client/v1/media/download/" + strings.TrimPrefix(r.JSON.Get("content_uri").String(), "mxc://")
	nobody := server.Client()
	refused, err := nobody.Do(t.Context(), http.MethodGet, path, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	served := alice.Do(http.MethodGet, path, nil, nil)
	if served.Status != http.StatusOK || refused.Status != http.StatusUnauthorized {
		t.Errorf("%d and %d", served.Status, refused.Status)
	}
	for _, r := range []rig.Response{served, refused} {
		if r.Header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%d: %v", r.Status, r.Header)
		}
	}
	if got := refused.Header.Get("Content-Type"); !strings.HasPrefix(got, "application/json") {
		t.Errorf("the refusal is %s", got)
	}
}
