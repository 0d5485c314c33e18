package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

const (
	path     = "/_dendrite/admin/futures"
	pageSize = 1000 // futures in one answer
	patience = time.Minute
)

// client calls the admin API.
type client struct {
	server string
	token  func() (string, error)
	out    io.Writer
}

// future is a future in an answer of the API.
type future struct {
	ID       int64   `json:"id"`
	Kind     string  `json:"kind"`
	State    string  `json:"state"`
	User     string  `json:"user_id"`
	Room     string  `json:"room_id"`
	Type     string  `json:"type"`
	StateKey *string `json:"state_key"`
	Timeout  int64   `json:"timeout_ms"`
	Deadline int64   `json:"deadline_ts"`
	Created  int64   `json:"created_ts"`
	Finished int64   `json:"finished_ts"`
	EventID  string  `json:"event_id"`
	Reason   string  `json:"reason"`
	Error    string  `json:"error"`
}

// page is one answer.
type page struct {
	Futures []future
	Next    int64
}

func (c *client) futures(ctx context.Context, query url.Values) (p page, err error) {
	err = c.do(ctx, http.MethodGet, query, &p)
	return p, err
}

func (c *client) do(ctx context.Context, method string, query url.Values, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, c.server+path+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	token, err := c.token()
	if err != nil {
		return err
	}
	c.token = func() (string, error) { return token, nil }
	req.Header.Set("Authorization", "Bearer "+token)
	// The token is for this server only, so redirects are not followed.
	follow := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := (&http.Client{CheckRedirect: follow}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return refusal(resp)
	}
	if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
		return fmt.Errorf("the server's answer cannot be read: %w", err)
	}
	return nil
}

// refusal turns a status of the server into an error text.
func refusal(resp *http.Response) error {
	var matrix struct{ Errcode, Error string }
	switch err := json.NewDecoder(resp.Body).Decode(&matrix); {
	case err != nil || matrix.Errcode == "" || matrix.Errcode == "M_UNRECOGNIZED":
		return fmt.Errorf("the server answers %s; is -url right?", resp.Status)
	case resp.StatusCode == http.StatusUnauthorized:
		return fmt.Errorf("the server does not know the access token (%s)", matrix.Errcode)
	case resp.StatusCode == http.StatusForbidden:
		return errors.New("the access token is not an administrator's")
	}
	return fmt.Errorf("%s (%s)", matrix.Error, matrix.Errcode)
}
