package clientapi

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/http"

	"github.com/gorilla/mux"
)

// extended marks a request that extend has passed to the router a second time.
type extended struct{}

// extend adds members to the object called key in the router's answer to GET path.
func extend(router *mux.Router, path, key string, members map[string]any) {
	again := func(req *http.Request, _ *mux.RouteMatch) bool { return req.Context().Value(extended{}) == nil }
	router.HandleFunc(path, func(w http.ResponseWriter, req *http.Request) {
		answer := &heldResponse{ResponseWriter: w, code: http.StatusOK}
		router.ServeHTTP(answer, req.WithContext(context.WithValue(req.Context(), extended{}, true)))
		body := answer.body.Bytes()
		if answer.code == http.StatusOK {
			body = withMembers(body, key, members)
		}
		w.WriteHeader(answer.code)
		w.Write(body)
	}).Methods(http.MethodGet, http.MethodOptions).MatcherFunc(again)
}

// withMembers returns the JSON object with members added to its object called key. If body is no JSON object, it is
// returned unchanged.
func withMembers(body []byte, key string, members map[string]any) []byte {
	var whole map[string]json.RawMessage
	part := map[string]any{}
	if json.Unmarshal(body, &whole) != nil || json.Unmarshal(whole[key], &part) != nil {
		return body
	}
	maps.Copy(part, members)
	encoded, err := json.Marshal(part)
	if err != nil {
		return body
	}
	whole[key] = encoded
	if encoded, err = json.Marshal(whole); err != nil {
		return body
	}
	return encoded
}

// heldResponse holds back status and body. Headers pass through.
type heldResponse struct {
	http.ResponseWriter
	code int
	body bytes.Buffer
}

func (r *heldResponse) WriteHeader(code int)        { r.code = code }
func (r *heldResponse) Write(b []byte) (int, error) { return r.body.Write(b) }
