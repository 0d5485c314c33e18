package interop_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// TestUnauthorizedAfar: Synapse answers 401 to a server whose signatures are wrong. Our client must not get the 401,
// because it would log out.
func TestUnauthorizedAfar(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	s := newScene(t, p, "10", "synapse")
	owner, guest, _ := s.meet(nil)
	room := s.create(owner, nil)

	p.ours.Stop()
	forgeKey(t, filepath.Join(p.ours.Dir, "matrix_key.pem"))
	p.ours.Start()
	for what, r := range map[string]rig.Response{
		"joining a room":      s.tryJoin(guest, room, s.home),
		"looking up an alias": guest.Do(http.MethodGet, rig.Path("directory", "room", "#nowhere:"+s.home.server), nil, nil),
		"a profile":           guest.Do(http.MethodGet, rig.Path("profile", owner.ID), nil, nil),
	} {
		text := r.JSON.Get("error").String()
		if r.Status < 400 || r.Status == http.StatusUnauthorized || text == "" || numbers.MatchString(text) {
			t.Errorf("%s is answered %d %s", what, r.Status, r.Body)
		}
	}
	if r := guest.Do(http.MethodGet, rig.Path("account", "whoami"), nil, nil); r.Status != http.StatusOK {
		t.Errorf("the guest's token is answered %d %s", r.Status, r.Body)
	}
}

// forgeKey replaces the signing key by another with the same name.
func forgeKey(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	if block == nil || len(block.Bytes) != ed25519.SeedSize {
		t.Fatalf("%s is no signing key", path)
	}
	rand.Read(block.Bytes) //nolint:errcheck // it never fails
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
}
