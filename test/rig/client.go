package rig

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/tidwall/gjson"
)

// Client is a client of the client-server API of one server. It does not depend on a test, and is safe for concurrent
// use.
type Client struct {
	URL   string // of the server, without a trailing slash
	Token string // access token; "" for requests without a login
	HTTP  *http.Client
}

// Response is the answer to a request.
type Response struct {
	Status int
	Header http.Header
	JSON   gjson.Result // the parsed body; the zero value if the body is no JSON
	Body   []byte
}

// ErrCode returns the response's Matrix error code, or "".
func (r Response) ErrCode() string { return r.JSON.Get("errcode").String() }

// Do sends one request. query and body may be nil. A body that is neither string, []byte nor json.RawMessage is encoded
// as JSON. An error means that there was no complete response, so it is unknown what the server has done.
func (c *Client) Do(ctx context.Context, method, path string, query url.Values, body any) (Response, error) {
	target := c.URL + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	reader, err := encode(body)
	if err != nil {
		return Response{}, err
	}
	req, err := http.NewRequestWithContext(ctx, method, target, reader)
	if err != nil {
		return Response{}, err
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return Response{}, err
	}
	defer resp.Body.Close()
	r := Response{Status: resp.StatusCode, Header: resp.Header}
	if r.Body, err = io.ReadAll(resp.Body); err != nil {
		return Response{}, err
	}
	if gjson.ValidBytes(r.Body) {
		r.JSON = gjson.ParseBytes(r.Body)
	}
	return r, nil
}

func encode(body any) (io.Reader, error) {
	switch b := body.(type) {
	case nil:
		return http.NoBody, nil
	case string:
		return strings.NewReader(b), nil
	case []byte:
		return bytes.NewReader(b), nil
	case json.RawMessage:
		return bytes.NewReader(b), nil
	}
	data, err := json.Marshal(body)
	return bytes.NewReader(data), err
}

// Register creates an account with the server's registration shared secret and logs the client in.
func (c *Client) Register(ctx context.Context, secret, name, password string, admin bool) (Response, error) {
	const path = "/_synapse/admin/v1/register"
	r, err := c.Do(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return r, err
	}
	nonce, role := r.JSON.Get("nonce").String(), "notadmin"
	if admin {
		role = "admin"
	}
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write([]byte(strings.Join([]string{nonce, name, password, role}, "\x00")))
	r, err = c.Do(ctx, http.MethodPost, path, nil, map[string]any{
		"nonce": nonce, "username": name, "password": password, "admin": admin, "mac": hex.EncodeToString(mac.Sum(nil)),
	})
	c.Token = r.JSON.Get("access_token").String()
	return r, err
}

// Path joins escaped segments to a path under /_matrix/client/v3.
func Path(segments ...string) string {
	path := "/_matrix/client/v3"
	for _, s := range segments {
		path += "/" + url.PathEscape(s)
	}
	return path
}

// Timeline reads all events of the room that the user may see, oldest first. Dendrite's pages overlap, so repeated
// events are skipped.
func (c *Client) Timeline(ctx context.Context, room string) ([]gjson.Result, error) {
	var events []gjson.Result
	seen := make(map[string]bool)
	// The start must be named, because Dendrite v0.13.8 does not find it by itself.
	query := url.Values{"dir": {"f"}, "limit": {"500"}, "from": {"t0_0"}}
	for {
		r, err := c.Do(ctx, http.MethodGet, Path("rooms", room, "messages"), query, nil)
		if err != nil {
			return nil, err
		}
		if r.Status != http.StatusOK {
			return nil, fmt.Errorf("reading the timeline: %d %s", r.Status, r.Body)
		}
		chunk := r.JSON.Get("chunk").Array()
		for _, event := range chunk {
			if id := event.Get("event_id").String(); !seen[id] {
				seen[id] = true
				events = append(events, event)
			}
		}
		end := r.JSON.Get("end").String()
		if len(chunk) == 0 || end == "" || end == query.Get("from") {
			return events, nil
		}
		query.Set("from", end)
	}
}

// Watch calls each for the events of the room that the user sees: the last hundred, then every new one, until each
// returns true or the context ends.
func (c *Client) Watch(ctx context.Context, room string, each func(event gjson.Result) bool) error {
	filter, err := json.Marshal(map[string]any{
		"room":     map[string]any{"rooms": []string{room}, "timeline": map[string]any{"limit": 100}},
		"presence": map[string]any{"limit": 0},
	})
	if err != nil {
		return err
	}
	query := url.Values{"filter": {string(filter)}, "timeout": {"0"}}
	for {
		r, err := c.Do(ctx, http.MethodGet, Path("sync"), query, nil)
		if err != nil {
			return err
		}
		if r.Status != http.StatusOK {
			return fmt.Errorf("sync: %d %s", r.Status, r.Body)
		}
		timeline := r.JSON.Get("rooms.join." + gjson.Escape(room) + ".timeline.events")
		for _, event := range timeline.Array() {
			if each(event) {
				return nil
			}
		}
		query.Set("since", r.JSON.Get("next_batch").String())
		query.Set("timeout", "30000")
	}
}
