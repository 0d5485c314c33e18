package gen2

import (
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// TestLogout: once a device's logout is answered, its token cannot send heartbeats, for all ways in which Dendrite ends
// sessions. Before that it can, many times.
func TestLogout(t *testing.T) {
	server, users := rig.New(t, rig.Config{}), new(atomic.Int64)
	admin := server.RegisterAdmin(t, "admin")
	const password = "a long password"
	auth := func(u *rig.User) map[string]any {
		return map[string]any{
			"type": "m.login.password", "user": u.ID, "password": password, "session": "s",
			"identifier": map[string]any{"type": "m.id.user", "user": u.ID},
		}
	}
	for name, end := range map[string]func(s *rig.Scene, other *rig.User) rig.Response{
		"logout": func(s *rig.Scene, _ *rig.User) rig.Response {
			return s.Alice.Do(http.MethodPost, rig.Path("logout"), nil, map[string]any{})
		},
		"logout of all": func(_ *rig.Scene, other *rig.User) rig.Response {
			return other.Do(http.MethodPost, rig.Path("logout", "all"), nil, map[string]any{})
		},
		"deletion": func(s *rig.Scene, other *rig.User) rig.Response {
			return other.Do(http.MethodDelete, rig.Path("devices", s.Alice.DeviceID), nil, map[string]any{"auth": auth(other)})
		},
		"deletion of several": func(s *rig.Scene, other *rig.User) rig.Response {
			return other.Do(http.MethodPost, rig.Path("delete_devices"), nil, map[string]any{"auth": auth(other), "devices": []string{s.Alice.DeviceID}})
		},
		"change of password": func(_ *rig.Scene, other *rig.User) rig.Response {
			return other.Do(http.MethodPost, rig.Path("account", "password"), nil,
				map[string]any{"auth": auth(other), "new_password": "another password", "logout_devices": true})
		},
		"password reset": func(s *rig.Scene, _ *rig.User) rig.Response {
			return admin.Do(http.MethodPost, "/_dendrite/admin/resetPassword/"+url.PathEscape(s.Alice.ID), nil,
				map[string]any{"password": "another password", "logout_devices": true})
		},
		"deactivation": func(_ *rig.Scene, other *rig.User) rig.Response {
			return other.Do(http.MethodPost, rig.Path("account", "deactivate"), nil, map[string]any{"auth": auth(other)})
		},
		"login with the same device": func(s *rig.Scene, other *rig.User) rig.Response {
			return other.Do(http.MethodPost, rig.Path("login"), nil, map[string]any{
				"type": "m.login.password", "password": password, "device_id": s.Alice.DeviceID,
				"identifier": map[string]any{"type": "m.id.user", "user": s.Alice.ID},
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := rig.NewScene(t, server, users)
			other := server.Login(t, s.Alice)
			id := s.State("test", "", "later", time.Hour)
			beat := func() rig.Response {
				return s.Alice.Do(http.MethodPost, rig.StableDelayed+"/"+id+"/restart", nil, map[string]any{})
			}
			for range 3 {
				s.Wants(beat(), http.StatusOK, "")
			}
			s.Wants(end(s, other), http.StatusOK, "")
			s.Wants(beat(), http.StatusUnauthorized, "M_UNKNOWN_TOKEN")
		})
	}
}
