package rtc

import (
	"encoding/json"
	"maps"
	"net/http"

	"github.com/gorilla/mux"
	"github.com/matrix-org/dendrite/internal/httputil"
	"github.com/matrix-org/util"
	"github.com/sirupsen/logrus"
)

// keyFoci is where clients looked for SFUs before there was an endpoint for it.
const keyFoci = "org.matrix.msc4143.rtc_foci"

// addWellKnown answers /.well-known/matrix/client with more than Dendrite would. If there is no more, it leaves the
// answer to Dendrite.
func (s *Service) addWellKnown(wellKnown *mux.Router) {
	members := s.wellKnown()
	if members == nil {
		return
	}
	handler := httputil.MakeExternalAPI("wellknown", func(*http.Request) util.JSONResponse {
		return util.JSONResponse{Code: http.StatusOK, JSON: members}
	})
	wellKnown.Handle("/client", handler).Methods(get, options)
	if text, err := json.MarshalIndent(members, "", "  "); err == nil {
		logrus.Infof("If another web server answers for https://%s, let its /.well-known/matrix/client say:\n%s",
			s.Dendrite.Global.ServerName, text)
	}
}

// wellKnown returns the answer, nil if it would be Dendrite's own.
func (s *Service) wellKnown() map[string]any {
	members := map[string]any{}
	if s.Config.Enabled {
		if foci := s.Config.Foci(); len(foci) > 0 {
			members[keyFoci] = foci
		}
		maps.Copy(members, s.Config.WellKnownExtra)
	}
	global := &s.Dendrite.Global
	if len(members) == 0 {
		return nil
	}
	if global.WellKnownClientName == "" { // without m.homeserver the file is no answer at all
		logrus.Warn("/.well-known/matrix/client is not served: global.well_known_client_name is not set")
		return nil
	}
	members["m.homeserver"] = map[string]any{"base_url": global.WellKnownClientName}
	if proxy := global.WellKnownSlidingSyncProxy; proxy != "" {
		members["org.matrix.msc3575.proxy"] = map[string]any{"url": proxy}
	}
	return members
}
